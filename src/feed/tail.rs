//! The latest changes, read once for all watchers near the head.
//!
//! Invariants: the chunks follow one another without a gap; every position that a watcher can have got from them
//! is found; count and bytes have bounds, and the oldest chunk goes first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::event::FeedChange;
use crate::store::{ChangePage, Position};

const MAX_CHANGES: usize = 65_536;
/// What the changes take with their encoded events, about.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// What a change takes in memory beside its profile.
const PER_CHANGE_BYTES: usize = 400;

/// Some changes that were read together.
#[derive(Debug)]
pub struct Chunk {
    pub changes: Vec<FeedChange>,
    /// The position behind the chunk.
    pub next: Position,
}

impl Chunk {
    pub fn new(page: ChangePage) -> Self {
        Self { changes: page.changes.into_iter().map(FeedChange::new).collect(), next: page.next }
    }

    fn bytes(&self) -> usize {
        // Twice, because the event has the profile again.
        self.changes.iter().map(|each| 2 * each.change.cost() + PER_CHANGE_BYTES).sum()
    }
}

/// What the tail has after a position.
#[derive(Debug)]
pub enum After {
    /// A chunk, from one of its changes on.
    Changes(Arc<Chunk>, usize),
    /// Nothing yet.
    Nothing,
    /// The position is not in the tail.
    Unknown,
}

/// The latest chunks.
#[derive(Debug)]
pub struct Tail {
    chunks: VecDeque<Arc<Chunk>>,
    /// The number of the first chunk; they are counted from the tail's start.
    first: u64,
    /// For each position: the chunk and the change that come after it.
    places: HashMap<Position, (u64, usize)>,
    /// The position before the first chunk.
    start: Position,
    /// The position behind the last chunk.
    end: Position,
    changes: usize,
    bytes: usize,
}

impl Tail {
    /// An empty tail at a position.
    pub fn new(at: Position) -> Self {
        Self {
            chunks: VecDeque::new(),
            first: 0,
            places: HashMap::from([(at, (0, 0))]),
            start: at,
            end: at,
            changes: 0,
            bytes: 0,
        }
    }

    /// The position behind all of it.
    pub fn end(&self) -> Position {
        self.end
    }

    /// What comes after a position.
    pub fn after(&self, position: &Position) -> After {
        let Some(&(number, index)) = self.places.get(position) else { return After::Unknown };
        match self.chunks.get((number - self.first) as usize) {
            Some(chunk) => After::Changes(chunk.clone(), index),
            None => After::Nothing,
        }
    }

    /// Adds what comes next.
    pub fn push(&mut self, chunk: Chunk) {
        let number = self.first + self.chunks.len() as u64;
        for (index, each) in chunk.changes.iter().enumerate() {
            self.places.insert(each.change.position, (number, index + 1));
        }
        self.places.insert(chunk.next, (number + 1, 0));
        self.end = chunk.next;
        self.changes += chunk.changes.len();
        self.bytes += chunk.bytes();
        self.chunks.push_back(Arc::new(chunk));
        while self.chunks.len() > 1 && (self.changes > MAX_CHANGES || self.bytes > MAX_BYTES) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(chunk) = self.chunks.pop_front() else { return };
        self.first += 1;
        self.changes -= chunk.changes.len();
        self.bytes -= chunk.bytes();
        self.places.remove(&self.start);
        for each in chunk.changes.iter().filter(|each| each.change.position != chunk.next) {
            self.places.remove(&each.change.position);
        }
        self.start = chunk.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CommitTime, ProfileId};
    use crate::store::CommittedChange;

    fn position(number: u64) -> Position {
        Position::new(&number.to_be_bytes()).unwrap()
    }

    fn change(number: u64) -> CommittedChange {
        CommittedChange {
            position: position(number),
            time: CommitTime::default(),
            id: ProfileId::parse("a", "id").unwrap(),
            record: None,
            previous_index_key: None,
            trace: None,
        }
    }

    /// The positions of all changes after one, chunk by chunk; `None` when it is unknown.
    fn walk(tail: &Tail, mut at: Position) -> Option<Vec<Position>> {
        let mut found = Vec::new();
        loop {
            match tail.after(&at) {
                After::Changes(chunk, from) => {
                    found.extend(chunk.changes[from..].iter().map(|each| each.change.position));
                    at = chunk.next;
                }
                After::Nothing => return Some(found),
                After::Unknown => return None,
            }
        }
    }

    #[test]
    fn every_position_in_the_tail_leads_to_all_that_follows() {
        let mut tail = Tail::new(position(10));
        // 13, 17 and 18 are positions without a change.
        for (changes, next) in [(11..13, 13), (14..17, 17), (18..18, 18), (19..20, 19)] {
            tail.push(Chunk::new(ChangePage { changes: changes.map(change).collect(), next: position(next) }));
        }
        let all: Vec<_> = [11, 12, 14, 15, 16, 19].map(position).into();
        for at in 10..=19 {
            let follow: Vec<_> =
                all.iter().copied().filter(|each| each.as_bytes() > position(at).as_bytes()).collect();
            assert_eq!(walk(&tail, position(at)), Some(follow), "after {at}");
        }
        assert_eq!(walk(&tail, position(9)), None);
        assert_eq!(tail.end(), position(19));
    }

    #[test]
    fn the_tail_has_a_bound_and_forgets_the_oldest_first() {
        let mut tail = Tail::new(position(0));
        for number in 0..3 * MAX_CHANGES as u64 {
            tail.push(Chunk::new(ChangePage { changes: vec![change(number + 1)], next: position(number + 1) }));
        }
        let last = 3 * MAX_CHANGES as u64;
        assert!(tail.changes <= MAX_CHANGES && tail.bytes <= MAX_BYTES);
        assert_eq!(tail.places.len(), tail.changes + 1, "no position is left behind");
        assert_eq!(walk(&tail, position(last - tail.changes as u64)).unwrap().len(), tail.changes);
        assert_eq!(walk(&tail, position(last - tail.changes as u64 - 1)), None);
    }
}
