//! What a group of changes does to the totals, the digest and the counters: found out request by request, so that a
//! damaged counter fails only the requests that touch it.
//!
//! Invariants: a request is added as a whole or not at all, and a counter is read from the tree once for a group. Everything
//! that can be wrong with a group is found here, before it is logged: a logged group must be applicable, now and
//! when it is replayed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::keys::{Applied, Counters};
use super::recent_records::RecentRecords;
use super::tree::{Tree, damaged};
use crate::engine::decision::CurrentState;
use crate::model::{Change, CommitTime, DomainKey, IndexKey, ProfileId, Record, counter_deltas};
use crate::store::StoreError;

/// The effect of a group in the making.
pub struct GroupEffect {
    /// As it will be, but for the sequence and the time.
    applied: Applied,
    /// The counters that the group touches, as they will be.
    counters: BTreeMap<DomainKey, Counters>,
}

impl GroupEffect {
    /// Of no changes to a tree that has come so far.
    pub fn new(applied: Applied) -> Self {
        Self { applied, counters: BTreeMap::new() }
    }

    /// Adds more changes. After an error nothing of them is added; [`StoreError::Corrupt`]: they touch what is damaged.
    pub fn add(&mut self, tree: &Tree, changes: &[Change]) -> Result<(), StoreError> {
        let Applied { mut totals, mut digest, .. } = self.applied;
        for change in changes {
            if let Some(digest) = &mut digest {
                digest.follow(change);
            }
            let below_zero = || damaged("the number of profiles");
            totals.profiles = totals.profiles.checked_add_signed(change.profiles_delta()).ok_or_else(below_zero)?;
            let below_zero = || damaged("the bytes of profiles");
            totals.profile_bytes =
                totals.profile_bytes.checked_add_signed(change.bytes_delta()).ok_or_else(below_zero)?;
        }
        let deltas = counter_deltas(changes);
        let mut altered = Vec::with_capacity(deltas.len());
        for (domain, delta) in deltas {
            let before = match self.counters.get(&domain) {
                Some(counters) => *counters,
                None => tree.counters(&domain)?,
            };
            let below_zero = || damaged("a domain's counters");
            let after = Counters {
                own: before.own.checked_add_signed(delta.own).ok_or_else(below_zero)?,
                subtree: before.subtree.checked_add_signed(delta.subtree).ok_or_else(below_zero)?,
            };
            let domains_delta = i64::from(after.own > 0) - i64::from(before.own > 0);
            let below_zero = || damaged("the number of domains");
            totals.domains = totals.domains.checked_add_signed(domains_delta).ok_or_else(below_zero)?;
            altered.push((domain, after));
        }
        self.counters.extend(altered);
        self.applied = Applied { totals, digest, ..self.applied };
        Ok(())
    }

    /// The counters that are touched, as they will be.
    pub fn counters(&self) -> impl Iterator<Item = (&DomainKey, &Counters)> {
        self.counters.iter()
    }

    /// How far the tree will have come when the group ends at `sequence` and is made at `time`.
    pub fn applied(&self, sequence: u64, time: CommitTime) -> Applied {
        Applied { sequence, time, ..self.applied }
    }
}

/// The tree as a group is decided on it: follows what each request of the group changes.
pub struct GroupState<'a> {
    tree: &'a Tree,
    recent: &'a RecentRecords,
    effect: RefCell<GroupEffect>,
}

impl<'a> GroupState<'a> {
    /// Before the group.
    pub fn new(tree: &'a Tree, recent: &'a RecentRecords, applied: Applied) -> Self {
        Self { tree, recent, effect: RefCell::new(GroupEffect::new(applied)) }
    }

    /// What the group's requests amount to.
    pub fn into_effect(self) -> GroupEffect {
        self.effect.into_inner()
    }
}

impl CurrentState for GroupState<'_> {
    fn record(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        match self.recent.get(id) {
            Some(record) => Ok(record.clone()),
            None => self.tree.record(id),
        }
    }

    fn has_email(&self, key: &IndexKey, counts: &dyn Fn(&ProfileId) -> bool) -> Result<bool, StoreError> {
        self.tree.has_email(key, counts)
    }

    fn accept(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.effect.borrow_mut().add(self.tree, changes)
    }
}
