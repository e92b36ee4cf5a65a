//! Events as they are sent: encoded `profilestore.v1.ProfileEvent` messages.
//!
//! The fields stand in the order of their numbers; the profile is what the store keeps, byte for byte.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::model::{ProfileId, Record};
use crate::pb::ProfileEventType;
use crate::store::{CommittedChange, Position};
use crate::trace::TraceParent;

const TYPE: u32 = 1;
const ID: u32 = 2;
const PROFILE: u32 = 3;
const POSITION: u32 = 4;
const COMMIT_TIME: u32 = 5;
const TRACEPARENT: u32 = 6;
/// What an event takes beside its profile and id at most.
const OTHER_BYTES: usize = 2 + 2 + 4 + (2 + Position::MAX_BYTES.div_ceil(3) * 4) + (2 + 22) + (2 + 55);

/// A change with its event, encoded when the first watcher wants it.
#[derive(Debug)]
pub struct FeedChange {
    pub change: CommittedChange,
    /// What a watcher of all profiles is sent.
    event: OnceLock<Bytes>,
}

impl FeedChange {
    pub fn new(change: CommittedChange) -> Self {
        Self { change, event: OnceLock::new() }
    }

    /// The event of this type.
    pub fn event(&self, event_type: ProfileEventType) -> Bytes {
        let change = &self.change;
        let encode = |record: Option<&Record>| {
            let time = Some(change.time.to_timestamp());
            encode(event_type, &change.id, record, &change.position, time, change.trace)
        };
        match event_type {
            // Only some watchers see it so, and seldom.
            ProfileEventType::Left => encode(None),
            _ => self.event.get_or_init(|| encode(change.record.as_ref())).clone(),
        }
    }
}

/// The event of a profile in a snapshot: the change that made it what it is.
pub fn snapshot_event(id: &ProfileId, record: &Record, position: &Position) -> Bytes {
    encode(ProfileEventType::Put, id, Some(record), position, record.update_time(), None)
}

fn encode(
    event_type: ProfileEventType,
    id: &ProfileId,
    record: Option<&Record>,
    position: &Position,
    commit_time: Option<prost_types::Timestamp>,
    trace: Option<TraceParent>,
) -> Bytes {
    let profile = record.map(Record::profile_bytes);
    let mut event = Vec::with_capacity(profile.map_or(0, <[u8]>::len) + id.as_bytes().len() + OTHER_BYTES);
    encode_key(TYPE, WireType::Varint, &mut event);
    encode_varint(event_type as u64, &mut event);
    put_bytes(ID, id.as_bytes(), &mut event);
    if let Some(profile) = profile {
        put_bytes(PROFILE, profile, &mut event);
    }
    let mut text = [0; Position::MAX_BYTES.div_ceil(3) * 4];
    // The room is for the longest position there is.
    let length = URL_SAFE_NO_PAD.encode_slice(position.as_bytes(), &mut text).unwrap_or(0);
    put_bytes(POSITION, &text[..length], &mut event);
    if let Some(time) = commit_time {
        encode_key(COMMIT_TIME, WireType::LengthDelimited, &mut event);
        encode_varint(time.encoded_len() as u64, &mut event);
        time.encode_raw(&mut event);
    }
    if let Some(trace) = trace {
        put_bytes(TRACEPARENT, trace.to_string().as_bytes(), &mut event);
    }
    event.into()
}

fn put_bytes(tag: u32, bytes: &[u8], event: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, event);
    encode_varint(bytes.len() as u64, event);
    event.put_slice(bytes);
}

/// What an event takes in a message.
pub fn framed_len(event: &Bytes) -> usize {
    1 + encoded_len_varint(event.len() as u64) + event.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Canonicalization, CommitTime, Draft, Etag, Incarnation, Profile, Revision};
    use crate::pb::ProfileEvent;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn an_event_is_the_message_that_the_contract_draws() {
        let profile = Profile { id: "ada".into(), email: "ada@x.example".into(), ..Profile::default() };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
        let time = CommitTime::from_unix_nanos(1_500_000_000);
        let etag = Etag::new(Incarnation(1), Revision(2));
        let record = Record::from_draft(&draft, &etag, time.to_timestamp(), time, Revision(2));
        let position = Position::new(&[0xff; Position::MAX_BYTES]).unwrap();
        let change = CommittedChange {
            position,
            time,
            id: draft.id().clone(),
            record: Some(record.clone()),
            previous_index_key: None,
            trace: TraceParent::parse(TRACE),
        };
        let expected = |event_type: ProfileEventType, profile: Option<Profile>| ProfileEvent {
            r#type: event_type as i32,
            id: "ada".into(),
            profile,
            position: URL_SAFE_NO_PAD.encode([0xff; Position::MAX_BYTES]),
            commit_time: Some(time.to_timestamp()),
            traceparent: TRACE.into(),
        };
        let put = expected(ProfileEventType::Put, Some(record.decode().unwrap()));
        let stored = FeedChange::new(change.clone());
        assert_eq!(ProfileEvent::decode(stored.event(ProfileEventType::Put)).unwrap(), put);
        let listed = ProfileEvent { traceparent: String::new(), ..put };
        assert_eq!(ProfileEvent::decode(snapshot_event(&change.id, &record, &position)).unwrap(), listed);
        let left = stored.event(ProfileEventType::Left);
        assert_eq!(ProfileEvent::decode(left).unwrap(), expected(ProfileEventType::Left, None));
        let deleted = FeedChange::new(CommittedChange { record: None, ..change });
        let delete = deleted.event(ProfileEventType::Delete);
        assert_eq!(ProfileEvent::decode(delete).unwrap(), expected(ProfileEventType::Delete, None));
    }
}
