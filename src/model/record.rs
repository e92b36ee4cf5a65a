//! What is stored and sent: the encoded profile and what the store must know about it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::draft::Draft;
use super::index_key::IndexKey;
use super::time::CommitTime;
use crate::pb::Profile;

/// What etag, create_time and update_time add to an encoded profile at most: a tag and a length byte each,
/// 22 characters of etag, and twice 10 bytes of seconds with their tag and 5 bytes of nanoseconds with
/// theirs.
pub(super) const OUTPUT_FIELDS_MAX_BYTES: usize = (2 + ETAG_CHARS) + 2 * (2 + 11 + 6);
const ETAG_CHARS: usize = 22;

/// The first tag of the output-only fields: field 6, length-delimited.
const ETAG_TAG: u8 = 6 << 3 | 2;
const ID_FIELD: u32 = 1;
const UPDATE_TIME_FIELD: u32 = 8;

/// Which life of a store something belongs to. A restore from a backup begins a new one, so that what was
/// handed out in the life before (etags, cursors, positions) is never mistaken for today's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation(pub u64);

/// The order of the changes of one profile: a later change has a larger revision. Engines with a global
/// sequence use it for all profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// An opaque mark of one version of one profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etag(String);

impl Etag {
    /// The etag of a version; made by engines.
    pub fn new(incarnation: Incarnation, revision: Revision) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&incarnation.0.to_be_bytes());
        bytes[8..].copy_from_slice(&revision.0.to_be_bytes());
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// An etag as a caller sent it. Any text will do: one that we never made matches nothing.
    pub fn from_caller(etag: String) -> Self {
        Self(etag)
    }

    /// The etag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A stored profile: the encoded message, its revision and its index key.
///
/// Invariant: the encoded message is a [`Draft`]'s bytes followed by etag, create_time and update_time.
/// One buffer holds the index key and the message, so that a cached record is one allocation and cloning
/// it copies nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    revision: Revision,
    index_key_len: u16,
    buffer: Bytes,
}

/// Those of the engine's fields by which a write is decided. Read alone they cost a fraction of the whole profile.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EngineFields {
    /// The etag.
    #[prost(string, tag = "6")]
    pub etag: String,
    /// When the profile was made.
    #[prost(message, optional, tag = "7")]
    pub create_time: Option<prost_types::Timestamp>,
}

impl Record {
    /// Completes a draft with what the engine decides.
    pub fn from_draft(
        draft: &Draft,
        etag: &Etag,
        create_time: prost_types::Timestamp,
        update_time: CommitTime,
        revision: Revision,
    ) -> Self {
        let output_fields = Profile {
            etag: etag.as_str().to_owned(),
            create_time: Some(create_time),
            update_time: Some(update_time.to_timestamp()),
            ..Profile::default()
        };
        let index_key = draft.index_key().map_or(&[][..], IndexKey::as_bytes);
        // Exactly what is needed: a buffer with room to spare would be copied once more when it is shared.
        let bytes = index_key.len() + draft.encoded().len() + output_fields.encoded_len();
        let mut buffer = Vec::with_capacity(bytes);
        buffer.extend_from_slice(index_key);
        buffer.extend_from_slice(draft.encoded());
        output_fields.encode_raw(&mut buffer);
        Self { revision, index_key_len: index_key.len() as u16, buffer: buffer.into() }
    }

    /// Puts a record together from what an engine stored: `index_key_len` bytes of index key (none without
    /// an e-mail), then the encoded profile. `None` when the length does not fit.
    pub fn from_stored(buffer: Bytes, index_key_len: u16, revision: Revision) -> Option<Self> {
        (usize::from(index_key_len) <= buffer.len()).then_some(Self { revision, index_key_len, buffer })
    }

    /// The same record with another etag in place of `old`; `None` if it does not have that one. Both are of engines,
    /// and so of one length.
    pub fn with_etag(&self, old: &Etag, new: &Etag) -> Option<Self> {
        let profile = self.profile_bytes();
        // The etag is the first of the engine's fields, which are the last: nothing of a caller's is looked at.
        let tail = profile.len().saturating_sub(OUTPUT_FIELDS_MAX_BYTES);
        let field = [&[ETAG_TAG, ETAG_CHARS as u8], old.as_str().as_bytes()].concat();
        let in_tail = profile[tail..].windows(field.len()).rposition(|window| window == field)?;
        let at = usize::from(self.index_key_len) + tail + in_tail + 2;
        let mut buffer = self.buffer.to_vec();
        buffer.get_mut(at..at + ETAG_CHARS)?.copy_from_slice(new.as_str().as_bytes());
        Some(Self { buffer: buffer.into(), ..*self })
    }

    /// The revision of the change that made this version.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The encoded profile, ready to send.
    pub fn profile(&self) -> Bytes {
        let mut profile = self.buffer.clone();
        profile.advance(usize::from(self.index_key_len));
        profile
    }

    /// The encoded profile, to be copied.
    pub fn profile_bytes(&self) -> &[u8] {
        &self.buffer[usize::from(self.index_key_len)..]
    }

    /// The number of bytes of the encoded profile.
    pub fn profile_len(&self) -> usize {
        self.buffer.len() - usize::from(self.index_key_len)
    }

    /// The bytes of the index key; empty without an e-mail.
    pub fn index_key_bytes(&self) -> &[u8] {
        &self.buffer[..usize::from(self.index_key_len)]
    }

    /// The index key; `None` without an e-mail.
    pub fn index_key(&self) -> Option<IndexKey> {
        IndexKey::from_stored(self.index_key_bytes())
    }

    /// The index key and the encoded profile as they are stored.
    pub fn stored_bytes(&self) -> &Bytes {
        &self.buffer
    }

    /// When this version was committed, as the profile's update_time says; `None` when it does not.
    pub fn update_time(&self) -> Option<prost_types::Timestamp> {
        prost_types::Timestamp::decode(self.field(UPDATE_TIME_FIELD)?).ok()
    }

    /// The bytes of the profile's id; `None` when it has none.
    pub fn id_bytes(&self) -> Option<&[u8]> {
        self.field(ID_FIELD)
    }

    /// The content of a length-delimited field, without decoding the others.
    fn field(&self, wanted: u32) -> Option<&[u8]> {
        let mut rest = self.profile_bytes();
        while !rest.is_empty() {
            let (tag, wire_type) = decode_key(&mut rest).ok()?;
            if tag == wanted && wire_type == WireType::LengthDelimited {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                return rest.get(..length);
            }
            skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
        }
        None
    }

    /// Decodes the engine's fields. An error means that the stored bytes are not a profile.
    pub fn engine_fields(&self) -> Result<EngineFields, prost::DecodeError> {
        EngineFields::decode(self.profile_bytes())
    }

    /// Decodes the profile. An error means that the stored bytes are not a profile.
    pub fn decode(&self) -> Result<Profile, prost::DecodeError> {
        Profile::decode(self.profile())
    }

    /// Whether the caller's fields of this record are exactly those of a draft.
    pub fn has_content_of(&self, draft: &Draft) -> bool {
        let profile = self.profile_bytes();
        let same_index_key = self.index_key_bytes() == draft.index_key().map_or(&[][..], IndexKey::as_bytes);
        same_index_key
            && profile.strip_prefix(&draft.encoded()[..]).is_some_and(|rest| rest.first() == Some(&ETAG_TAG))
    }
}

impl fmt::Debug for Record {
    /// Never shows the content, which is personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("revision", &self.revision).field("bytes", &self.buffer.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Canonicalization;

    fn draft(display_name: &str) -> Draft {
        let profile = Profile {
            id: "a".into(),
            email: "a@b.example".into(),
            display_name: display_name.into(),
            ..Profile::default()
        };
        Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap()
    }

    #[test]
    fn a_record_is_the_drafts_fields_and_the_engines() {
        let etag = Etag::new(Incarnation(7), Revision(9));
        let time = CommitTime::from_unix_nanos(1_500_000_000);
        let record = Record::from_draft(&draft("Ada"), &etag, time.to_timestamp(), time, Revision(9));
        let profile = record.decode().unwrap();
        assert_eq!((profile.display_name.as_str(), profile.domain.as_str()), ("Ada", "b.example"));
        assert_eq!(profile.etag, etag.as_str());
        assert_eq!(profile.update_time.unwrap().nanos, 500_000_000);
        assert_eq!(record.update_time(), profile.update_time);
        let fields = record.engine_fields().unwrap();
        assert_eq!((fields.etag, fields.create_time), (profile.etag, profile.create_time));
        assert_eq!(record.id_bytes(), Some(&b"a"[..]));
        assert_eq!(record.index_key().unwrap().as_bytes(), b"example\0b\0\x01a");
        assert!(record.has_content_of(&draft("Ada")));
        assert!(!record.has_content_of(&draft("Ad")) && !record.has_content_of(&draft("Adam")));
    }

    #[test]
    fn output_fields_never_outgrow_their_reserve() {
        let etag = Etag::new(Incarnation(u64::MAX), Revision(u64::MAX));
        let time = prost_types::Timestamp { seconds: i64::MIN, nanos: 999_999_999 };
        let record = Record::from_draft(&draft(""), &etag, time, CommitTime::from_unix_nanos(i64::MIN), Revision(1));
        assert!(record.profile_len() <= draft("").encoded().len() + OUTPUT_FIELDS_MAX_BYTES);
    }
}
