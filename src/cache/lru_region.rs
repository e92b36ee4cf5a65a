//! A bounded map that forgets what was used longest ago, and first of all what was used only once.
//!
//! Two lists. A new entry waits on *probation*, in the order of arrival. When room is needed and probation holds
//! more than its share, its oldest entry goes if nobody has asked for it since, and else moves on to the
//! *protected* entries; those make room in the order of their last use. An id that went not long ago and is asked
//! for again is protected at once. So a scan of ids that nobody asks for twice passes through the tenth that
//! is probation. (Johnson and Shasha call it 2Q.)
//!
//! No lock and no clock: the owner locks, and every call is told the time.
//!
//! Invariants: an id is on one list at most; each list's `bytes` is the sum of the costs of its entries; neither
//! bound is ever exceeded, by both lists together, when a call returns.

use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::ghosts::Ghosts;
use crate::model::ProfileId;

/// What an entry takes in memory beside its id and its value's heap buffer: the list node with key, value
/// and times, its slots in the hash table and in the memory of what went, and the headers of the two shared
/// allocations.
pub const ENTRY_OVERHEAD_BYTES: usize = 256;

/// At most so many expired entries of each list are dropped on the way of one insert.
const PURGED_PER_INSERT: usize = 2;
/// Probation may hold one in so many of the entries, and as small a part of the bytes, before it makes room first.
const PROBATION_SHARE: usize = 10;
/// At most so many entries move from probation to the protected ones to find one that makes room.
const MOVED_PER_VICTIM: usize = 64;

/// Values by id, bounded in number and in cost.
pub struct LruRegion<V> {
    probation: List<V>,
    protected: List<V>,
    /// What made room not long ago, and what was taken out that had been asked for again.
    ghosts: Ghosts,
    max_bytes: usize,
    max_entries: usize,
}

struct Entry<V> {
    value: V,
    bytes: usize,
    since: Instant,
    until: Instant,
    /// Whether anybody asked for it while it was on probation.
    used: bool,
}

/// Entries in an order, and the sum of their costs.
struct List<V> {
    entries: LruCache<ProfileId, Entry<V>>,
    bytes: usize,
}

/// What a lookup found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<V> {
    /// A value and how long it has been here.
    Live(V, Duration),
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

impl<V> List<V> {
    fn new() -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0 }
    }

    fn push(&mut self, id: ProfileId, entry: Entry<V>) {
        self.bytes += entry.bytes;
        self.entries.push(id, entry);
    }

    fn pop(&mut self, id: &str) -> Option<Entry<V>> {
        let entry = self.entries.pop(id)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    fn pop_oldest(&mut self) -> Option<(ProfileId, Entry<V>)> {
        let (id, entry) = self.entries.pop_lru()?;
        self.bytes -= entry.bytes;
        Some((id, entry))
    }

    fn oldest(&self) -> Option<&Entry<V>> {
        self.entries.peek_lru().map(|(_, entry)| entry)
    }
}

impl<V: Clone> LruRegion<V> {
    /// An empty region.
    pub fn new(max_bytes: usize, max_entries: usize) -> Self {
        let (probation, protected) = (List::new(), List::new());
        Self { probation, protected, ghosts: Ghosts::default(), max_bytes, max_entries }
    }

    /// The value of an id, which counts as used now.
    pub fn get(&mut self, id: &str, now: Instant) -> Found<V> {
        self.get_with(id, now, V::clone)
    }

    /// What `look` makes of the value of an id, which counts as used now.
    pub fn get_with<R>(&mut self, id: &str, now: Instant, look: impl FnOnce(&V) -> R) -> Found<R> {
        let entry = match self.protected.entries.get(id) {
            Some(entry) => entry,
            None => match self.probation.entries.peek_mut(id) {
                Some(entry) => {
                    entry.used = true;
                    entry
                }
                None => return Found::Nothing,
            },
        };
        if entry.until > now {
            return Found::Live(look(&entry.value), now.duration_since(entry.since));
        }
        self.remove(id, now);
        Found::Expired
    }

    /// The value of an id whatever its age, without counting as used.
    pub fn peek(&self, id: &str) -> Option<&V> {
        let entry = self.protected.entries.peek(id).or_else(|| self.probation.entries.peek(id));
        entry.map(|entry| &entry.value)
    }

    /// Takes an id out. Returns whether there was a value whose time was not over.
    ///
    /// An id that had been asked for again is protected when it comes back: a write and the end of its time to live
    /// do not make a hot profile a new one. (Of many that are out at a time in a small region a few are forgotten.)
    pub fn remove(&mut self, id: &str, now: Instant) -> bool {
        let (entry, earned) = match self.protected.pop(id) {
            Some(entry) => (entry, true),
            None => match self.probation.pop(id) {
                Some(entry) => {
                    let used = entry.used;
                    (entry, used)
                }
                None => return false,
            },
        };
        if earned {
            self.ghosts.remember(id, self.len());
        }
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
        // Before others that make room take its place in the memory.
        let earned = self.ghosts.take(id.as_str());
        pushed_out.expired = purge(&mut self.probation, now) + purge(&mut self.protected, now);
        while self.bytes() + bytes > self.max_bytes || self.len() >= self.max_entries {
            let Some(victim) = self.make_room() else { break };
            pushed_out.evicted += 1;
            pushed_out.evicted_age += now.duration_since(victim.since);
        }
        // A time to live too large to add is as good as for ever; a century stands for it.
        let until = now.checked_add(ttl).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400));
        let list = if earned { &mut self.protected } else { &mut self.probation };
        list.push(id.clone(), Entry { value, bytes, since: now, until, used: false });
        pushed_out
    }

    /// Takes out the entry whose turn it is. Few entries move on for it, however many have earned it: an insert
    /// takes a bounded time.
    fn make_room(&mut self) -> Option<Entry<V>> {
        let entries = self.len();
        for _ in 0..MOVED_PER_VICTIM {
            if !self.probation_is_full() {
                break;
            }
            let (id, entry) = self.probation.pop_oldest()?;
            if !entry.used {
                self.ghosts.remember(id.as_str(), entries);
                return Some(entry);
            }
            self.protected.push(id, entry);
        }
        let (id, entry) = self.protected.pop_oldest()?;
        self.ghosts.remember(id.as_str(), entries);
        Some(entry)
    }

    /// Whether probation holds its share or more, in number or in bytes. It does when nothing is protected.
    fn probation_is_full(&self) -> bool {
        let of_entries = self.probation.entries.len().saturating_mul(PROBATION_SHARE) >= self.len();
        of_entries || self.probation.bytes.saturating_mul(PROBATION_SHARE) >= self.bytes()
    }

    /// Forgets everything and gives its memory back.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_bytes, self.max_entries);
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.probation.entries.len() + self.protected.entries.len()
    }

    /// What all entries take, in bytes.
    pub fn bytes(&self) -> usize {
        self.probation.bytes + self.protected.bytes
    }

    /// The age of the entry whose turn it is to make room, unless it has earned to stay; `None` in an empty region.
    pub fn next_victim_age(&self, now: Instant) -> Option<Duration> {
        let list = if self.probation_is_full() { &self.probation } else { &self.protected };
        list.oldest().map(|entry| now.duration_since(entry.since))
    }
}

/// Drops a few of a list's oldest entries if their time is over: nobody may ever ask for them again. Returns how many.
fn purge<V>(list: &mut List<V>, now: Instant) -> u64 {
    let mut expired = 0;
    while expired < PURGED_PER_INSERT as u64 && list.oldest().is_some_and(|entry| entry.until <= now) {
        list.pop_oldest();
        expired += 1;
    }
    expired
}

#[cfg(test)]
mod tests;
