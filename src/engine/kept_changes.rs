//! The last changes of a store in memory.
//!
//! Bounded by number and by bytes; the oldest go first, but held ones only beyond a bound of their own. Every revision from
//! the oldest kept to the newest is there.

use std::collections::{BTreeMap, VecDeque};

use super::sequence;
use crate::model::{Change, CommitTime, Incarnation};
use crate::store::{ChangeBounds, ChangePage, CommittedChange, Hold, HoldName, MAX_HOLDS, StoreError};

/// How many changes are kept by default.
pub const MAX_CHANGES: usize = 100_000;
/// How many bytes of changes are kept at most.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// How many bytes of changes are kept at most while somebody holds them.
const MAX_HELD_BYTES: usize = 256 * 1024 * 1024;

/// The last changes, in order.
#[derive(Debug)]
pub struct KeptChanges {
    changes: VecDeque<CommittedChange>,
    /// The sum of the changes' costs.
    bytes: usize,
    /// The revision of the last change that is no longer kept.
    forgotten: u64,
    holds: BTreeMap<HoldName, u64>,
    pub max_changes: usize,
    pub max_held_bytes: usize,
}

impl Default for KeptChanges {
    fn default() -> Self {
        Self {
            changes: VecDeque::new(),
            bytes: 0,
            forgotten: 0,
            holds: BTreeMap::new(),
            max_changes: MAX_CHANGES,
            max_held_bytes: MAX_HELD_BYTES,
        }
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
        while (self.changes.len() > self.max_changes || self.bytes > MAX_BYTES) && self.may_forget() {
            let Some(gone) = self.changes.pop_front() else { break };
            self.bytes -= gone.cost();
            self.forgotten += 1;
        }
    }

    /// Whether the oldest change may go: nobody holds it, or too much is held.
    fn may_forget(&self) -> bool {
        let held = self.holds.values().any(|after| *after <= self.forgotten);
        let too_much = self.bytes > self.max_held_bytes;
        if held && too_much {
            for (name, _) in self.holds.iter().filter(|(_, after)| **after == self.forgotten) {
                tracing::error!(%name, max_held_bytes = self.max_held_bytes, "held changes have taken too much room; the oldest are given up");
            }
        }
        !held || too_much
    }

    /// Holds what comes after a revision.
    pub fn hold(&mut self, incarnation: Incarnation, name: &HoldName, after: u64) -> Result<(), StoreError> {
        if after < self.forgotten {
            return Err(StoreError::Truncated { oldest: sequence::position(incarnation, self.forgotten) });
        }
        if self.holds.len() >= MAX_HOLDS && !self.holds.contains_key(name) {
            return Err(StoreError::TooManyHolds { limit: MAX_HOLDS });
        }
        self.holds.insert(name.clone(), after);
        Ok(())
    }

    /// Gives a hold up.
    pub fn release(&mut self, name: &HoldName) -> bool {
        self.holds.remove(name).is_some()
    }

    /// All holds, of a store whose last change has the revision `head`.
    pub fn holds(&self, incarnation: Incarnation, head: u64) -> Vec<Hold> {
        let each = |(name, after): (&HoldName, &u64)| sequence::hold(name, incarnation, *after, self.forgotten, head);
        self.holds.iter().map(each).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ProfileId, Revision};

    const STORE: Incarnation = Incarnation(1);

    fn push(kept: &mut KeptChanges, revision: u64) {
        let change = Change {
            revision: Revision(revision),
            id: ProfileId::parse("a", "id").unwrap(),
            record: None,
            previous_bytes: None,
            previous_revision: None,
            previous_index_key: None,
            trace: None,
        };
        kept.push(STORE, CommitTime::default(), &[change]);
    }

    #[test]
    fn what_is_held_stays_until_it_takes_too_much_room() {
        let name = HoldName::new("a").unwrap();
        let mut kept = KeptChanges { max_changes: 3, ..KeptChanges::default() };
        (1..=5).for_each(|revision| push(&mut kept, revision));
        assert_eq!(kept.oldest(), 2);
        assert!(matches!(kept.hold(STORE, &name, 1), Err(StoreError::Truncated { .. })));
        kept.hold(STORE, &name, 4).unwrap();
        (6..=20).for_each(|revision| push(&mut kept, revision));
        assert_eq!(kept.oldest(), 4, "what nobody holds goes, what is held stays");
        kept.max_held_bytes = 10 * kept.bytes / kept.changes.len();
        push(&mut kept, 21);
        assert_eq!(kept.oldest(), 11);
        let hold = kept.holds(STORE, 21).remove(0);
        assert_eq!((hold.lag, hold.lost), (17, 7));
        assert!(kept.release(&name) && !kept.release(&name));
        push(&mut kept, 22);
        assert_eq!(kept.oldest(), 19);
    }
}
