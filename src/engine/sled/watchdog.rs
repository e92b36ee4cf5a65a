//! Notices when the disk does not come back.
//!
//! A sync that hangs cannot be waited out: the committer sits in the kernel, and all writers behind it. A thread of
//! its own sees it, fails the store, and lets the waiting callers go, so that the process can end and be restarted. The
//! same for a look-up that hangs, and a serving thread with it; and for a read of many rows that does not come on, and one of the
//! few places for such reads with it. A check of everything is not watched: it keeps nobody waiting.
//!
//! All of it is counted in the watchdog's own turns and not by a clock: when the whole process was stopped for a while, the
//! watchdog was too, and for a disk that is sound that is one turn and no hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::committer::latch;
use super::figures::SledFigures;
use super::pacer::{StopOnDrop, Stopper};
use super::read_watch::{LongReads, ReadWatch, Reading};
use crate::store::{StoreError, StoreState};

/// What the committer can be at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Appending to the log and syncing it, or leaving its mark.
    Append,
    /// Applying a batch to sled, or marking its state after a batch that failed.
    Apply,
    /// Flushing sled.
    Flush,
    /// Reading what the writes of a group are decided on.
    Decide,
    /// Asking the disk how much room it has.
    AskForRoom,
}

const STEPS: [&str; 5] = [
    "a sync of the commit log",
    "a batch of sled",
    "a flush of sled",
    "a read of the committer",
    "the question how much room the disk has",
];

/// How often the watchdog looks within the time that a step may take.
const TURNS: u32 = 8;

/// What the committer is at, and since when.
#[derive(Debug)]
pub struct Progress {
    /// The watchdog's turn, from 1.
    turn: AtomicU64,
    /// In which turn the step began; 0: at nothing that can hang.
    since: AtomicU64,
    step: AtomicUsize,
    /// Told how long each step took.
    figures: Arc<SledFigures>,
    /// Cancelled when it has hung for too long.
    hung: CancellationToken,
    /// Told when there is nothing to wait for any more: the committer's thread has ended, or hangs.
    over: Stopper,
    reads: ReadWatch,
    long_reads: LongReads,
}

/// Tells when a step has ended.
struct Ended<'a>(&'a AtomicU64);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

impl Progress {
    /// At nothing.
    pub fn new(figures: Arc<SledFigures>) -> Self {
        Self {
            figures,
            turn: AtomicU64::new(1),
            since: AtomicU64::new(0),
            step: AtomicUsize::new(0),
            hung: CancellationToken::new(),
            over: Stopper::default(),
            reads: ReadWatch::new(),
            long_reads: LongReads::default(),
        }
    }

    /// Does a step under watch.
    pub fn during<T>(&self, step: Step, work: impl FnOnce() -> T) -> T {
        self.step.store(step as usize, Ordering::Relaxed);
        self.since.store(self.turn.load(Ordering::Relaxed), Ordering::Release);
        // Also when it panics.
        let _ended = Ended(&self.since);
        let _timer = self.figures.time_step(step);
        work()
    }

    /// Cancelled when the committer, or a look-up, has hung for too long, and never comes back as far as its callers are concerned.
    pub fn hung(&self) -> &CancellationToken {
        &self.hung
    }

    /// Fails when something has hung. It may have come back after all, but the callers were told that the outcome is unknown: it
    /// stays so, and what is not in the log by then must not get there behind their backs.
    pub fn ensure_awaited(&self) -> Result<(), StoreError> {
        if self.hung.is_cancelled() {
            return Err(StoreError::Failed { cause: "the disk came back too late".into() });
        }
        Ok(())
    }

    /// For the committer's thread.
    pub fn until_the_end(&self) -> StopOnDrop {
        StopOnDrop(self.over.clone())
    }

    /// Told when the committer's thread has ended or hangs.
    pub fn over(&self) -> &Stopper {
        &self.over
    }

    /// A look-up begins on this thread, and goes on until what is returned is dropped.
    pub fn reading(&self) -> Reading<'_> {
        self.reads.begin()
    }

    /// For reads of many rows, which must only come on.
    pub fn long_reads(&self) -> &LongReads {
        &self.long_reads
    }

    /// The watchdog's next turn; returns what has not come back, or not come on, for all the turns that it may take.
    fn next_turn(&self) -> Option<&'static str> {
        let ended = self.turn.fetch_add(1, Ordering::Relaxed);
        let since = self.since.load(Ordering::Acquire);
        let step = if since == 0 { 0 } else { ended.saturating_sub(since) };
        let (read, long_read) = (self.reads.next_turn(), self.long_reads.next_turn());
        if step >= TURNS.into() {
            Some(STEPS[self.step.load(Ordering::Relaxed).min(STEPS.len() - 1)])
        } else if read >= TURNS.into() {
            Some("a read of the state")
        } else if long_read >= TURNS.into() {
            Some("the next row of a list, of many profiles or of the commit log")
        } else {
            None
        }
    }
}

/// The handle of the watching thread.
#[derive(Debug)]
pub struct Watchdog {
    stopper: Stopper,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Watchdog {
    /// Watches until it is stopped, or until a step takes longer than `bound`.
    pub fn start(
        progress: Arc<Progress>,
        bound: Duration,
        state: watch::Sender<StoreState>,
    ) -> std::io::Result<Self> {
        let stopper = Stopper::default();
        let stopped = stopper.clone();
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            while stopped.rest(bound / TURNS).is_ok() {
                let Some(what) = progress.next_turn() else { continue };
                let failure = latch(&state, format!("{what} has not returned within {bound:?}"));
                progress.hung.cancel();
                progress.over.stop();
                failure.tell();
                return;
            }
        })?;
        Ok(Self { stopper, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.lock().take() {
            // It does nothing that panics; and if it did, there is nothing left to watch.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::OpenFigures;
    use super::*;

    fn progress() -> Arc<Progress> {
        Arc::new(Progress::new(Arc::new(SledFigures::new(OpenFigures::default()))))
    }

    /// What the watchdog has to say in so many turns, however long they take.
    fn turns(progress: &Progress, turns: u32) -> Option<&'static str> {
        (0..turns).find_map(|_| progress.next_turn())
    }

    /// Why a store fails that is watched while `during` is held.
    fn cause<T>(progress: &Arc<Progress>, during: T) -> String {
        let state = watch::Sender::new(StoreState::Open);
        let watchdog = Watchdog::start(progress.clone(), Duration::from_millis(80), state.clone()).unwrap();
        progress.over().wait();
        assert!(progress.hung().is_cancelled());
        drop(during);
        watchdog.stop();
        let StoreState::Failed { cause } = state.borrow().clone() else { panic!("it has not failed") };
        cause
    }

    #[test]
    fn a_read_that_does_not_return_fails_the_store() {
        let progress = progress();
        for _ in 0..10 * TURNS {
            drop(progress.reading());
            assert_eq!(turns(&progress, 1), None);
        }
        assert_eq!(cause(&progress, progress.reading()), "a read of the state has not returned within 80ms");
    }

    #[test]
    fn a_step_that_panics_has_ended() {
        let progress = progress();
        let step = || progress.during(Step::Decide, || panic!("wanted"));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)).unwrap_err();
        assert_eq!(turns(&progress, 3 * TURNS), None);
    }

    #[test]
    fn a_step_hangs_after_so_many_turns_and_not_because_the_whole_process_was_stopped() {
        let progress = progress();
        // However much time goes by in a turn, as when a container is paused in the middle of a sync.
        let step = || [turns(&progress, TURNS), turns(&progress, 1)];
        assert_eq!(progress.during(Step::Append, step), [None, Some("a sync of the commit log")]);
        assert_eq!(progress.during(Step::Flush, step), [None, Some("a flush of sled")], "each begins anew");
        assert_eq!(turns(&progress, 3 * TURNS), None);
    }

    #[test]
    fn a_read_of_many_rows_fails_the_store_when_it_does_not_come_on_and_not_when_it_is_long() {
        let progress = progress();
        let read = progress.long_reads().begin();
        for _ in 0..10 * TURNS {
            read.comes_on();
            assert_eq!(turns(&progress, 1), None);
        }
        let cause = cause(&progress, read);
        assert!(cause.starts_with("the next row of a list") && cause.ends_with("within 80ms"), "{cause}");
    }
}
