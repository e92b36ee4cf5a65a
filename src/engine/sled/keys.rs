//! The keys and values of the one sled tree. Integers are big-endian in keys, little-endian in values.
//!
//! ```text
//! "r" id             → 00 record                      of a profile without an e-mail, or
//!                      01 index key | crc u32         where in the index the record is
//! "i" entry          → record                         (entry: index key 00 id)
//! "d" domain key     → own count u64 | subtree count u64 | crc u32
//! "m"                → applied sequence u64 | commit time i64 | profiles u64 | domains u64 | profile bytes u64
//!                      | digest of all ids and revisions u64 (from directory format 2 on) | crc u32
//!
//! record             = revision u64 | crc u32 | encoded Profile
//! ```
//!
//! Records lie in the order of the index, so that a page of a domain is one run through neighbouring leaves
//! instead of a descent for each row; a look-up by id pays for it with a second descent.
//!
//! Each CRC-32C covers the key and all of the value but itself, so a value that turns up under another key
//! is refused as well.

use bytes::Bytes;

use crate::engine::digest::Digest;
use crate::engine::entry::{push_entry, split_entry};
use crate::model::{CommitTime, DomainKey, ProfileId, Record, Revision};
use crate::store::Totals;

/// Where ids begin.
pub const ID: u8 = b'r';
/// Where index entries, and with them the records of profiles with an e-mail, begin.
pub const ENTRY: u8 = b'i';
/// Where domain counters begin.
pub const DOMAIN: u8 = b'd';
/// The key of [`Applied`].
pub const APPLIED: &[u8] = b"m";
/// The key that the start-up check of the sync hook writes.
pub const SYNC_CHECK: &[u8] = b"s";

const HERE: u8 = 0;
const IN_INDEX: u8 = 1;
const RECORD_HEADER_BYTES: usize = 12;

/// A key: one byte of kind, then the rest.
pub fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

/// The key by which a profile is found.
pub fn id_key(id: &ProfileId) -> Vec<u8> {
    key(ID, id.as_bytes())
}

/// The key under which the record of a profile with an e-mail lies.
pub fn entry_key(index_key: &[u8], id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + index_key.len() + id.len());
    key.push(ENTRY);
    push_entry(&mut key, index_key, id);
    key
}

/// What stands under an id.
#[derive(Debug, PartialEq, Eq)]
pub enum AtId {
    /// The record itself: the profile has no e-mail.
    Record(Record),
    /// The index key under which the record is.
    InIndex(Bytes),
}

/// The value under an id whose record is in the index.
pub fn encode_in_index(id_key: &[u8], index_key: &[u8]) -> Vec<u8> {
    seal(id_key, [&[IN_INDEX], index_key].concat())
}

/// The value under the id of a profile without an e-mail.
pub fn encode_here(id_key: &[u8], record: &Record) -> Vec<u8> {
    let mut value = vec![HERE];
    append_record(&mut value, id_key, record);
    value
}

/// Reads what stands under an id; `None` when it is damaged.
pub fn decode_at_id(id_key: &[u8], value: &[u8]) -> Option<AtId> {
    match value.split_first()? {
        (&HERE, record) => decode_record(id_key, &[], record).map(AtId::Record),
        (&IN_INDEX, _) => Some(AtId::InIndex(Bytes::copy_from_slice(unseal(id_key, value)?.get(1..)?))),
        _ => None,
    }
}

/// The value of an index entry.
pub fn encode_entry(entry_key: &[u8], record: &Record) -> Vec<u8> {
    let mut value = Vec::with_capacity(RECORD_HEADER_BYTES + record.profile_len());
    append_record(&mut value, entry_key, record);
    value
}

/// Reads the record of an index entry; `None` when it is damaged. Copies the bytes out of sled's page.
pub fn decode_entry(entry_key: &[u8], value: &[u8]) -> Option<Record> {
    let (index_key, _) = split_entry(entry_key.strip_prefix(&[ENTRY])?)?;
    decode_record(entry_key, index_key, value)
}

fn append_record(value: &mut Vec<u8>, key: &[u8], record: &Record) {
    let revision = record.revision().0.to_le_bytes();
    let profile = &record.stored_bytes()[record.index_key_bytes().len()..];
    value.extend_from_slice(&revision);
    value.extend_from_slice(&record_checksum(key, &revision, profile).to_le_bytes());
    value.extend_from_slice(profile);
}

fn decode_record(key: &[u8], index_key: &[u8], value: &[u8]) -> Option<Record> {
    let (revision, rest) = value.split_first_chunk::<8>()?;
    let (crc, profile) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*crc) != record_checksum(key, revision, profile) {
        return None;
    }
    let mut buffer = Vec::with_capacity(index_key.len() + profile.len());
    buffer.extend_from_slice(index_key);
    buffer.extend_from_slice(profile);
    let index_key_len = u16::try_from(index_key.len()).ok()?;
    Record::from_stored(buffer.into(), index_key_len, Revision(u64::from_le_bytes(*revision)))
}

fn record_checksum(key: &[u8], revision: &[u8; 8], profile: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), revision);
    crc32c::crc32c_append(crc, profile)
}

/// The numbers of profiles of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Of exactly this domain.
    pub own: u64,
    /// Of this domain and all below it.
    pub subtree: u64,
}

/// The key of a domain's counters.
pub fn domain_key(domain: &DomainKey) -> Vec<u8> {
    key(DOMAIN, domain.as_bytes())
}

impl Counters {
    /// The value of the counters.
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        seal(key, [self.own.to_le_bytes(), self.subtree.to_le_bytes()].concat())
    }

    /// Reads the counters; `None` when they are damaged.
    pub fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (own, subtree) = unseal(key, value)?.split_first_chunk::<8>()?;
        Some(Self { own: u64::from_le_bytes(*own), subtree: u64::from_le_bytes(subtree.try_into().ok()?) })
    }
}

/// How far the tree has come. Written in the same batch as the changes it speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// The last sequence number.
    pub sequence: u64,
    /// The time of the last commit.
    pub time: CommitTime,
    /// What the tree holds.
    pub totals: Totals,
    /// The digest of all records (`record_hash` in `engine::digest`); `None` when a version of
    /// format 1, which keeps none, wrote last.
    pub digest: Option<Digest>,
}

impl Applied {
    /// The value.
    pub fn encode(&self) -> Vec<u8> {
        let Totals { profiles, domains, profile_bytes } = self.totals;
        let words = [self.sequence, self.time.unix_nanos() as u64, profiles, domains, profile_bytes];
        let words = words.into_iter().chain(self.digest.map(|digest| digest.0));
        seal(APPLIED, words.flat_map(u64::to_le_bytes).collect())
    }

    /// Reads the value; `None` when it is damaged.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (words, []) = unseal(APPLIED, value)?.as_chunks::<8>() else { return None };
        let (words, digest) = words.split_first_chunk::<5>()?;
        let digest = match digest {
            [] => None,
            [digest] => Some(Digest(u64::from_le_bytes(*digest))),
            _ => return None,
        };
        let [sequence, time, profiles, domains, profile_bytes] = words.map(u64::from_le_bytes);
        Some(Self {
            sequence,
            time: CommitTime::from_unix_nanos(time as i64),
            totals: Totals { profiles, domains, profile_bytes },
            digest,
        })
    }
}

fn seal(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &value);
    value.extend_from_slice(&crc.to_le_bytes());
    value
}

fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (content, crc) = value.split_last_chunk::<4>()?;
    (crc32c::crc32c_append(crc32c::crc32c(key), content) == u32::from_le_bytes(*crc)).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_any_flipped_bit_or_under_another_key_is_refused() {
        let record = Record::from_stored(Bytes::from_static(b"com\0\x01jprofile"), 6, Revision(5)).unwrap();
        let value = encode_entry(b"icom\0\x01j\0a", &record);
        assert_eq!(decode_entry(b"icom\0\x01j\0a", &value).as_ref(), Some(&record));
        assert_eq!(decode_entry(b"icom\0\x01j\0b", &value), None);
        let bare = Record::from_stored(Bytes::from_static(b"profile"), 0, Revision(5)).unwrap();
        let here = encode_here(b"ra", &bare);
        assert_eq!(decode_at_id(b"ra", &here), Some(AtId::Record(bare)));
        assert_eq!(decode_at_id(b"rb", &here), None);
        let there = encode_in_index(b"ra", record.index_key_bytes());
        assert_eq!(decode_at_id(b"ra", &there), Some(AtId::InIndex(Bytes::from_static(b"com\0\x01j"))));
        assert_eq!(decode_at_id(b"rb", &there), None);
        let counters = Counters { own: 3, subtree: 9 };
        let sealed = counters.encode(b"dcom\0");
        assert_eq!(Counters::decode(b"dcom\0", &sealed), Some(counters));
        refuses_every_damage(&value, |damaged| decode_entry(b"icom\0\x01j\0a", damaged).is_none());
        refuses_every_damage(&here, |damaged| decode_at_id(b"ra", damaged).is_none());
        refuses_every_damage(&there, |damaged| decode_at_id(b"ra", damaged).is_none());
        refuses_every_damage(&sealed, |damaged| Counters::decode(b"dcom\0", damaged).is_none());
    }

    #[test]
    fn a_checksum_that_itself_looks_like_a_kind_is_no_value() {
        // The value is nothing but the right checksum of its key, and that begins with the mark of a place in the index.
        let key = (0_u32..).map(|number| id_key(&ProfileId::parse(&number.to_string(), "id").unwrap()));
        let found = key.map(|key| (seal(&key, Vec::new()), key)).find(|(value, _)| value[0] == IN_INDEX);
        let (value, key) = found.unwrap();
        assert_eq!(decode_at_id(&key, &value), None);
    }

    fn refuses_every_damage(value: &[u8], refused: impl Fn(&[u8]) -> bool) {
        for bit in 0..value.len() * 8 {
            let mut damaged = value.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&damaged), "bit {bit}");
        }
        for end in 0..value.len() {
            assert!(refused(&value[..end]), "cut at {end}");
        }
    }

    #[test]
    fn how_far_the_tree_has_come_is_read_back() {
        let totals = Totals { profiles: 3, domains: 2, profile_bytes: 900 };
        let applied = Applied { sequence: 7, time: CommitTime::from_unix_nanos(-1), totals, digest: None };
        assert_eq!(Applied::decode(&applied.encode()), Some(applied), "as format 1 has it");
        let applied = Applied { digest: Some(Digest(9)), ..applied };
        assert_eq!(Applied::decode(&applied.encode()), Some(applied));
        refuses_every_damage(&applied.encode(), |damaged| Applied::decode(damaged).is_none());
        assert_eq!(Applied::decode(b""), None);
    }
}
