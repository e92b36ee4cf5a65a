//! The cache as all its users share it: shards behind locks.

use std::fmt;
use std::hash::BuildHasher;
use std::time::Duration;

#[cfg(not(test))]
use parking_lot::Mutex;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::watch;
use tokio::time::Instant;

use super::figures::{CacheFigures, Tallies};
use super::options::CacheOptions;
use super::page_cache::PageCache;
#[cfg(test)]
use super::schedules::Mutex;
use super::shard::{FillToken, Loaded, Shard, Start};
use crate::model::{Change, ProfileId, Record};
use crate::store::CommitObserver;

/// Records and absences by id, in shards.
///
/// An engine that is given it as its observer keeps it coherent; see the module's documentation for the rules.
pub struct HotCache {
    /// Each lock guards one part of the ids; none is held while another is taken.
    shards: Box<[Mutex<Shard>]>,
    hasher: lru::DefaultHasher,
    capacity_bytes: usize,
    pages: PageCache,
}

/// What the cache knows of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// This is its record.
    Hit(Record),
    /// There is no such profile.
    Absent,
    /// Nothing; the store must be asked.
    Miss,
}

impl Lookup {
    /// Its name in traces.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Hit(_) => "hit",
            Self::Absent => "negative",
            Self::Miss => "miss",
        }
    }
}

/// A read that goes past the cache or waits for another; see [`Start`].
pub(super) enum Begun<'a> {
    Known(Option<Record>),
    Join(watch::Receiver<Option<Loaded>>),
    Lead(Leader<'a>),
    Settling(OwnedNotified),
    Bypass,
}

impl HotCache {
    /// An empty cache, with as many shards as suit its bounds.
    pub fn new(options: CacheOptions) -> Self {
        let shards = options.shard_count();
        Self::with_shards(options, shards)
    }

    /// An empty cache with a number of shards, rounded up to a power of two.
    pub fn with_shards(options: CacheOptions, shards: usize) -> Self {
        let shards = shards.max(1).next_power_of_two();
        let share = options.share(shards);
        Self {
            shards: (0..shards).map(|_| Mutex::new(Shard::new(&share))).collect(),
            hasher: lru::DefaultHasher::default(),
            capacity_bytes: options.max_bytes,
            pages: PageCache::new(if options.caches() { options.page_bytes } else { 0 }),
        }
    }

    /// What is known of an id, at once. Counts hits but no miss: who misses goes on to the store, where it is
    /// counted.
    pub fn lookup(&self, id: &str) -> Lookup {
        self.shard(id).lock().lookup(id, Instant::now())
    }

    /// The records of all these ids if all of them are here and none is there twice, at once.
    pub fn lookup_all(&self, ids: &[&str]) -> Option<Vec<Record>> {
        let mut records = Vec::with_capacity(ids.len());
        self.look_at_all(ids, |record| records.push(record.clone())).then_some(records)
    }

    /// Shows `look` the records of these ids, one by one and under the locks of their shards, as long as they are here and none
    /// is there twice. Whether that was so for all. Counts them as hits only then: otherwise they are counted where the
    /// store is asked.
    pub fn look_at_all(&self, ids: &[&str], look: impl FnMut(&Record)) -> bool {
        self.looked_at_all(ids, look).is_some()
    }

    fn looked_at_all(&self, ids: &[&str], mut look: impl FnMut(&Record)) -> Option<()> {
        let now = Instant::now();
        let mut hit_age = Duration::ZERO;
        let mut seen = Distinct::new(ids);
        for (place, id) in ids.iter().enumerate() {
            let hash = self.hasher.hash_one(*id);
            if !seen.is_new(place, hash) {
                return None;
            }
            let ((), age) = self.shard_of(hash).lock().look_at_record(id, now, &mut look)?;
            hit_age += age;
        }
        // The shards' counts are only ever added up, so any shard can keep these.
        self.shard(ids.first()?).lock().count_hits(ids.len() as u64, hit_age);
        Some(())
    }

    /// What the cache holds and has done.
    pub fn figures(&self) -> CacheFigures {
        let now = Instant::now();
        let mut tallies = Tallies::default();
        let mut held = CacheFigures { capacity_bytes: self.capacity_bytes as u64, ..CacheFigures::default() };
        for shard in &self.shards {
            let shard = shard.lock();
            tallies.add(shard.tallies());
            let (entries, negative_entries, bytes) = shard.sizes();
            held.entries += entries as u64;
            held.negative_entries += negative_entries as u64;
            held.bytes += bytes as u64;
            let age = shard.next_victim_age(now).unwrap_or_default();
            held.oldest_next_victim_age = held.oldest_next_victim_age.max(age);
        }
        CacheFigures {
            entries: held.entries,
            negative_entries: held.negative_entries,
            bytes: held.bytes,
            capacity_bytes: held.capacity_bytes,
            oldest_next_victim_age: held.oldest_next_victim_age,
            ..tallies.figures()
        }
    }

    /// The answers to queries by domain.
    pub fn pages(&self) -> &PageCache {
        &self.pages
    }

    /// Empties the cache for good.
    pub(super) fn close(&self) {
        self.pages.close();
        self.shards.iter().for_each(|shard| shard.lock().close());
    }

    /// Begins a read of one id, which may wait for changes under way or not.
    pub(super) fn begin<'a>(&'a self, id: &'a ProfileId, may_wait: bool) -> Begun<'a> {
        match self.shard(id.as_str()).lock().start(id, may_wait, Instant::now()) {
            Start::Known(record) => Begun::Known(record),
            Start::Join(result) => Begun::Join(result),
            Start::Lead(token, result) => Begun::Lead(Leader { cache: self, id, token, result }),
            Start::Settling(settled) => Begun::Settling(settled),
            Start::Bypass => Begun::Bypass,
        }
    }

    /// Says that the changes under way beside this id take too long to wait for.
    pub(super) fn give_settling_up(&self, id: &ProfileId) {
        self.shard(id.as_str()).lock().give_settling_up();
    }

    /// Begins a read of one id among many: what is known, or else the right to fill, if there is one.
    pub(super) fn begin_one_of_many(&self, id: &ProfileId) -> Result<Option<Record>, Option<FillToken>> {
        self.shard(id.as_str()).lock().start_one_of_many(id, Instant::now())
    }

    /// Installs what a load gave, if it may be.
    pub(super) fn fill(&self, id: &ProfileId, loaded: Option<&Record>, token: FillToken) {
        self.shard(id.as_str()).lock().fill(id, loaded, token, Instant::now());
    }

    fn shard(&self, id: &str) -> &Mutex<Shard> {
        self.shard_of(self.hasher.hash_one(id))
    }

    fn shard_of(&self, hash: u64) -> &Mutex<Shard> {
        // The middle of the hash: the shard's own tables use both ends of hashes of the same kind, and ids
        // that agreed there would crowd together.
        let middle = (hash >> 24) as usize;
        &self.shards[middle & (self.shards.len() - 1)]
    }
}

/// Finds ids that are there twice by the hashes that are at hand anyway.
pub(super) struct Distinct<'a> {
    ids: &'a [&'a str],
    /// The places of the ids by their hashes, each plus one; 0 is free. At most half of it is taken.
    table: Vec<u32>,
}

impl<'a> Distinct<'a> {
    pub(super) fn new(ids: &'a [&'a str]) -> Self {
        Self { ids, table: vec![0; (2 * ids.len()).next_power_of_two()] }
    }

    /// Whether no earlier id is the one at this place.
    pub(super) fn is_new(&mut self, place: usize, hash: u64) -> bool {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        while let Some(earlier) = self.table[at].checked_sub(1) {
            if self.ids[earlier as usize] == self.ids[place] {
                return false;
            }
            at = (at + 1) & mask;
        }
        self.table[at] = place as u32 + 1;
        true
    }
}

impl CommitObserver for HotCache {
    fn before_apply(&self, changes: &[Change]) {
        self.pages.announce(changes);
        let now = Instant::now();
        for change in changes {
            self.shard(change.id.as_str()).lock().displace(&change.id, now);
        }
    }

    fn after_apply(&self, changes: &[Change]) {
        let now = Instant::now();
        let settle = |change: &Change| self.shard(change.id.as_str()).lock().settle(change, now);
        let waiting: Vec<_> = changes.iter().filter_map(settle).collect();
        self.pages.settle(changes);
        // Without a lock.
        waiting.iter().for_each(|waiting| waiting.notify_waiters());
    }
}

impl fmt::Debug for HotCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotCache").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

/// The caller who loads for all who joined. Dropped before it is finished it lets the others try again.
pub(super) struct Leader<'a> {
    cache: &'a HotCache,
    id: &'a ProfileId,
    token: FillToken,
    result: watch::Sender<Option<Loaded>>,
}

impl Leader<'_> {
    /// Hands over what the load gave.
    pub fn finish(self, loaded: Loaded) -> Loaded {
        if let Ok(record) = &loaded {
            self.cache.fill(self.id, record.as_ref(), self.token);
        }
        // Without a receiver nobody joined.
        let _ = self.result.send(Some(loaded.clone()));
        loaded
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.cache.shard(self.id.as_str()).lock().end_flight(self.id, self.token);
    }
}
