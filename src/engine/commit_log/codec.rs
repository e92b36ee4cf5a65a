//! Commit groups as the log's protobuf messages.

use bytes::Bytes;
use prost::Message;

use super::pb;
use crate::model::{Change, CommitTime, IndexKey, ProfileId, Record, Revision};

/// A commit group as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedGroup {
    /// The sequence number of the first change.
    pub first_sequence: u64,
    /// When the group was committed.
    pub time: CommitTime,
    /// The changes; there is at least one.
    pub changes: Vec<LoggedChange>,
}

/// One change as it stands in the log. Its sequence number is its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedChange {
    /// The profile's id.
    pub id: ProfileId,
    /// The new record; `None` for a delete.
    pub record: Option<Record>,
    /// The index key before, when the change moved or removed it.
    pub previous_index_key: Option<IndexKey>,
}

impl LoggedGroup {
    /// The sequence number of the last change.
    pub fn last_sequence(&self) -> u64 {
        self.first_sequence + self.changes.len() as u64 - 1
    }

    /// Reads a frame's payload. `None` when it is not a group.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let group = pb::CommitGroup::decode(payload).ok()?;
        if group.changes.is_empty() {
            return None;
        }
        let sequences = group.first_sequence..;
        let changes =
            group.changes.into_iter().zip(sequences).map(|(change, sequence)| decode_change(change, sequence));
        Some(Self {
            first_sequence: group.first_sequence,
            time: CommitTime::from_unix_nanos(group.commit_time_unix_nanos),
            changes: changes.collect::<Option<_>>()?,
        })
    }
}

/// Appends the payload of a frame: a group of changes, of which there must be at least one.
pub(super) fn encode_group(changes: &[Change], time: CommitTime, buffer: &mut Vec<u8>) {
    let group = pb::CommitGroup {
        first_sequence: changes.first().map_or(0, |change| change.revision.0),
        commit_time_unix_nanos: time.unix_nanos(),
        changes: changes.iter().map(encode_change).collect(),
    };
    // Appending to a vector cannot run out of room, the only way in which encoding fails.
    group.encode_raw(buffer);
}

fn encode_change(change: &Change) -> pb::Change {
    let previous = change.previous_index_key.as_ref().filter(|_| change.moves_index_key());
    pb::Change {
        id: change.id.as_str().to_owned(),
        profile: change.record.as_ref().map(Record::profile),
        index_key: change
            .record
            .as_ref()
            .map(|record| Bytes::copy_from_slice(record.index_key_bytes()))
            .unwrap_or_default(),
        previous_index_key: previous.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        ..pb::Change::default()
    }
}

fn decode_change(change: pb::Change, sequence: u64) -> Option<LoggedChange> {
    let record = match change.profile {
        None => None,
        Some(profile) => {
            if !change.index_key.is_empty() {
                IndexKey::from_stored(&change.index_key)?;
            }
            let index_key_len = u16::try_from(change.index_key.len()).ok()?;
            let stored = [&change.index_key[..], &profile[..]].concat();
            Some(Record::from_stored(stored.into(), index_key_len, Revision(sequence))?)
        }
    };
    let previous_index_key = match change.previous_index_key {
        None => None,
        Some(bytes) => Some(IndexKey::from_stored(&bytes)?),
    };
    Some(LoggedChange { id: ProfileId::from_stored(change.id.as_bytes())?, record, previous_index_key })
}
