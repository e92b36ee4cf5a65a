//! Counts and latency histograms that any floor keeps and nobody but a scrape reads.
//!
//! All histograms of latency share [`LATENCY_BOUNDS`], so that those of the store can be subtracted from those of
//! the calls. Nothing here locks, allocates or waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets of every latency, in nanoseconds. What took longer is in one more bucket.
pub const LATENCY_BOUNDS: [u64; 18] = [
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// The upper bounds of the buckets of group sizes.
pub const SIZE_BOUNDS: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// The place of a value among buckets with these upper bounds, which it may be equal to.
pub fn bucket_of(bounds: &[u64], value: u64) -> usize {
    // The small ones are the frequent ones.
    bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len())
}

/// A duration as nanoseconds; 584 years at most.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a histogram has seen: the number of values in each bucket (not cumulated), and their sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The upper bounds of all buckets but the last, which has none.
    pub bounds: &'static [u64],
    /// The number of values in each bucket.
    pub counts: Vec<u64>,
    /// The sum of all values, in the unit of the bounds.
    pub sum: u64,
}

impl Distribution {
    /// Nothing seen yet.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// The number of all values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// A value that `part` (0 to 1) of all values do not exceed, in the unit of the bounds: guessed within its bucket,
    /// and the last bound when it lies above that. `None` when nothing was seen.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = part.clamp(0.0, 1.0) * count as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (in_bucket, upper) in self.counts.iter().zip(self.bounds) {
            let in_bucket = *in_bucket as f64;
            if in_bucket > 0.0 && below + in_bucket >= rank {
                return Some(lower + (*upper as f64 - lower) * ((rank - below) / in_bucket));
            }
            (below, lower) = (below + in_bucket, *upper as f64);
        }
        Some(lower)
    }
}

/// A histogram that any thread may add to.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one with these upper bounds.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// An empty one for latencies.
    pub fn of_latencies() -> Self {
        Self::new(&LATENCY_BOUNDS)
    }

    /// Adds a value.
    pub fn add(&self, value: u64) {
        self.counts[bucket_of(self.bounds, value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Adds a latency.
    pub fn add_latency(&self, latency: Duration) {
        self.add(nanos(latency));
    }

    /// What it has seen.
    pub fn distribution(&self) -> Distribution {
        Distribution {
            bounds: self.bounds,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_the_first_bucket_that_it_does_not_exceed() {
        let histogram = Histogram::of_latencies();
        for value in [0, 25_000, 25_001, 10_000_000_000, 10_000_000_001, u64::MAX / 2] {
            histogram.add(value);
        }
        let seen = histogram.distribution();
        assert_eq!((seen.counts[0], seen.counts[1], seen.counts[17], seen.counts[18]), (2, 1, 1, 2));
        assert_eq!(seen.count(), 6);
        assert!(LATENCY_BOUNDS.is_sorted() && SIZE_BOUNDS.is_sorted());
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_that_its_value_is_in() {
        let histogram = Histogram::of_latencies();
        assert_eq!(histogram.distribution().quantile(0.5), None);
        for _ in 0..99 {
            histogram.add(30_000);
        }
        histogram.add(80_000_000);
        let seen = histogram.distribution();
        let (median, last) = (seen.quantile(0.5).unwrap(), seen.quantile(1.0).unwrap());
        assert!((25_000.0..=50_000.0).contains(&median), "{median}");
        assert!((50_000_000.0..=100_000_000.0).contains(&last), "{last}");
        histogram.add(u64::MAX / 2);
        assert_eq!(histogram.distribution().quantile(1.0), Some(10_000_000_000.0));
    }
}
