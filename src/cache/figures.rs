//! What a cache can tell about itself.

use std::time::Duration;

/// Figures of a whole cache: counts since it was made, and what it holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Reads answered with a cached record.
    pub hits: u64,
    /// Reads answered with a cached absence.
    pub negative_hits: u64,
    /// Reads that found nothing here.
    pub misses: u64,
    /// Those of the misses that waited for another caller's load instead of loading.
    pub joins: u64,
    /// Loads that were not installed because of a commit meanwhile.
    pub refused_fills: u64,
    /// Records that made room for others.
    pub evictions: u64,
    /// Records whose time to live was over when they were met.
    pub expirations: u64,
    /// The records held now.
    pub entries: u64,
    /// The absences held now.
    pub negative_entries: u64,
    /// The bytes that the records take now, keys and bookkeeping included.
    pub bytes: u64,
    /// The bound on those bytes.
    pub capacity_bytes: u64,
    /// The ages of all records when they were hit, together.
    pub ages_at_hit: Duration,
    /// The ages of all records when they were evicted, together.
    pub ages_at_eviction: Duration,
    /// The mean age of records when they were hit; zero without hits.
    pub mean_age_at_hit: Duration,
    /// The mean age of records when they were evicted; zero without evictions. Records that nobody asked for
    /// twice go young. When it is far below the time to live though ids are read again and again, a larger
    /// cache would hit more often.
    pub mean_age_at_eviction: Duration,
    /// The age of the oldest of the records that are next to make room, one of each shard.
    pub oldest_next_victim_age: Duration,
}

/// The counts of one shard, kept under its lock.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    pub hits: u64,
    pub negative_hits: u64,
    pub misses: u64,
    pub joins: u64,
    pub refused_fills: u64,
    pub evictions: u64,
    pub expirations: u64,
    pub hit_age: Duration,
    pub evicted_age: Duration,
}

impl Tallies {
    /// Adds another shard's counts.
    pub fn add(&mut self, other: &Tallies) {
        self.hits += other.hits;
        self.negative_hits += other.negative_hits;
        self.misses += other.misses;
        self.joins += other.joins;
        self.refused_fills += other.refused_fills;
        self.evictions += other.evictions;
        self.expirations += other.expirations;
        self.hit_age += other.hit_age;
        self.evicted_age += other.evicted_age;
    }

    /// As figures; what the cache holds is left at nothing.
    pub fn figures(&self) -> CacheFigures {
        CacheFigures {
            hits: self.hits,
            negative_hits: self.negative_hits,
            misses: self.misses,
            joins: self.joins,
            refused_fills: self.refused_fills,
            evictions: self.evictions,
            expirations: self.expirations,
            ages_at_hit: self.hit_age,
            ages_at_eviction: self.evicted_age,
            mean_age_at_hit: mean(self.hit_age, self.hits),
            mean_age_at_eviction: mean(self.evicted_age, self.evictions),
            ..CacheFigures::default()
        }
    }
}

fn mean(sum: Duration, count: u64) -> Duration {
    if count == 0 { Duration::ZERO } else { Duration::from_secs_f64(sum.as_secs_f64() / count as f64) }
}
