//! A store in memory: ordered maps behind one lock.
//!
//! It survives nothing, and is otherwise held to the whole contract. Tests use it where a disk would only
//! be slow, and a reader can see here what a store does without how a disk makes it hard.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::EngineRules;
use super::decision::{CurrentState, Decided, GroupBasis, GroupDecision};
use super::entry::{
    domain_page_start, domains_prefix, entry, page_start, parse_entry, read_page, scope_prefix, split_entry,
};
use super::kept_changes::KeptChanges;
use super::request_memory::RequestMemory;
use super::sequence;
use crate::model::limits::MAX_COMMIT_WRITES;
use crate::model::{
    Change, CommitTime, Domain, DomainKey, Incarnation, IndexKey, ProfileId, Record, Revision, counter_deltas,
};
use crate::store::{
    Backup, ChangeBounds, ChangePage, Commit, CommitObserver, Corruption, Cursor, DomainCount, DomainOrder,
    DomainPage, Hold, HoldName, Outcomes, Page, PageBounds, Position, Scope, Store, StoreError, StoreState,
    StoreStatus, Totals, VerifyProgress, VerifyReport,
};

/// A store whose profiles live as long as it does.
pub struct MemoryStore {
    rules: EngineRules,
    incarnation: Incarnation,
    observer: Arc<dyn CommitObserver>,
    /// Guards the profiles; held for the whole of a commit and while a page is read.
    profiles: Mutex<Profiles>,
    head: watch::Sender<Position>,
    state: watch::Sender<StoreState>,
}

#[derive(Default)]
struct Profiles {
    records: BTreeMap<ProfileId, Record>,
    entries: BTreeSet<Vec<u8>>,
    counters: BTreeMap<DomainKey, Counters>,
    last_revision: Revision,
    last_time: CommitTime,
    profile_bytes: u64,
    requests: RequestMemory,
    changes: KeptChanges,
}

/// The numbers of profiles of a domain itself and of it with all below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    own: u64,
    subtree: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(rules: EngineRules, observer: Arc<dyn CommitObserver>) -> Self {
        let incarnation = sequence::new_incarnation();
        Self {
            rules,
            incarnation,
            observer,
            profiles: Mutex::default(),
            head: watch::Sender::new(sequence::position(incarnation, 0)),
            state: watch::Sender::new(StoreState::Open),
        }
    }

    /// The same, keeping so many changes for those who follow it; by default 100,000.
    pub fn keeping_changes(self, max_changes: usize) -> Self {
        self.profiles.lock().changes.max_changes = max_changes;
        self
    }

    /// The same, keeping so many bytes of changes at most for those who hold them; by default 256 MiB.
    pub fn keeping_held_bytes(self, max_bytes: usize) -> Self {
        self.profiles.lock().changes.max_held_bytes = max_bytes;
        self
    }

    fn ensure_open(&self) -> Result<(), StoreError> {
        if *self.state.borrow() == StoreState::Closed { Err(StoreError::Closed) } else { Ok(()) }
    }
}

impl CurrentState for Profiles {
    fn record(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        Ok(self.records.get(id).cloned())
    }

    fn has_email(&self, key: &IndexKey, counts: &dyn Fn(&ProfileId) -> bool) -> Result<bool, StoreError> {
        let prefix = scope_prefix(&Scope::Email(key.clone()));
        let entries = self.entries.range(prefix.clone()..).take_while(|entry| entry.starts_with(&prefix));
        Ok(entries.filter_map(|entry| parse_entry(entry)).any(|(_, id)| counts(&id)))
    }
}

impl Profiles {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            if let Some(key) = &change.previous_index_key {
                self.entries.remove(&entry(key, &change.id));
            }
            if let Some(key) = change.index_key() {
                self.entries.insert(entry(&key, &change.id));
            }
            match &change.record {
                Some(record) => self.records.insert(change.id.clone(), record.clone()),
                None => self.records.remove(&change.id),
            };
            self.profile_bytes = self.profile_bytes.strict_add_signed(change.bytes_delta());
            self.last_revision = change.revision;
        }
        for (domain, delta) in counter_deltas(changes) {
            let counters = self.counters.entry(domain.clone()).or_default();
            counters.own = counters.own.strict_add_signed(delta.own);
            counters.subtree = counters.subtree.strict_add_signed(delta.subtree);
            if counters.subtree == 0 {
                self.counters.remove(&domain);
            }
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            profiles: self.records.len() as u64,
            domains: self.counters.values().filter(|counters| counters.own > 0).count() as u64,
            profile_bytes: self.profile_bytes,
        }
    }

    fn counters_from(&self, start: Bound<Vec<u8>>) -> impl Iterator<Item = (&DomainKey, &Counters)> {
        self.counters.iter().filter(move |(domain, _)| match &start {
            Bound::Included(first) => domain.as_bytes() >= &first[..],
            Bound::Excluded(last) => domain.as_bytes() > &last[..],
            Bound::Unbounded => true,
        })
    }
}

impl Store for MemoryStore {
    async fn get(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        self.ensure_open()?;
        self.profiles.lock().record(id)
    }

    async fn get_many(&self, ids: &[ProfileId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.ensure_open()?;
        let profiles = self.profiles.lock();
        ids.iter().map(|id| profiles.record(id)).collect()
    }

    async fn commit(&self, commit: Commit) -> Result<Outcomes, StoreError> {
        self.ensure_open()?;
        if commit.writes.len() > MAX_COMMIT_WRITES {
            return Err(StoreError::TooManyWrites { writes: commit.writes.len(), limit: MAX_COMMIT_WRITES });
        }
        let mut profiles = self.profiles.lock();
        let time = self.rules.clock.now().max(profiles.last_time);
        profiles.requests.forget_old(time);
        let mut group = GroupDecision::new(GroupBasis {
            state: &*profiles,
            requests: &profiles.requests,
            unique_email: self.rules.unique_email,
            incarnation: self.incarnation,
            first_revision: Revision(profiles.last_revision.0 + 1),
            time,
        });
        let outcomes = group.decide(commit)?;
        let Decided { changes, requests, .. } = group.finish();
        requests.into_iter().for_each(|request| profiles.requests.remember(request, time));
        if !changes.is_empty() {
            self.observer.before_apply(&changes);
            profiles.apply(&changes);
            profiles.last_time = time;
            self.observer.after_apply(&changes);
            profiles.changes.push(self.incarnation, time, &changes);
            self.head.send_replace(sequence::position(self.incarnation, profiles.last_revision.0));
        }
        Ok(outcomes)
    }

    async fn list(&self, scope: &Scope, after: Option<&Cursor>, bounds: PageBounds) -> Result<Page, StoreError> {
        self.ensure_open()?;
        let start = page_start(scope, after)?;
        let profiles = self.profiles.lock();
        if *scope == Scope::All {
            let rest = profiles.records.iter().skip_while(|(id, _)| match &start {
                Bound::Excluded(last) => id.as_bytes() <= &last[..],
                _ => false,
            });
            return read_page(rest.map(|(id, record)| Ok((id.as_bytes(), record.clone()))), bounds);
        }
        let prefix = scope_prefix(scope);
        let entries =
            profiles.entries.range((start, Bound::Unbounded)).take_while(|entry| entry.starts_with(&prefix));
        let rows = entries.filter_map(|entry| {
            let (_, id) = split_entry(entry)?;
            let record = profiles.records.get(std::str::from_utf8(id).ok()?)?;
            Some(Ok((entry, record.clone())))
        });
        read_page(rows, bounds)
    }

    async fn list_domains(
        &self,
        parent: Option<&Domain>,
        order: DomainOrder,
        after: Option<&Cursor>,
        max_domains: usize,
    ) -> Result<DomainPage, StoreError> {
        self.ensure_open()?;
        let parent = parent.map(DomainKey::new);
        let prefix = domains_prefix(parent.as_ref());
        let start = domain_page_start(parent.as_ref(), order, after)?;
        let profiles = self.profiles.lock();
        let mut found: Vec<_> = profiles
            .counters_from(start)
            .filter(|(domain, counters)| domain.as_bytes().starts_with(&prefix) && counters.own > 0)
            .collect();
        if order == DomainOrder::LargestFirst {
            found.sort_by_key(|(_, counters)| std::cmp::Reverse(counters.own));
        }
        let more = found.len() > max_domains && order == DomainOrder::Index;
        found.truncate(max_domains);
        let next = found.last().filter(|_| more).map(|(domain, _)| Cursor(Bytes::copy_from_slice(domain.as_bytes())));
        let domains = found
            .into_iter()
            .map(|(domain, counters)| DomainCount { domain: domain.domain(), profiles: counters.own })
            .collect();
        Ok(DomainPage { domains, next })
    }

    async fn count(&self, scope: &Scope) -> Result<u64, StoreError> {
        self.ensure_open()?;
        let profiles = self.profiles.lock();
        let counters = |domain| profiles.counters.get(domain).copied().unwrap_or_default();
        Ok(match scope {
            Scope::All => profiles.records.len() as u64,
            Scope::Domain(domain) => counters(domain).own,
            Scope::Subtree(domain) => counters(domain).subtree,
            Scope::Email(_) => {
                let prefix = scope_prefix(scope);
                profiles.entries.range(prefix.clone()..).take_while(|entry| entry.starts_with(&prefix)).count() as u64
            }
        })
    }

    async fn changes_after(&self, after: &Position, bounds: ChangeBounds) -> Result<ChangePage, StoreError> {
        self.ensure_open()?;
        let profiles = self.profiles.lock();
        let head = profiles.last_revision.0;
        let sequence = |position| sequence::sequence_of(position, self.incarnation, head);
        let through = bounds.through.as_ref().map_or(Ok(head), sequence)?;
        profiles.changes.after(self.incarnation, sequence(after)?, through, bounds)
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.ensure_open()?;
        Ok(sequence::position(self.incarnation, self.profiles.lock().last_revision.0))
    }

    async fn oldest_position(&self) -> Result<Position, StoreError> {
        self.ensure_open()?;
        Ok(sequence::position(self.incarnation, self.profiles.lock().changes.oldest()))
    }

    async fn hold(&self, name: &HoldName, position: &Position) -> Result<(), StoreError> {
        self.ensure_open()?;
        let mut profiles = self.profiles.lock();
        let after = sequence::sequence_of(position, self.incarnation, profiles.last_revision.0)?;
        profiles.changes.hold(self.incarnation, name, after)
    }

    async fn release_hold(&self, name: &HoldName) -> Result<bool, StoreError> {
        self.ensure_open()?;
        Ok(self.profiles.lock().changes.release(name))
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        self.ensure_open()?;
        let profiles = self.profiles.lock();
        Ok(profiles.changes.holds(self.incarnation, profiles.last_revision.0))
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    fn changes_before(&self, position: &Position) -> Option<u64> {
        sequence::sequence_of(position, self.incarnation, self.profiles.lock().last_revision.0).ok()
    }

    fn position_of(&self, record: &Record) -> Position {
        sequence::position(self.incarnation, record.revision().0)
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            engine: "memory",
            totals: self.profiles.lock().totals(),
            queued_commits: 0,
            state: self.state.borrow().clone(),
        }
    }

    async fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.ensure_open()?;
        Ok(0)
    }

    fn watch_state(&self) -> watch::Receiver<StoreState> {
        self.state.subscribe()
    }

    async fn backup(&self) -> Result<Backup, StoreError> {
        self.ensure_open()?;
        Err(StoreError::NoBackups)
    }

    async fn verify_with(&self, progress: VerifyProgress) -> Result<VerifyReport, StoreError> {
        self.ensure_open()?;
        let profiles = self.profiles.lock();
        const REMEDY: &str = "restart the server; what it holds is in memory only";
        profiles.records.keys().for_each(|_| progress.count_profile());
        let expected: BTreeSet<_> =
            profiles.records.iter().filter_map(|(id, record)| Some(entry(&record.index_key()?, id))).collect();
        if expected != profiles.entries {
            progress.add("the index does not agree with the records", REMEDY);
        }
        let as_created: Vec<_> = profiles
            .records
            .iter()
            .map(|(id, record)| Change {
                revision: record.revision(),
                id: id.clone(),
                record: Some(record.clone()),
                previous_bytes: None,
                previous_revision: None,
                previous_index_key: None,
                trace: None,
            })
            .collect();
        let counted = counter_deltas(&as_created)
            .into_iter()
            .map(|(domain, delta)| (domain, Counters { own: delta.own as u64, subtree: delta.subtree as u64 }));
        if !counted.eq(profiles.counters.iter().map(|(domain, counters)| (domain.clone(), *counters))) {
            progress.add("the counters do not agree with the records", REMEDY);
        }
        if profiles.records.values().any(|record| record.decode().is_err()) {
            return Err(StoreError::Corrupt(Corruption("a record is not a profile".into())));
        }
        Ok(VerifyReport {
            profiles: profiles.records.len() as u64,
            index_entries: profiles.entries.len() as u64,
            problems: progress.problems_after(0),
            unsettled: 0,
        })
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.state.send_replace(StoreState::Closed);
        Ok(())
    }
}
