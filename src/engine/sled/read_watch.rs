//! Notices a read that the disk does not answer.
//!
//! Two kinds. A look-up must end ([`ReadWatch`]); a read of many rows may take long, but must come from row to row
//! ([`LongReads`]).
//!
//! Single look-ups run where their caller runs, and a read that hangs takes that thread and everything on it along. Each
//! leaves in a cell of its thread when it began, counted in the watchdog's turns, so it asks no clock.
//!
//! A cell may have several threads when there are more of them than cells. Then a read that hangs can be forgotten when
//! another one ends, but none that goes on is ever taken for one that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// More than there are serving threads on most machines.
const CELLS: usize = 64;

/// On a cache line of its own, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell(AtomicU64);

/// The reads that go on.
#[derive(Debug)]
pub struct ReadWatch {
    /// The watchdog's turn, from 1.
    turn: AtomicU64,
    /// In which turn each thread's read began. 0: none goes on.
    began: [Cell; CELLS],
}

/// A read that goes on until this is dropped.
#[derive(Debug)]
pub struct Reading<'a>(&'a AtomicU64);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

impl ReadWatch {
    /// Without any reads.
    pub fn new() -> Self {
        Self { turn: AtomicU64::new(1), began: std::array::from_fn(|_| Cell::default()) }
    }

    /// A read begins on this thread.
    pub fn begin(&self) -> Reading<'_> {
        let cell = &self.began[this_thread() % CELLS].0;
        cell.store(self.turn.load(Ordering::Relaxed), Ordering::Release);
        Reading(cell)
    }

    /// The watchdog's next turn; returns for how many whole turns the oldest read has gone on.
    pub fn next_turn(&self) -> u64 {
        let ended = self.turn.fetch_add(1, Ordering::Relaxed);
        let began = self.began.iter().map(|cell| cell.0.load(Ordering::Acquire)).filter(|&began| began > 0);
        began.min().map_or(0, |began| ended.saturating_sub(began))
    }
}

/// The reads of many rows that go on. There are few at a time, and each is worth a lock at its begin and end.
#[derive(Debug, Clone, Default)]
pub struct LongReads(Arc<Turns>);

#[derive(Debug, Default)]
struct Turns {
    /// The watchdog's turn.
    turn: AtomicU64,
    /// In which turn each read came to its last row.
    reads: Mutex<Vec<Arc<AtomicU64>>>,
}

/// A read of many rows that goes on until this is dropped.
#[derive(Debug)]
pub struct LongRead {
    turns: Arc<Turns>,
    last_row: Arc<AtomicU64>,
}

impl LongReads {
    /// Such a read begins.
    pub fn begin(&self) -> LongRead {
        let last_row = Arc::new(AtomicU64::new(self.0.turn.load(Ordering::Relaxed)));
        self.0.reads.lock().push(last_row.clone());
        LongRead { turns: self.0.clone(), last_row }
    }

    /// The watchdog's next turn; returns for how many whole turns the slowest read has not come to its next row.
    pub fn next_turn(&self) -> u64 {
        let ended = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let reads = self.0.reads.lock();
        let oldest = reads.iter().map(|last_row| last_row.load(Ordering::Relaxed)).min();
        oldest.map_or(0, |last_row| ended.saturating_sub(last_row))
    }
}

impl LongRead {
    /// It has come to its next row.
    pub fn comes_on(&self) {
        self.last_row.store(self.turns.turn.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for LongRead {
    fn drop(&mut self) {
        self.turns.reads.lock().retain(|read| !Arc::ptr_eq(read, &self.last_row));
    }
}

/// A number for each thread that reads.
fn this_thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_counts_whole_turns_from_its_beginning_and_none_when_it_has_ended() {
        let watch = ReadWatch::new();
        assert_eq!(watch.next_turn(), 0);
        let reading = watch.begin();
        assert_eq!([watch.next_turn(), watch.next_turn(), watch.next_turn()], [0, 1, 2]);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(watch.begin()));
        });
        assert_eq!(watch.next_turn(), 3, "other threads' reads have other cells");
        drop(reading);
        assert_eq!(watch.next_turn(), 0);
        let _reading = watch.begin();
        assert_eq!(watch.next_turn(), 0);
    }

    #[test]
    fn a_read_of_many_rows_counts_from_its_last_row() {
        let watch = LongReads::default();
        assert_eq!(watch.next_turn(), 0);
        let (slow, quick) = (watch.begin(), watch.begin());
        assert_eq!([watch.next_turn(), watch.next_turn(), watch.next_turn()], [0, 1, 2]);
        quick.comes_on();
        assert_eq!(watch.next_turn(), 3, "the slowest counts");
        slow.comes_on();
        assert_eq!(watch.next_turn(), 1, "that of the quick one");
        drop(quick);
        assert_eq!(watch.next_turn(), 1);
        drop(slow);
        assert_eq!(watch.next_turn(), 0);
    }
}
