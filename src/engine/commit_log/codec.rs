//! Commit groups as the log's protobuf messages.

use bytes::Bytes;
use prost::Message;

use crate::engine::decision::Decided;
use crate::engine::snapshot::SnapshotRow;
use crate::engine::storage_pb as pb;
use crate::model::{Change, CommitTime, IndexKey, ProfileId, Record, Revision};
use crate::store::{RequestId, RequestMark};
use crate::trace::TraceParent;

/// A commit group as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedGroup {
    /// The sequence number of the first change.
    pub first_sequence: u64,
    /// When the group was committed.
    pub time: CommitTime,
    /// The changes.
    pub changes: Vec<LoggedChange>,
    /// The requests that it makes; there are some when there are no changes.
    pub requests: Vec<RequestMark>,
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
    /// The span that made the change, if its trace is recorded.
    pub trace: Option<TraceParent>,
}

impl LoggedGroup {
    /// The sequence number of the last change, or of the group itself when it has none.
    pub fn last_sequence(&self) -> u64 {
        self.first_sequence + sequence_numbers(self.changes.len()) - 1
    }

    /// What the group leaves of each profile that it changes, in order.
    pub fn rows(&self) -> impl Iterator<Item = SnapshotRow> + '_ {
        self.changes.iter().zip(self.first_sequence..).map(|(change, sequence)| SnapshotRow {
            id: change.id.clone(),
            revision: Revision(sequence),
            record: change.record.clone(),
        })
    }

    /// Reads a frame's payload. `None` when it is not a group.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let group = pb::CommitGroup::decode(payload).ok()?;
        if group.changes.is_empty() && group.requests.is_empty() {
            return None;
        }
        // None of its sequence numbers may be beyond the last that there is.
        group.first_sequence.checked_add(sequence_numbers(group.changes.len()))?;
        let sequences = group.first_sequence..;
        let changes =
            group.changes.into_iter().zip(sequences).map(|(change, sequence)| decode_change(change, sequence));
        Some(Self {
            first_sequence: group.first_sequence,
            time: CommitTime::from_unix_nanos(group.commit_time_unix_nanos),
            changes: changes.collect::<Option<_>>()?,
            requests: group.requests.into_iter().map(decode_request).collect::<Option<_>>()?,
        })
    }
}

/// What is read of a group for its requests only; the changes are passed over.
pub(super) struct LoggedRequests {
    pub first_sequence: u64,
    /// The first sequence number of the group behind it.
    pub next_sequence: u64,
    pub time: CommitTime,
    pub requests: Vec<RequestMark>,
}

impl LoggedRequests {
    /// Reads a frame's payload. `None` when it is not a group.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let group = pb::RequestsOfGroup::decode(payload).ok()?;
        Some(Self {
            first_sequence: group.first_sequence,
            next_sequence: group.first_sequence.checked_add(sequence_numbers(group.changes.len()))?,
            time: CommitTime::from_unix_nanos(group.commit_time_unix_nanos),
            requests: group.requests.into_iter().map(decode_request).collect::<Option<_>>()?,
        })
    }
}

/// How many sequence numbers a group takes: one for each change, and one if it has none.
pub fn sequence_numbers(changes: usize) -> u64 {
    changes.max(1) as u64
}

/// Appends the payload of a frame: a group with at least one change or one request.
pub(super) fn encode_group(first_sequence: u64, group: &Decided, buffer: &mut Vec<u8>) {
    let group = pb::CommitGroup {
        first_sequence,
        commit_time_unix_nanos: group.time.unix_nanos(),
        changes: group.changes.iter().map(encode_change).collect(),
        requests: group.requests.iter().map(encode_request).collect(),
    };
    // Appending to a vector cannot run out of room, the only way in which encoding fails.
    group.encode_raw(buffer);
}

fn encode_request(request: &RequestMark) -> pb::CompletedRequest {
    pb::CompletedRequest {
        request_id: Bytes::copy_from_slice(&request.id.0),
        fingerprint: request.fingerprint,
        made_ids: request.made_ids.iter().map(|id| id.as_str().to_owned()).collect(),
    }
}

fn decode_request(request: pb::CompletedRequest) -> Option<RequestMark> {
    let made_ids = request.made_ids.iter().map(|id| ProfileId::from_stored(id.as_bytes()));
    Some(RequestMark {
        id: RequestId(request.request_id[..].try_into().ok()?),
        fingerprint: request.fingerprint,
        made_ids: made_ids.collect::<Option<_>>()?,
    })
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
        traceparent: change.trace.map(|trace| trace.to_string()).unwrap_or_default(),
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
    // A trace is worth no change: one that cannot be read is none.
    let trace = TraceParent::parse(&change.traceparent);
    Some(LoggedChange { id: ProfileId::from_stored(change.id.as_bytes())?, record, previous_index_key, trace })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_counts_beyond_the_last_sequence_number_is_none() {
        let payload = |first_sequence| {
            let changes = ["a", "b"].map(|id| pb::Change { id: id.into(), ..pb::Change::default() }).into();
            pb::CommitGroup { first_sequence, changes, ..pb::CommitGroup::default() }.encode_to_vec()
        };
        assert_eq!(
            LoggedGroup::decode(&payload(u64::MAX - 2)).map(|group| group.last_sequence()),
            Some(u64::MAX - 1)
        );
        for first_sequence in [u64::MAX - 1, u64::MAX] {
            assert_eq!(LoggedGroup::decode(&payload(first_sequence)), None);
            assert!(LoggedRequests::decode(&payload(first_sequence)).is_none());
        }
    }
}
