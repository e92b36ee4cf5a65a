//! Positions of engines with one global sequence.
//!
//! ```text
//! incarnation (8) | sequence number of the last change before the position (8), both big-endian
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Incarnation;
use crate::store::{Hold, HoldName, Position, StoreError};

const BYTES: usize = 16;
/// How many bits of an incarnation are chance; the others are the time.
const CHANCE_BITS: u32 = 20;

/// The incarnation of a store that begins now. It is larger than those of stores that began in an earlier millisecond of
/// this clock, so that the positions of a restored store sort behind those of the store that was backed up.
pub fn new_incarnation() -> Incarnation {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    incarnation_of(since_epoch.as_millis() as u64, rand::random())
}

fn incarnation_of(millis: u64, chance: u64) -> Incarnation {
    Incarnation(millis << CHANCE_BITS | chance & ((1 << CHANCE_BITS) - 1))
}

/// The position behind the change with a sequence number, which is also that change's own position.
pub fn position(incarnation: Incarnation, sequence: u64) -> Position {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&incarnation.0.to_be_bytes());
    bytes[8..].copy_from_slice(&sequence.to_be_bytes());
    // Shorter than the longest position.
    Position::new(&bytes).unwrap_or_else(|| unreachable!())
}

/// The sequence number of a position that was made in this life of the store. Nothing after `head` was ever made.
pub fn sequence_of(position: &Position, incarnation: Incarnation, head: u64) -> Result<u64, StoreError> {
    let parts = position.as_bytes().split_first_chunk::<8>();
    let parts = parts.and_then(|(life, sequence)| Some((*life, <[u8; 8]>::try_from(sequence).ok()?)));
    match parts {
        Some((life, sequence)) if u64::from_be_bytes(life) == incarnation.0 => {
            Some(u64::from_be_bytes(sequence)).filter(|sequence| *sequence <= head)
        }
        _ => None,
    }
    .ok_or(StoreError::InvalidPosition)
}

/// What a hold of the changes after a sequence number amounts to, when everything after `oldest` up to `head` is kept.
pub fn hold(name: &HoldName, incarnation: Incarnation, after: u64, oldest: u64, head: u64) -> Hold {
    Hold {
        name: name.clone(),
        position: position(incarnation, after),
        lag: head.saturating_sub(after),
        lost: oldest.saturating_sub(after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_a_later_life_sort_behind_those_of_an_earlier_one() {
        let (earlier, later) = (incarnation_of(1_000, u64::MAX), incarnation_of(1_001, 0));
        assert!(position(earlier, u64::MAX).as_bytes() < position(later, 0).as_bytes());
        assert_ne!(incarnation_of(1_000, 1), incarnation_of(1_000, 2), "two of one millisecond are told apart");
        let lives: std::collections::HashSet<_> = (0..100).map(|_| new_incarnation().0).collect();
        assert!(lives.len() > 90, "chance has a part in it");
    }
}
