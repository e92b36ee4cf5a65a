//! The ids that went not long ago, as fingerprints.
//!
//! One slot for an id, by its hash; a newer id takes the slot of an older one, so that an id is remembered for
//! about as many others as there are slots. It may be forgotten early, and once in billions another is
//! taken for it: both only change which record stays, never what a read is answered.

use std::hash::BuildHasher;

/// A memory of ids that costs four bytes each.
#[derive(Default)]
pub struct Ghosts {
    /// A power of two of them, or none. Zero is an empty slot.
    slots: Box<[u32]>,
    hasher: lru::DefaultHasher,
}

impl Ghosts {
    /// Remembers an id. `entries` says how many ids the owner holds: for about as many the memory reaches back.
    pub fn remember(&mut self, id: &str, entries: usize) {
        if entries >= 2 * self.slots.len() {
            // What was remembered is lost with the smaller table; that happens only while the owner grows.
            self.slots = vec![0; entries.next_power_of_two()].into();
        }
        let (slot, fingerprint) = self.place(id);
        self.slots[slot] = fingerprint;
    }

    /// Forgets an id. Returns whether it was remembered.
    pub fn take(&mut self, id: &str) -> bool {
        if self.slots.is_empty() {
            return false;
        }
        let (slot, fingerprint) = self.place(id);
        let remembered = self.slots[slot] == fingerprint;
        if remembered {
            self.slots[slot] = 0;
        }
        remembered
    }

    fn place(&self, id: &str) -> (usize, u32) {
        let hash = self.hasher.hash_one(id);
        (hash as usize & (self.slots.len() - 1), (hash >> 32) as u32 | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_remembered_once_and_for_about_as_many_others_as_are_held() {
        let mut ghosts = Ghosts::default();
        assert!(!ghosts.take("a"));
        ghosts.remember("a", 1000);
        assert!(ghosts.take("a") && !ghosts.take("a") && !ghosts.take("b"));
        (0..100_000).for_each(|number| ghosts.remember(&number.to_string(), 1000));
        assert_eq!(ghosts.slots.len(), 1024);
        let mut remembered = |numbers: std::ops::Range<u32>| numbers.filter(|n| ghosts.take(&n.to_string())).count();
        assert_eq!(remembered(0..50_000), 0);
        assert!(remembered(99_900..100_000) > 80, "of the last hundred few have lost their slot");
    }

    #[test]
    fn the_memory_grows_with_its_owner() {
        let mut ghosts = Ghosts::default();
        for entries in 0..5000 {
            ghosts.remember("a", entries);
            assert!(ghosts.slots.len() <= 2 * entries.max(1) && entries <= 2 * ghosts.slots.len());
        }
    }
}
