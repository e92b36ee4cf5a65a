//! One thread's counts over the last minute: a sample of what it met, in slices of time.
//!
//! While little happens every key is counted. With more, keys are left out by chance, and one that is counted stands for
//! `interval` of them, so the cost of all that is met stays nearly that of a counter, and estimates stay unbiased.
//!
//! Invariant: a slice counts at most a few times [`SAMPLES`] keys at one interval, unless the interval is the longest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::counters::{Counters, Leaders};

/// The length of a slice.
pub const SLICE: Duration = Duration::from_secs(10);
/// The slices that are kept, the current one included.
pub const SLICES: u64 = 6;
/// About so many keys of a slice are counted.
const SAMPLES: u64 = 16_384;
/// One key in so many is counted at least. Longer intervals would save nothing more.
const LONGEST_INTERVAL: u64 = 64;
/// What is kept of a slice that is over.
const LEADERS: usize = 256;

/// Counts over the last slices.
#[derive(Debug)]
pub struct Window {
    random: SmallRng,
    /// The number of the current slice.
    slice: u64,
    counters: Counters,
    /// The keys that the current slice stands for.
    met: u64,
    /// The keys counted since the interval was set.
    counted: u64,
    interval: u64,
    /// The longest interval of the current slice.
    longest_interval: u64,
    /// The slices before, with their numbers, the oldest first.
    before: VecDeque<(u64, Arc<Part>)>,
}

/// What a slice knows.
#[derive(Debug, Default)]
pub struct Part {
    /// The keys that were met most.
    pub leaders: Leaders,
    /// One key in so many was counted at least.
    pub interval: u64,
}

impl Window {
    /// An empty window whose slices are exact for `capacity` keys.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            slice: 0,
            counters: Counters::new(capacity),
            met: 0,
            counted: 0,
            interval: 1,
            longest_interval: 1,
            before: VecDeque::new(),
        }
    }

    /// Counts a key that was met in a slice, and says how many keys are now to be left out.
    pub fn add(&mut self, slice: u64, key: &str) -> u32 {
        self.move_to(slice);
        self.counters.add(key, self.interval);
        self.met += self.interval;
        self.counted += 1;
        if self.counted >= 2 * SAMPLES && self.interval < LONGEST_INTERVAL {
            self.set_interval(self.interval * 2);
        }
        self.left_out()
    }

    /// What the slices know that are not over for longer than the window, the current one among them.
    pub fn parts(&mut self, slice: u64) -> Vec<Arc<Part>> {
        self.move_to(slice);
        let current = Part { leaders: self.counters.leaders(LEADERS), interval: self.longest_interval };
        self.before.iter().map(|(_, part)| part.clone()).chain([Arc::new(current)]).collect()
    }

    /// Whether no key is left out.
    pub fn counts_all(&self) -> bool {
        self.interval == 1
    }

    /// Ends the current slice when another one has begun. The interval follows what was met in the slice before.
    fn move_to(&mut self, slice: u64) {
        if slice <= self.slice {
            return;
        }
        if self.met > 0 {
            let part = Part { leaders: self.counters.leaders(LEADERS), interval: self.longest_interval };
            self.before.push_back((self.slice, Arc::new(part)));
        }
        let met = if slice == self.slice + 1 { self.met } else { 0 };
        self.counters.clear();
        (self.slice, self.met, self.longest_interval) = (slice, 0, 1);
        self.set_interval((met / SAMPLES).next_power_of_two().min(LONGEST_INTERVAL));
        while self.before.front().is_some_and(|(number, _)| number + SLICES <= slice) {
            self.before.pop_front();
        }
    }

    fn set_interval(&mut self, interval: u64) {
        self.interval = interval;
        self.longest_interval = self.longest_interval.max(interval);
        self.counted = 0;
    }

    /// Each key is counted with a chance of one in `interval`, whatever became of the others, so no rhythm of the
    /// callers can hide a key. The number of those left out before the next is then distributed geometrically.
    fn left_out(&mut self) -> u32 {
        if self.interval == 1 {
            return 0;
        }
        let chance = 1.0 / self.interval as f64;
        // The uniform number is in (0, 1], so the logarithm is finite.
        let uniform: f64 = 1.0 - self.random.random::<f64>();
        (uniform.ln() / (1.0 - chance).ln()) as u32
    }
}
