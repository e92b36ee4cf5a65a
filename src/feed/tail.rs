//! The latest changes, read once for all watchers near the head.
//!
//! Invariants: the chunks follow one another without a gap; every position that a watcher can have got from them
//! is found; count and bytes have bounds, and the oldest chunk goes first.

use std::collections::{HashMap, VecDeque};
use std::iter::{once, repeat};
use std::sync::Arc;

use super::event::FeedChange;
use super::topics::{Listener, Topic};
use crate::store::{ChangePage, Position};

const MAX_CHANGES: usize = 65_536;
/// What the changes take with their encoded events, about.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// What a change takes in memory beside its profile.
const PER_CHANGE_BYTES: usize = 400;
/// What a chunk takes with its place. A commit that changes nothing but is remembered for its request id is a chunk too.
const PER_CHUNK_BYTES: usize = 256;
/// How many chunks are gone past while the tail is locked.
const MAX_SKIPPED: usize = 1024;

/// Some changes that were read together.
#[derive(Debug)]
pub struct Chunk {
    pub changes: Vec<FeedChange>,
    /// Whom the changes concern.
    topics: Box<[Topic]>,
    /// The position behind the chunk.
    pub next: Position,
}

impl Chunk {
    pub fn new(page: ChangePage, topics: Box<[Topic]>) -> Self {
        Self { changes: page.changes.into_iter().map(FeedChange::new).collect(), topics, next: page.next }
    }

    fn bytes(&self) -> usize {
        // Twice, because the event has the profile again.
        let changes: usize = self.changes.iter().map(|each| 2 * each.change.cost() + PER_CHANGE_BYTES).sum();
        changes + size_of_val(&*self.topics) + PER_CHUNK_BYTES
    }
}

/// What the tail has for a watcher behind a position.
#[derive(Debug)]
pub enum After {
    /// A chunk that may concern it, from one of its changes on; nothing between concerns it.
    Changes(Arc<Chunk>, usize),
    /// Nothing up to the tail's end.
    Nothing(End),
    /// The position is not in the tail.
    Unknown,
}

/// The tail's end at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub position: Position,
    /// The number of the next chunk.
    number: u64,
}

/// The latest chunks.
#[derive(Debug)]
pub struct Tail {
    chunks: VecDeque<Arc<Chunk>>,
    /// The number of the first chunk; they are counted through all replacements.
    first: u64,
    /// Since this number the tail has no gap.
    gapless_since: u64,
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
            gapless_since: 0,
            places: HashMap::from([(at, (0, 0))]),
            start: at,
            end: at,
            changes: 0,
            bytes: 0,
        }
    }

    /// Begins anew at a position, with a gap before it.
    pub fn replace(&mut self, at: Position) {
        // One more, so that no end of before is one of now.
        let number = self.end_number() + 1;
        *self = Self {
            first: number,
            gapless_since: number,
            places: HashMap::from([(at, (number, 0))]),
            ..Self::new(at)
        };
    }

    /// The position behind all of it.
    pub fn end(&self) -> Position {
        self.end
    }

    /// The number of the next chunk.
    pub fn end_number(&self) -> u64 {
        self.first + self.chunks.len() as u64
    }

    /// What comes after a position for one who listens, and who had seen everything up to `seen`.
    pub fn after(&self, position: &Position, seen: Option<End>, listener: &Listener) -> After {
        let end = After::Nothing(End { position: self.end, number: self.end_number() });
        // Also when the position is no longer in the tail: what came since then concerns others.
        let asleep = |seen: End| {
            seen.position == *position && seen.number >= self.gapless_since && listener.untouched_since(seen.number)
        };
        if seen.is_some_and(asleep) {
            return end;
        }
        let Some(&(number, index)) = self.places.get(position) else { return After::Unknown };
        let rest = self.chunks.range((number - self.first) as usize..).zip(once(index).chain(repeat(0)));
        for (skipped, (chunk, from)) in rest.enumerate() {
            // What is left of a chunk is looked at: whom it concerns is known of the whole only.
            if from > 0 || skipped == MAX_SKIPPED || listener.concerned(&chunk.topics) {
                return After::Changes(chunk.clone(), from);
            }
        }
        end
    }

    /// Adds what comes next.
    pub fn push(&mut self, chunk: Chunk) {
        let number = self.end_number();
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
    use crate::feed::topics::Topics;
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

    fn page(changes: std::ops::Range<u64>, next: u64) -> ChangePage {
        ChangePage { changes: changes.map(change).collect(), next: position(next) }
    }

    fn chunk(changes: std::ops::Range<u64>, next: u64) -> Chunk {
        Chunk::new(page(changes, next), Box::default())
    }

    /// The positions of all changes after one, chunk by chunk; `None` when it is unknown.
    fn walk(tail: &Tail, mut at: Position) -> Option<Vec<Position>> {
        let (mut found, listener) = (Vec::new(), Listener::new(Arc::default(), Topics::default().of_filter(None)));
        loop {
            match tail.after(&at, None, &listener) {
                After::Changes(chunk, from) => {
                    found.extend(chunk.changes[from..].iter().map(|each| each.change.position));
                    at = chunk.next;
                }
                After::Nothing(end) => {
                    assert_eq!(end.position, tail.end());
                    return Some(found);
                }
                After::Unknown => return None,
            }
        }
    }

    #[test]
    fn every_position_in_the_tail_leads_to_all_that_follows() {
        let mut tail = Tail::new(position(10));
        // 13, 17 and 18 are positions without a change.
        for (changes, next) in [(11..13, 13), (14..17, 17), (18..18, 18), (19..20, 19)] {
            tail.push(chunk(changes, next));
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
            tail.push(chunk(number + 1..number + 2, number + 1));
        }
        let last = 3 * MAX_CHANGES as u64;
        assert!(tail.changes <= MAX_CHANGES && tail.bytes <= MAX_BYTES);
        assert_eq!(tail.places.len(), tail.changes + 1, "no position is left behind");
        assert_eq!(walk(&tail, position(last - tail.changes as u64)).unwrap().len(), tail.changes);
        assert_eq!(walk(&tail, position(last - tail.changes as u64 - 1)), None);
    }

    #[test]
    fn chunks_without_a_change_have_a_bound_too() {
        let mut tail = Tail::new(position(0));
        let most = MAX_BYTES / PER_CHUNK_BYTES;
        for number in 1..=3 * most as u64 {
            tail.push(chunk(number..number, number));
        }
        assert_eq!((tail.chunks.len(), tail.places.len(), tail.changes), (most, most + 1, 0));
        assert!(tail.bytes <= MAX_BYTES);
        let last = 3 * most as u64;
        assert_eq!(walk(&tail, position(last - most as u64)), Some(vec![]));
        assert_eq!(walk(&tail, position(last - most as u64 - 1)), None);
    }

    #[test]
    fn what_concerns_others_is_gone_past_and_what_concerns_oneself_never() {
        let topics = Arc::new(Topics::default());
        let (mine, other) = (topics.of_filter(Some(b"mine\0")), topics.of_filter(Some(b"other\0")));
        let listener = Listener::new(topics.clone(), mine);
        let mut tail = Tail::new(position(0));
        let push = |tail: &mut Tail, number: u64, topic: Topic| {
            tail.push(Chunk::new(page(number..number + 1, number), [topic].into()));
            topics.touch(&[topic], tail.end_number());
        };
        for number in 1..10 {
            push(&mut tail, number, if number == 7 { mine } else { other });
        }
        let After::Changes(found, 0) = tail.after(&position(2), None, &listener) else { panic!("not found") };
        assert_eq!(found.next, position(7));
        let After::Nothing(seen) = tail.after(&position(7), None, &listener) else { panic!("not gone past") };
        assert_eq!(seen.position, position(9));
        // Asleep while its place goes out of the tail.
        for number in 10..10 + 2 * MAX_CHANGES as u64 {
            push(&mut tail, number, other);
        }
        assert!(matches!(tail.after(&seen.position, None, &listener), After::Unknown));
        let After::Nothing(seen) = tail.after(&seen.position, Some(seen), &listener) else { panic!("not gone past") };
        assert_eq!(seen.position, tail.end());
        // Something for it goes out of the tail too.
        let next = 10 + 2 * MAX_CHANGES as u64;
        push(&mut tail, next, mine);
        for number in next + 1..next + 2 * MAX_CHANGES as u64 {
            push(&mut tail, number, other);
        }
        assert!(matches!(tail.after(&seen.position, Some(seen), &listener), After::Unknown));
        // A tail that begins anew has seen nothing of what was between.
        let After::Nothing(seen) = tail.after(&tail.end(), None, &listener) else { panic!("not at the end") };
        tail.replace(position(next + 3 * MAX_CHANGES as u64));
        assert!(matches!(tail.after(&seen.position, Some(seen), &listener), After::Unknown));
    }
}
