//! Changes, as they are logged and applied.

use std::collections::BTreeMap;

use super::id::ProfileId;
use super::index_key::{DomainKey, IndexKey};
use super::record::{Record, Revision};
use crate::trace::TraceParent;

/// One change of one profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The change's place in the order of changes.
    pub revision: Revision,
    /// The profile's id.
    pub id: ProfileId,
    /// The new record; `None` for a delete.
    pub record: Option<Record>,
    /// The size of the encoded profile before, in bytes; `None` when there was no profile.
    pub previous_bytes: Option<usize>,
    /// The revision of the record before; `None` when there was no profile.
    pub previous_revision: Option<Revision>,
    /// The index key before; `None` when there was no profile or it had no e-mail.
    pub previous_index_key: Option<IndexKey>,
    /// The span that makes the change, if its trace is recorded.
    pub trace: Option<TraceParent>,
}

impl Change {
    /// The index key after the change; `None` after a delete or without an e-mail.
    pub fn index_key(&self) -> Option<IndexKey> {
        self.record.as_ref().and_then(Record::index_key)
    }

    /// Whether the profile's e-mail is another one than before.
    pub fn moves_index_key(&self) -> bool {
        let now = self.record.as_ref().map_or(&[][..], Record::index_key_bytes);
        now != self.previous_index_key.as_ref().map_or(&[][..], IndexKey::as_bytes)
    }

    /// By how much the change alters the number of all profiles: -1, 0 or 1.
    pub fn profiles_delta(&self) -> i64 {
        i64::from(self.record.is_some()) - i64::from(self.previous_bytes.is_some())
    }

    /// By how much the change alters the bytes of all profiles.
    pub fn bytes_delta(&self) -> i64 {
        self.record.as_ref().map_or(0, Record::profile_len) as i64 - self.previous_bytes.unwrap_or(0) as i64
    }
}

/// By how much some changes alter the counters of one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CounterDelta {
    /// Profiles of exactly this domain.
    pub own: i64,
    /// Profiles of this domain and all below it.
    pub subtree: i64,
}

/// By how much some changes alter the counters of the domains they touch, their ancestors included.
/// Domains whose counters stay the same are left out.
pub fn counter_deltas(changes: &[Change]) -> BTreeMap<DomainKey, CounterDelta> {
    let mut own: BTreeMap<DomainKey, i64> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.moves_index_key()) {
        if let Some(before) = &change.previous_index_key {
            *own.entry(before.domain_key()).or_default() -= 1;
        }
        if let Some(after) = change.index_key() {
            *own.entry(after.domain_key()).or_default() += 1;
        }
    }
    let mut deltas: BTreeMap<DomainKey, CounterDelta> = BTreeMap::new();
    for (domain, delta) in own.into_iter().filter(|(_, delta)| *delta != 0) {
        for ancestor in domain.with_ancestors() {
            deltas.entry(ancestor).or_default().subtree += delta;
        }
        deltas.entry(domain).or_default().own += delta;
    }
    deltas.retain(|_, delta| *delta != CounterDelta::default());
    deltas
}
