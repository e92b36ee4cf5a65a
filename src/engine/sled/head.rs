//! How far the log is durable and sled has applied it, for those who follow the changes.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::engine::sequence;
use crate::model::Incarnation;
use crate::store::{Position, StoreError, StoreState};

/// The head of the log. One writer: the committer.
pub struct Head {
    incarnation: Incarnation,
    /// The last sequence number that reads may show already.
    begun: AtomicU64,
    /// The last sequence number that every read shows.
    published: watch::Sender<u64>,
    position: watch::Sender<Position>,
}

impl Head {
    /// The head of a store that has applied everything up to a sequence number.
    pub fn new(incarnation: Incarnation, sequence: u64) -> Self {
        let position = watch::Sender::new(sequence::position(incarnation, sequence));
        Self { incarnation, begun: AtomicU64::new(sequence), published: watch::Sender::new(sequence), position }
    }

    /// Says that reads may from now on show a group, which is durable.
    pub fn begin(&self, sequence: u64) {
        self.begun.store(sequence, Ordering::SeqCst);
    }

    /// Says that every read shows the group.
    pub fn publish(&self, sequence: u64) {
        self.published.send_replace(sequence);
        self.position.send_replace(sequence::position(self.incarnation, sequence));
    }

    /// The last sequence number that every read shows.
    pub fn sequence(&self) -> u64 {
        *self.published.borrow()
    }

    /// The position of the head and its changes.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// The position that covers what any read has shown so far. Fails when the group that is being applied fails.
    pub async fn settled(&self, mut state: watch::Receiver<StoreState>) -> Result<Position, StoreError> {
        let begun = self.begun.load(Ordering::SeqCst);
        let mut published = self.published.subscribe();
        let covers = published.wait_for(|sequence| *sequence >= begun);
        let sequence = tokio::select! {
            biased;
            covers = covers => covers.map_or(begun, |sequence| *sequence),
            ended = state.wait_for(|state| *state != StoreState::Open) => {
                return Err(match ended.as_deref() {
                    Ok(StoreState::Failed { cause }) => StoreError::Failed { cause: cause.clone() },
                    _ => StoreError::Closed,
                });
            }
        };
        Ok(sequence::position(self.incarnation, sequence))
    }

    /// The position behind a sequence number.
    pub fn position(&self, sequence: u64) -> Position {
        sequence::position(self.incarnation, sequence)
    }

    /// The sequence number of a position that this store has given away.
    pub fn sequence_of(&self, position: &Position) -> Result<u64, StoreError> {
        sequence::sequence_of(position, self.incarnation, self.sequence())
    }
}
