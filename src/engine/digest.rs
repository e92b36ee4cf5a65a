//! A digest of a set that follows every change at the cost of the change.
//!
//! It is the sum, modulo 2^64, of a hash of each member. Adding and removing members in any order gives the same
//! sum, so what a state should hold can be compared with what a scan of it finds: a member that is lost, old or
//! there twice changes the sum, but for one case in 2^64. The hash is part of the stored format.

use crate::model::{Change, Revision};

/// The sum over a set. The default is that of the empty set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub u64);

impl Digest {
    /// Adds a member by its hash.
    pub fn add(&mut self, hash: u64) {
        self.0 = self.0.wrapping_add(hash);
    }

    /// Removes a member by its hash.
    pub fn remove(&mut self, hash: u64) {
        self.0 = self.0.wrapping_sub(hash);
    }

    /// Follows a change of a profile.
    pub fn follow(&mut self, change: &Change) {
        if let Some(before) = change.previous_revision {
            self.remove(record_hash(change.id.as_bytes(), before));
        }
        if change.record.is_some() {
            self.add(record_hash(change.id.as_bytes(), change.revision));
        }
    }
}

/// The hash of a record: of its id and its revision. Two records that have both in common are one.
pub fn record_hash(id: &[u8], revision: Revision) -> u64 {
    hash(&[id, &revision.0.to_le_bytes()])
}

/// FNV-1a over the parts, each with its length, and then mixed (the finalizer of MurmurHash3), because sums of plain FNV of similar
/// members are similar.
pub fn hash(parts: &[&[u8]]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = OFFSET;
    for part in parts {
        hash = (hash ^ part.len() as u64).wrapping_mul(PRIME);
        for &byte in *part {
            hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_what_is_removed_is_gone() {
        let hashes: Vec<u64> = (0..5).map(|number| record_hash(b"user", Revision(number))).collect();
        let (mut there, mut back) = (Digest::default(), Digest::default());
        hashes.iter().for_each(|&hash| there.add(hash));
        hashes.iter().rev().for_each(|&hash| back.add(hash));
        assert_eq!(there, back);
        hashes.iter().for_each(|&hash| there.remove(hash));
        assert_eq!(there, Digest::default());
    }

    #[test]
    fn the_hash_is_the_same_in_every_version() {
        assert_eq!(record_hash(b"user-7", Revision(3)), 2_342_618_421_485_278_908);
        assert_ne!(hash(&[b"a", b"bc"]), hash(&[b"ab", b"c"]));
    }
}
