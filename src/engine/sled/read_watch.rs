//! Notices a read that the disk does not answer.
//!
//! Single look-ups run where their caller runs, and a read that hangs takes that thread and everything on it along. Each
//! leaves in a cell of its thread when it began, counted in the watchdog's turns, so it asks no clock.
//!
//! A cell may have several threads when there are more of them than cells. Then a read that hangs can be forgotten when
//! another one ends, but none that goes on is ever taken for one that hangs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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
}
