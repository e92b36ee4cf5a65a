//! Counts of the most frequent keys of a stream, in bounded memory.
//!
//! Space-Saving, with room made for many keys at once: a new key takes over the largest count that was ever dropped
//! (the floor), since it may be the key that had it. When twice the capacity is counted, the lower half goes, and the
//! floor rises to the largest count among it. A key costs one look-up, and now and then a pass over all counts.
//!
//! Invariants: a key's true count is at most its estimate, and at least its estimate less its error; a key that is not
//! counted has at most the floor; the floor is at most what was added in all, divided by the capacity.

use std::collections::HashMap;

/// Counts of keys.
#[derive(Debug)]
pub struct Counters {
    counts: HashMap<Box<str>, Count>,
    floor: u64,
    capacity: usize,
}

/// An estimate of how often a key was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// At least the truth.
    pub estimate: u64,
    /// By how much the estimate may be too high.
    pub error: u64,
}

/// The largest of some counts, as they were at one time.
#[derive(Debug, Clone, Default)]
pub struct Leaders {
    /// Keys with their counts, in no order.
    pub keys: Vec<(Box<str>, Count)>,
    /// What any other key may have at most.
    pub floor: u64,
}

impl Counters {
    /// Counts that are exact for so many keys, and hold at most twice as many.
    pub fn new(capacity: usize) -> Self {
        Self { counts: HashMap::new(), floor: 0, capacity: capacity.max(1) }
    }

    /// Counts a key `weight` times more.
    pub fn add(&mut self, key: &str, weight: u64) {
        if let Some(count) = self.counts.get_mut(key) {
            count.estimate += weight;
            return;
        }
        if self.counts.len() >= 2 * self.capacity {
            self.make_room();
        }
        self.counts.insert(key.into(), Count { estimate: self.floor + weight, error: self.floor });
    }

    /// The largest counts: about as many as asked for, fewer when several are alike.
    pub fn leaders(&self, most: usize) -> Leaders {
        let floor = self.largest_beyond(most).unwrap_or(0).max(self.floor);
        // Without anything dropped even the smallest count is a leader.
        let leads = |count: &Count| count.estimate > floor;
        let keys = self.counts.iter().filter(|(_, count)| leads(count)).map(|(key, count)| (key.clone(), *count));
        Leaders { keys: keys.collect(), floor }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.clear();
        self.floor = 0;
    }

    fn make_room(&mut self) {
        let Some(floor) = self.largest_beyond(self.capacity) else { return };
        self.counts.retain(|_, count| count.estimate > floor);
        self.floor = self.floor.max(floor);
    }

    /// The largest estimate that is not among the `most` largest; `None` when there are no more than those.
    fn largest_beyond(&self, most: usize) -> Option<u64> {
        let beyond = self.counts.len().checked_sub(most).filter(|beyond| *beyond > 0)?;
        let mut estimates: Vec<u64> = self.counts.values().map(|count| count.estimate).collect();
        let (_, largest, _) = estimates.select_nth_unstable(beyond - 1);
        Some(*largest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut counters = Counters::new(4);
        for key in ["a", "b", "a", "c", "a", "b", "d"] {
            counters.add(key, 2);
        }
        let Leaders { mut keys, floor } = counters.leaders(8);
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        let exact = |estimate| Count { estimate, error: 0 };
        let expected = [("a", 6), ("b", 4), ("c", 2), ("d", 2)].map(|(key, count)| (key.into(), exact(count)));
        assert_eq!((keys, floor), (expected.to_vec(), 0));
        let Leaders { keys, floor } = counters.leaders(2);
        assert_eq!((keys.len(), floor), (2, 2), "the two largest, and no other has more than 2");
    }

    proptest! {
        #[test]
        fn the_truth_is_within_the_error_of_every_estimate(
            keys in proptest::collection::vec((0..40_u8, 1..4_u64), 0..600),
            capacity in 1..8_usize,
            most in 1..20_usize,
        ) {
            let mut counters = Counters::new(capacity);
            let mut truth: HashMap<String, u64> = HashMap::new();
            for (key, weight) in &keys {
                // Low numbers are met more often than high ones.
                let key = (u32::from(*key).pow(2) / 40).to_string();
                counters.add(&key, *weight);
                *truth.entry(key).or_default() += weight;
                prop_assert!(counters.counts.len() <= 2 * capacity);
            }
            let total: u64 = truth.values().sum();
            prop_assert!(counters.floor <= total / capacity as u64);
            let leaders = counters.leaders(most);
            prop_assert!(leaders.keys.len() <= most);
            for (key, count) in &leaders.keys {
                let true_count = truth.remove(&**key).unwrap();
                prop_assert!(true_count <= count.estimate && count.estimate - count.error <= true_count);
            }
            prop_assert!(truth.values().all(|count| *count <= leaders.floor), "what does not lead has the floor at most");
        }
    }
}
