//! Positions of engines with one global sequence.
//!
//! ```text
//! incarnation (8) | sequence number of the last change before the position (8), both big-endian
//! ```

use crate::model::Incarnation;
use crate::store::{Hold, HoldName, Position, StoreError};

const BYTES: usize = 16;

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
