//! One shard: its records, its absences, and the rules that keep them coherent.
//!
//! Pure state. [`HotCache`](super::HotCache) holds it under a lock and tells it the time; the rules are numbered
//! as in the module's documentation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::figures::Tallies;
use super::hot_cache::Lookup;
use super::lru_region::{Found, LruRegion, PushedOut};
use super::options::CacheOptions;
use crate::model::{Change, ProfileId, Record, Revision};
use crate::store::StoreError;

/// What a load gave.
pub type Loaded = Result<Option<Record>, StoreError>;

/// The right to fill the cache with what a load that begins now will give (rule 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillToken {
    generation: u64,
}

/// How a read goes on.
pub enum Start {
    /// The cache answers.
    Known(Option<Record>),
    /// Another caller is loading; its result will be here. The sender gone without one means: try again.
    Join(watch::Receiver<Option<Loaded>>),
    /// The caller loads, for all who join.
    Lead(FillToken, watch::Sender<Option<Loaded>>),
    /// Changes are under way; the caller tries again when this is over, when all of them are visible.
    Settling(OwnedNotified),
    /// The caller loads for itself alone.
    Bypass,
}

/// Who waits for the changes under way.
#[derive(Debug)]
enum Settling {
    Nobody,
    /// Those who are notified here.
    Some(Arc<Notify>),
    /// It took too long for one; until the changes are visible nobody waits.
    GivenUp,
}

/// A part of the cache.
pub struct Shard {
    /// False in a cache of no size, and after closing: then the shard stays empty (rule 7).
    open: bool,
    /// Moves with every change that is announced or applied.
    generation: u64,
    /// The changes that were announced and not yet applied.
    pending: u64,
    settling: Settling,
    records: LruRegion<Record>,
    /// Profiles that do not exist, each with the revision that removed it, or 0 when a load did not find it.
    absences: LruRegion<Revision>,
    /// The ids that were here when a change took them out and that come back when it is applied (rule 3).
    displaced: HashMap<ProfileId, Displaced>,
    /// The loads under way. A load is told from an earlier one of the same id by its token.
    flights: HashMap<ProfileId, Flight>,
    ttl: Duration,
    negative_ttl: Duration,
    tallies: Tallies,
}

struct Displaced {
    /// The changes of this id under way.
    pending: u64,
    /// The newest of its changes that have been applied meanwhile.
    newest: Option<(Revision, Option<Record>)>,
}

struct Flight {
    token: FillToken,
    result: watch::Receiver<Option<Loaded>>,
}

impl Shard {
    /// An empty shard with its share of the bounds.
    pub fn new(share: &CacheOptions) -> Self {
        Self {
            open: share.caches(),
            generation: 0,
            pending: 0,
            settling: Settling::Nobody,
            records: LruRegion::new(share.max_bytes, share.max_entries),
            absences: LruRegion::new(usize::MAX, share.negative_entries),
            displaced: HashMap::new(),
            flights: HashMap::new(),
            ttl: share.ttl,
            negative_ttl: share.negative_ttl,
            tallies: Tallies::default(),
        }
    }

    /// What is known of an id.
    pub fn lookup(&mut self, id: &str, now: Instant) -> Lookup {
        if let Some((record, age)) = self.find_record(id, now) {
            self.count_hits(1, age);
            return Lookup::Hit(record);
        }
        if let Found::Live(..) = self.absences.get(id, now) {
            self.tallies.negative_hits += 1;
            return Lookup::Absent;
        }
        Lookup::Miss
    }

    /// A record that is here, and its age. Does not count it as a hit.
    pub fn find_record(&mut self, id: &str, now: Instant) -> Option<(Record, Duration)> {
        self.look_at_record(id, now, Record::clone)
    }

    /// What `look` makes of a record that is here, and its age. Does not count it as a hit.
    pub fn look_at_record<R>(
        &mut self,
        id: &str,
        now: Instant,
        look: impl FnOnce(&Record) -> R,
    ) -> Option<(R, Duration)> {
        match self.records.get_with(id, now, look) {
            Found::Live(seen, age) => return Some((seen, age)),
            Found::Expired => self.tallies.expirations += 1,
            Found::Nothing => {}
        }
        None
    }

    /// Counts hits and the sum of their ages.
    pub fn count_hits(&mut self, hits: u64, ages: Duration) {
        self.tallies.hits += hits;
        self.tallies.hit_age += ages;
    }

    /// Begins a read of one id, which may wait for changes under way or not.
    pub fn start(&mut self, id: &ProfileId, may_wait: bool, now: Instant) -> Start {
        match self.lookup(id.as_str(), now) {
            Lookup::Hit(record) => return Start::Known(Some(record)),
            Lookup::Absent => return Start::Known(None),
            Lookup::Miss => {}
        }
        if may_wait && let Some(settled) = self.settled() {
            return Start::Settling(settled);
        }
        self.tallies.misses += 1;
        let Some(token) = self.token() else { return Start::Bypass };
        if let Some(flight) = self.flights.get(id).filter(|flight| flight.token == token) {
            self.tallies.joins += 1;
            return Start::Join(flight.result.clone());
        }
        let (sender, result) = watch::channel(None);
        self.flights.insert(id.clone(), Flight { token, result });
        Start::Lead(token, sender)
    }

    /// Begins a read of one id among many: what is known, or else the right to fill, if there is one.
    pub fn start_one_of_many(&mut self, id: &ProfileId, now: Instant) -> Result<Option<Record>, Option<FillToken>> {
        match self.lookup(id.as_str(), now) {
            Lookup::Hit(record) => Ok(Some(record)),
            Lookup::Absent => Ok(None),
            Lookup::Miss => {
                self.tallies.misses += 1;
                Err(self.token())
            }
        }
    }

    /// Where to wait until the changes under way are visible, if there are any to wait for.
    fn settled(&mut self) -> Option<OwnedNotified> {
        if !self.open || self.pending == 0 {
            return None;
        }
        match &self.settling {
            Settling::GivenUp => None,
            Settling::Some(waiting) => Some(waiting.clone().notified_owned()),
            Settling::Nobody => {
                let waiting = Arc::new(Notify::new());
                self.settling = Settling::Some(waiting.clone());
                Some(waiting.notified_owned())
            }
        }
    }

    /// Lets nobody wait any more until the changes under way are visible.
    pub fn give_settling_up(&mut self) {
        if self.pending > 0 {
            self.settling = Settling::GivenUp;
        }
    }

    fn token(&self) -> Option<FillToken> {
        (self.open && self.pending == 0).then_some(FillToken { generation: self.generation })
    }

    /// Installs what a load gave, unless the shard has changed since the load began.
    pub fn fill(&mut self, id: &ProfileId, loaded: Option<&Record>, token: FillToken, now: Instant) {
        if self.token() != Some(token) {
            self.tallies.refused_fills += 1;
            return;
        }
        let revision = loaded.map(Record::revision).unwrap_or_default();
        self.install(id, revision, loaded.cloned(), now);
    }

    /// Forgets a load under way, if it is still the one of this token.
    pub fn end_flight(&mut self, id: &ProfileId, token: FillToken) {
        if self.flights.get(id).is_some_and(|flight| flight.token == token) {
            self.flights.remove(id);
        }
    }

    /// A change is about to become visible: takes its id out (rules 1 and 2).
    pub fn displace(&mut self, id: &ProfileId, now: Instant) {
        self.pending += 1;
        self.generation += 1;
        let was_record = self.records.remove(id.as_str(), now);
        let was_absence = self.absences.remove(id.as_str(), now);
        if let Some(displaced) = self.displaced.get_mut(id) {
            displaced.pending += 1;
        } else if was_record || was_absence {
            self.displaced.insert(id.clone(), Displaced { pending: 1, newest: None });
        }
    }

    /// A change has become visible: brings its id back if it was here (rule 3). After the last one under way it
    /// returns whom to notify.
    pub fn settle(&mut self, change: &Change, now: Instant) -> Option<Arc<Notify>> {
        debug_assert!(self.pending > 0, "a change is announced before it is applied");
        self.pending = self.pending.saturating_sub(1);
        self.generation += 1;
        self.bring_back(change, now);
        if self.pending > 0 { None } else { self.end_settling() }
    }

    fn end_settling(&mut self) -> Option<Arc<Notify>> {
        match std::mem::replace(&mut self.settling, Settling::Nobody) {
            Settling::Some(waiting) => Some(waiting),
            Settling::Nobody | Settling::GivenUp => None,
        }
    }

    fn bring_back(&mut self, change: &Change, now: Instant) {
        let Some(displaced) = self.displaced.get_mut(&change.id) else { return };
        displaced.pending -= 1;
        if is_current(change.revision, displaced.newest.as_ref().map(|(revision, _)| *revision)) {
            displaced.newest = Some((change.revision, change.record.clone()));
        }
        if displaced.pending > 0 {
            // Another change of this id may be visible already, and it may be the newer one.
            return;
        }
        if let Some((revision, record)) = self.displaced.remove(&change.id).and_then(|displaced| displaced.newest) {
            self.install(&change.id, revision, record, now);
        }
    }

    /// Puts a record or an absence in, unless something newer is there (rule 4).
    fn install(&mut self, id: &ProfileId, revision: Revision, record: Option<Record>, now: Instant) {
        let resident = self.records.peek(id.as_str()).map(Record::revision);
        let resident = resident.or_else(|| self.absences.peek(id.as_str()).copied());
        if !self.open || !is_current(revision, resident) {
            return;
        }
        match record {
            Some(record) => {
                self.absences.remove(id.as_str(), now);
                let bytes = record.stored_bytes().len();
                let PushedOut { evicted, evicted_age, expired } =
                    self.records.insert(id, record, bytes, now, jittered(self.ttl));
                self.tallies.evictions += evicted;
                self.tallies.evicted_age += evicted_age;
                self.tallies.expirations += expired;
            }
            None => {
                self.records.remove(id.as_str(), now);
                self.absences.insert(id, revision, 0, now, jittered(self.negative_ttl));
            }
        }
    }

    /// Empties the shard for good (rule 7).
    pub fn close(&mut self) {
        self.open = false;
        self.generation += 1;
        self.records.clear();
        self.absences.clear();
        self.displaced.clear();
        if let Some(waiting) = self.end_settling() {
            waiting.notify_waiters();
        }
    }

    /// The counts so far.
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// The number of records, the number of absences, and what the records take, in bytes.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.records.len(), self.absences.len(), self.records.bytes())
    }

    /// The age of the record that is next to make room.
    pub fn next_victim_age(&self, now: Instant) -> Option<Duration> {
        self.records.next_victim_age(now)
    }
}

/// Whether a revision is not older than another, if there is another.
fn is_current(revision: Revision, other: Option<Revision>) -> bool {
    other.is_none_or(|other| revision >= other)
}

/// Up to a tenth less, by chance.
fn jittered(ttl: Duration) -> Duration {
    ttl - (ttl / 10).mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Canonicalization, CommitTime, Draft, Etag, Incarnation, Profile};

    fn id() -> ProfileId {
        ProfileId::parse("a", "id").unwrap()
    }

    fn record(revision: u64) -> Record {
        let profile = Profile { id: "a".into(), ..Profile::default() };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
        let (time, revision) = (CommitTime::default(), Revision(revision));
        Record::from_draft(&draft, &Etag::new(Incarnation(0), revision), time.to_timestamp(), time, revision)
    }

    fn change(revision: u64, record: Option<Record>) -> Change {
        Change {
            revision: Revision(revision),
            id: id(),
            record,
            previous_bytes: Some(1),
            previous_revision: Some(Revision(0)),
            previous_index_key: None,
            trace: None,
        }
    }

    #[test]
    fn an_engine_whose_loads_disagree_does_not_bring_an_older_record_back() {
        let mut shard = Shard::new(&CacheOptions::default());
        let now = Instant::now();
        let token = shard.token().unwrap();
        shard.fill(&id(), Some(&record(5)), token, now);
        shard.fill(&id(), Some(&record(4)), token, now);
        assert_eq!(shard.lookup("a", now), Lookup::Hit(record(5)));
        shard.fill(&id(), None, token, now);
        assert_eq!(shard.lookup("a", now), Lookup::Hit(record(5)));
        shard.displace(&id(), now);
        shard.settle(&change(6, None), now);
        let token = shard.token().unwrap();
        shard.fill(&id(), Some(&record(5)), token, now);
        assert_eq!(shard.lookup("a", now), Lookup::Absent, "an absence keeps the revision of its delete");
        shard.fill(&id(), Some(&record(7)), token, now);
        assert_eq!(shard.lookup("a", now), Lookup::Hit(record(7)));
        assert_eq!(shard.sizes().1, 0, "a record takes the place of the absence");
    }

    #[test]
    fn a_commit_that_never_settles_keeps_its_shard_empty() {
        let mut shard = Shard::new(&CacheOptions::default());
        let now = Instant::now();
        shard.fill(&id(), Some(&record(1)), shard.token().unwrap(), now);
        shard.displace(&id(), now);
        assert_eq!(shard.token(), None);
        assert!(matches!(shard.start(&id(), false, now), Start::Bypass));
        assert!(matches!(shard.start(&id(), true, now), Start::Settling(_)));
        shard.give_settling_up();
        assert!(matches!(shard.start(&id(), true, now), Start::Bypass), "one has waited too long");
        shard.displace(&id(), now);
        shard.settle(&change(3, Some(record(3))), now);
        assert_eq!((shard.token(), shard.lookup("a", now)), (None, Lookup::Miss));
    }
}
