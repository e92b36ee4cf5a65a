//! A bounded map that forgets what was used longest ago.
//!
//! No lock and no clock: the owner locks, and every call is told the time.
//!
//! Invariants: `bytes` is the sum of the costs of all entries; neither bound is ever exceeded when a call
//! returns.

use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::model::ProfileId;

/// What an entry takes in memory beside its id and its value's heap buffer: the list node with key, value
/// and times, its slot in the hash table, and the headers of the two shared allocations.
pub const ENTRY_OVERHEAD_BYTES: usize = 256;

/// At most so many expired entries are dropped on the way of one insert.
const PURGED_PER_INSERT: usize = 2;

/// Values by id, bounded in number and in cost.
pub struct LruRegion<V> {
    entries: LruCache<ProfileId, Entry<V>>,
    bytes: usize,
    max_bytes: usize,
    max_entries: usize,
}

struct Entry<V> {
    value: V,
    bytes: usize,
    since: Instant,
    until: Instant,
}

/// What a lookup found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a, V> {
    /// A value and how long it has been here.
    Live(&'a V, Duration),
    /// A value whose time was over; it is gone now.
    Expired,
    /// Nothing.
    Nothing,
}

/// What an insert pushed out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PushedOut {
    /// How many entries made room.
    pub evicted: u64,
    /// The sum of their ages.
    pub evicted_age: Duration,
    /// How many went because their time was over.
    pub expired: u64,
}

impl<V> LruRegion<V> {
    /// An empty region.
    pub fn new(max_bytes: usize, max_entries: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, max_bytes, max_entries }
    }

    /// The value of an id, which counts as used now.
    pub fn get(&mut self, id: &str, now: Instant) -> Found<'_, V> {
        if self.entries.peek(id).is_some_and(|entry| entry.until <= now) {
            self.remove(id, now);
            return Found::Expired;
        }
        match self.entries.get(id) {
            Some(entry) => Found::Live(&entry.value, now.duration_since(entry.since)),
            None => Found::Nothing,
        }
    }

    /// The value of an id whatever its age, without counting as used.
    pub fn peek(&self, id: &str) -> Option<&V> {
        self.entries.peek(id).map(|entry| &entry.value)
    }

    /// Takes an id out. Returns whether there was a value whose time was not over.
    pub fn remove(&mut self, id: &str, now: Instant) -> bool {
        let Some(entry) = self.entries.pop(id) else { return false };
        self.bytes -= entry.bytes;
        entry.until > now
    }

    /// Puts a value of `value_bytes` bytes in for a time, in place of the id's former one. A value larger than
    /// the whole region is left out, and the former one is gone all the same.
    pub fn insert(&mut self, id: &ProfileId, value: V, value_bytes: usize, now: Instant, ttl: Duration) -> PushedOut {
        self.remove(id.as_str(), now);
        let mut pushed_out = PushedOut::default();
        let bytes = id.as_bytes().len() + value_bytes + ENTRY_OVERHEAD_BYTES;
        if bytes > self.max_bytes || self.max_entries == 0 {
            return pushed_out;
        }
        self.purge(now, &mut pushed_out);
        while self.bytes + bytes > self.max_bytes || self.entries.len() >= self.max_entries {
            let Some((_, victim)) = self.entries.pop_lru() else { break };
            self.bytes -= victim.bytes;
            pushed_out.evicted += 1;
            pushed_out.evicted_age += now.duration_since(victim.since);
        }
        self.bytes += bytes;
        // A time to live too large to add is as good as for ever; a century stands for it.
        let until = now.checked_add(ttl).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400));
        self.entries.push(id.clone(), Entry { value, bytes, since: now, until });
        pushed_out
    }

    /// Drops a few of the longest unused entries if their time is over: nobody may ever ask for them again.
    fn purge(&mut self, now: Instant, pushed_out: &mut PushedOut) {
        for _ in 0..PURGED_PER_INSERT {
            match self.entries.peek_lru() {
                Some((_, entry)) if entry.until <= now => {}
                _ => return,
            }
            if let Some((_, entry)) = self.entries.pop_lru() {
                self.bytes -= entry.bytes;
                pushed_out.expired += 1;
            }
        }
    }

    /// Forgets everything and gives its memory back.
    pub fn clear(&mut self) {
        self.entries = LruCache::unbounded();
        self.bytes = 0;
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What all entries take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The age of the entry that is next to make room; `None` in an empty region.
    pub fn next_victim_age(&self, now: Instant) -> Option<Duration> {
        self.entries.peek_lru().map(|(_, entry)| now.duration_since(entry.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);
    const COST: usize = 2 + 100 + ENTRY_OVERHEAD_BYTES;

    fn id(number: usize) -> ProfileId {
        ProfileId::parse(&format!("{number:02}"), "id").unwrap()
    }

    fn insert(region: &mut LruRegion<usize>, number: usize, bytes: usize, now: Instant) -> PushedOut {
        region.insert(&id(number), number, bytes, now, TTL)
    }

    fn held(region: &LruRegion<usize>) -> Vec<usize> {
        (0..20).filter(|number| region.peek(id(*number).as_str()).is_some()).collect()
    }

    #[test]
    fn the_longest_unused_makes_room_when_bytes_run_out() {
        let mut region = LruRegion::new(3 * COST, 100);
        let start = Instant::now();
        (0..3).for_each(|number| assert_eq!(insert(&mut region, number, 100, start), PushedOut::default()));
        assert_eq!(region.bytes(), 3 * COST);
        let later = start + Duration::from_secs(2);
        assert_eq!(region.get("00", later), Found::Live(&0, Duration::from_secs(2)));
        let pushed_out = insert(&mut region, 3, 100, later);
        assert_eq!(pushed_out, PushedOut { evicted: 1, evicted_age: Duration::from_secs(2), expired: 0 });
        assert_eq!(held(&region), [0, 2, 3]);
        assert_eq!(insert(&mut region, 4, 101, later).evicted, 2, "one byte more costs one more victim");
        assert_eq!(region.bytes(), 2 * COST + 1);
    }

    #[test]
    fn the_number_of_entries_is_bounded_too() {
        let mut region = LruRegion::new(usize::MAX, 2);
        let now = Instant::now();
        for number in 0..9 {
            insert(&mut region, number, 0, now);
        }
        assert_eq!((held(&region), region.len()), (vec![7, 8], 2));
    }

    #[test]
    fn replacing_and_removing_keep_the_account() {
        let mut region = LruRegion::new(10 * COST, 100);
        let now = Instant::now();
        insert(&mut region, 1, 500, now);
        insert(&mut region, 1, 100, now);
        assert_eq!((region.len(), region.bytes()), (1, COST));
        assert!(region.remove("01", now) && !region.remove("01", now));
        assert_eq!((region.len(), region.bytes()), (0, 0));
        insert(&mut region, 1, 100, now);
        region.clear();
        assert_eq!((region.len(), region.bytes()), (0, 0));
    }

    #[test]
    fn what_is_larger_than_the_region_is_left_out_and_pushes_nothing_out() {
        let mut region = LruRegion::new(2 * COST, 100);
        let now = Instant::now();
        insert(&mut region, 1, 100, now);
        insert(&mut region, 2, 100, now);
        assert_eq!(insert(&mut region, 2, 10_000, now), PushedOut::default());
        assert_eq!(held(&region), [1], "and its former value is gone");
        let mut nothing = LruRegion::new(usize::MAX, 0);
        insert(&mut nothing, 1, 0, now);
        assert_eq!(nothing.len(), 0);
    }

    #[test]
    fn an_entry_ends_with_its_time() {
        let mut region = LruRegion::new(10 * COST, 100);
        let start = Instant::now();
        insert(&mut region, 1, 100, start);
        let last = start + TTL - Duration::from_nanos(1);
        assert!(matches!(region.get("01", last), Found::Live(1, _)));
        assert_eq!(region.get("01", start + TTL), Found::Expired);
        assert_eq!(region.get("01", start + TTL), Found::Nothing);
        insert(&mut region, 2, 100, start);
        assert!(!region.remove("02", start + TTL), "an expired entry does not count as there");
        insert(&mut region, 3, 100, start);
        assert_eq!(insert(&mut region, 4, 100, start + TTL).expired, 1, "inserts clear away what expired");
        region.insert(&id(5), 5, 0, start, Duration::MAX);
        assert!(matches!(region.get("05", start + TTL), Found::Live(5, _)));
    }
}
