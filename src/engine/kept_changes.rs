//! The last changes of a store in memory.
//!
//! Bounded by number and by bytes; the oldest go first. Every revision from the oldest kept to the newest is there.

use std::collections::VecDeque;

use super::sequence;
use crate::model::{Change, CommitTime, Incarnation};
use crate::store::{ChangeBounds, ChangePage, CommittedChange, StoreError};

/// How many changes are kept by default.
pub const MAX_CHANGES: usize = 100_000;
/// How many bytes of changes are kept at most.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The last changes, in order.
#[derive(Debug)]
pub struct KeptChanges {
    changes: VecDeque<CommittedChange>,
    /// The sum of the changes' costs.
    bytes: usize,
    /// The revision of the last change that is no longer kept.
    forgotten: u64,
    pub max_changes: usize,
}

impl Default for KeptChanges {
    fn default() -> Self {
        Self { changes: VecDeque::new(), bytes: 0, forgotten: 0, max_changes: MAX_CHANGES }
    }
}

impl KeptChanges {
    /// Adds the changes of a commit.
    pub fn push(&mut self, incarnation: Incarnation, time: CommitTime, changes: &[Change]) {
        for change in changes {
            let kept = CommittedChange {
                position: sequence::position(incarnation, change.revision.0),
                time,
                id: change.id.clone(),
                record: change.record.clone(),
                previous_index_key: change.previous_index_key.clone().filter(|_| change.moves_index_key()),
                trace: change.trace,
            };
            self.bytes += kept.cost();
            self.changes.push_back(kept);
        }
        while self.changes.len() > self.max_changes || self.bytes > MAX_BYTES {
            let Some(gone) = self.changes.pop_front() else { break };
            self.bytes -= gone.cost();
            self.forgotten += 1;
        }
    }

    /// The revision after which everything is kept.
    pub fn oldest(&self) -> u64 {
        self.forgotten
    }

    /// The changes after a revision, and no revision after `through`.
    pub fn after(
        &self,
        incarnation: Incarnation,
        after: u64,
        through: u64,
        bounds: ChangeBounds,
    ) -> Result<ChangePage, StoreError> {
        let Some(skip) = after.checked_sub(self.forgotten) else {
            return Err(StoreError::Truncated { oldest: sequence::position(incarnation, self.forgotten) });
        };
        let count = through.saturating_sub(after) as usize;
        let mut page = ChangePage { changes: Vec::new(), next: sequence::position(incarnation, after) };
        let mut bytes = 0;
        for change in self.changes.iter().skip(skip as usize).take(count) {
            if !bounds.has_room_for(change, page.changes.len(), bytes) {
                break;
            }
            bytes += change.cost();
            page.next = change.position;
            page.changes.push(change.clone());
        }
        Ok(page)
    }
}
