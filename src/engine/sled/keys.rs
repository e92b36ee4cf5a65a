//! The keys and values of the one sled tree. Integers are big-endian in keys, little-endian in values.
//!
//! ```text
//! "r" id             → revision u64 | crc u32 | index key length u16 | index key | encoded Profile
//! "i" entry          → nothing       (entry: index key 00 id)
//! "d" domain key     → own count u64 | subtree count u64 | crc u32
//! "m"                → applied sequence u64 | commit time i64 | total count u64 | crc u32
//! ```
//!
//! Each CRC-32C covers the key and all of the value but itself, so a value that turns up under another key
//! is refused as well.

use bytes::Bytes;

use crate::model::{CommitTime, DomainKey, ProfileId, Record, Revision};

/// Where records begin.
pub const RECORD: u8 = b'r';
/// Where index entries begin.
pub const ENTRY: u8 = b'i';
/// Where domain counters begin.
pub const DOMAIN: u8 = b'd';
/// The key of [`Applied`].
pub const APPLIED: &[u8] = b"m";
/// The key that the start-up check of the sync hook writes.
pub const SYNC_CHECK: &[u8] = b"s";

const RECORD_HEADER_BYTES: usize = 14;

/// A key: one byte of kind, then the rest.
pub fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

/// The key of a profile's record.
pub fn record_key(id: &ProfileId) -> Vec<u8> {
    key(RECORD, id.as_bytes())
}

/// The value of a record.
pub fn encode_record(key: &[u8], record: &Record) -> Vec<u8> {
    let body = record.stored_bytes();
    let index_key_len = record.index_key_bytes().len() as u16;
    let mut value = Vec::with_capacity(RECORD_HEADER_BYTES + body.len());
    value.extend_from_slice(&record.revision().0.to_le_bytes());
    value.extend_from_slice(&[0; 4]);
    value.extend_from_slice(&index_key_len.to_le_bytes());
    value.extend_from_slice(body);
    let crc = record_checksum(key, &value);
    value[8..12].copy_from_slice(&crc.to_le_bytes());
    value
}

/// Reads the value of a record; `None` when it is damaged. Copies the bytes out of sled's page.
pub fn decode_record(key: &[u8], value: &[u8]) -> Option<Record> {
    let (revision, rest) = value.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (index_key_len, body) = rest.split_first_chunk::<2>()?;
    if u32::from_le_bytes(*crc) != record_checksum(key, value) {
        return None;
    }
    Record::from_stored(
        Bytes::copy_from_slice(body),
        u16::from_le_bytes(*index_key_len),
        Revision(u64::from_le_bytes(*revision)),
    )
}

fn record_checksum(key: &[u8], value: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &value[..8]);
    crc32c::crc32c_append(crc, &value[12..])
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
    /// The sequence number of the last change.
    pub sequence: u64,
    /// The time of the last commit.
    pub time: CommitTime,
    /// The number of all profiles.
    pub total: u64,
}

impl Applied {
    /// The value.
    pub fn encode(&self) -> Vec<u8> {
        let words =
            [self.sequence.to_le_bytes(), self.time.unix_nanos().to_le_bytes(), self.total.to_le_bytes()].concat();
        seal(APPLIED, words)
    }

    /// Reads the value; `None` when it is damaged.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (sequence, rest) = unseal(APPLIED, value)?.split_first_chunk::<8>()?;
        let (time, total) = rest.split_first_chunk::<8>()?;
        Some(Self {
            sequence: u64::from_le_bytes(*sequence),
            time: CommitTime::from_unix_nanos(i64::from_le_bytes(*time)),
            total: u64::from_le_bytes(total.try_into().ok()?),
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
        let value = encode_record(b"ra", &record);
        assert_eq!(decode_record(b"ra", &value), Some(record));
        assert_eq!(decode_record(b"rb", &value), None);
        let counters = Counters { own: 3, subtree: 9 };
        let sealed = counters.encode(b"dcom\0");
        assert_eq!(Counters::decode(b"dcom\0", &sealed), Some(counters));
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_record(b"ra", &damaged), None, "bit {bit}");
        }
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Counters::decode(b"dcom\0", &damaged), None, "bit {bit}");
        }
        for end in 0..value.len() {
            assert_eq!(decode_record(b"ra", &value[..end]), None);
        }
    }

    #[test]
    fn how_far_the_tree_has_come_is_read_back() {
        let applied = Applied { sequence: 7, time: CommitTime::from_unix_nanos(-1), total: 3 };
        assert_eq!(Applied::decode(&applied.encode()), Some(applied));
        assert_eq!(Applied::decode(b""), None);
    }
}
