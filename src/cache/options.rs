//! The bounds of a cache and how they are shared out.

use std::time::Duration;

/// The bounds of a cache. With no bytes or no entries it caches nothing, and everything still works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// The most bytes that records take in memory, in all, keys and bookkeeping included.
    pub max_bytes: usize,
    /// The most records, in all.
    pub max_entries: usize,
    /// The longest that a record stays unless it is written; up to a tenth less, by chance, so that what came
    /// in together does not go out together.
    pub ttl: Duration,
    /// The longest that the absence of a profile is remembered; up to a tenth less, likewise.
    pub negative_ttl: Duration,
    /// The most absences, in all; 0 remembers none.
    pub negative_entries: usize,
    /// The most bytes of answers to queries by domain; 0 keeps none.
    pub page_bytes: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            max_entries: 1_000_000,
            ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(5),
            negative_entries: 65_536,
            page_bytes: 32 << 20,
        }
    }
}

/// The most shards that are made without being asked for.
const DEFAULT_SHARDS: usize = 64;
/// A shard's least share: with less, the bounds of single shards would be met long before those of all.
const MIN_SHARD_BYTES: usize = 1 << 20;
const MIN_SHARD_ENTRIES: usize = 1024;

impl CacheOptions {
    /// Whether anything is cached at all.
    pub(super) fn caches(&self) -> bool {
        self.max_bytes > 0 && self.max_entries > 0
    }

    /// How many shards suit these bounds: a power of two.
    pub(super) fn shard_count(&self) -> usize {
        let affordable = (self.max_bytes / MIN_SHARD_BYTES).min(self.max_entries / MIN_SHARD_ENTRIES);
        let mut shards = DEFAULT_SHARDS;
        while shards > 1 && shards > affordable {
            shards /= 2;
        }
        shards
    }

    /// The bounds of one of so many shards. A bound above 0 stays above 0.
    pub(super) fn share(&self, shards: usize) -> Self {
        let share = |bound: usize| if bound == 0 { 0 } else { (bound / shards).max(1) };
        Self {
            max_bytes: share(self.max_bytes),
            max_entries: share(self.max_entries),
            negative_entries: share(self.negative_entries),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_caches_have_few_shards() {
        assert_eq!(CacheOptions::default().shard_count(), 64);
        assert_eq!(CacheOptions { max_bytes: 9 << 20, ..CacheOptions::default() }.shard_count(), 8);
        assert_eq!(CacheOptions { max_entries: 100, ..CacheOptions::default() }.shard_count(), 1);
        assert_eq!(CacheOptions { max_bytes: 0, ..CacheOptions::default() }.shard_count(), 1);
    }

    #[test]
    fn a_share_of_something_is_never_nothing() {
        let share = CacheOptions { max_entries: 3, negative_entries: 0, ..CacheOptions::default() }.share(64);
        assert_eq!((share.max_bytes, share.max_entries, share.negative_entries), (4 << 20, 1, 0));
    }
}
