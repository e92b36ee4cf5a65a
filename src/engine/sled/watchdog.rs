//! Notices when the disk does not come back.
//!
//! A sync that hangs cannot be waited out: the committer sits in the kernel, and all writers behind it. A thread of
//! its own sees it, fails the store, and lets the waiting callers go, so that the process can end and be restarted. The
//! same for a look-up that hangs, and a serving thread with it; and for a read of many rows that does not come on, and one of the
//! few places for such reads with it. A check of everything is not watched: it keeps nobody waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::committer::latch;
use super::figures::SledFigures;
use super::pacer::{StopOnDrop, Stopper};
use super::read_watch::{LongReads, ReadWatch, Reading};
use crate::store::StoreState;

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
    base: Instant,
    /// Milliseconds after `base`, plus one; 0: at nothing that can hang.
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
            base: Instant::now(),
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
        self.since.store(self.base.elapsed().as_millis() as u64 + 1, Ordering::Release);
        // Also when it panics.
        let _ended = Ended(&self.since);
        let _timer = self.figures.time_step(step);
        work()
    }

    /// Cancelled when the committer, or a look-up, has hung for too long, and never comes back as far as its callers are concerned.
    pub fn hung(&self) -> &CancellationToken {
        &self.hung
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

    fn hanging_for(&self) -> Option<Duration> {
        let since = self.since.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.base.elapsed().saturating_sub(Duration::from_millis(since)))
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
                let (read, long_read) = (progress.reads.next_turn(), progress.long_reads.next_turn());
                let what = if progress.hanging_for().is_some_and(|hanging| hanging > bound) {
                    STEPS[progress.step.load(Ordering::Relaxed).min(STEPS.len() - 1)]
                } else if read >= u64::from(TURNS) {
                    "a read of the state"
                } else if long_read >= u64::from(TURNS) {
                    "the next row of a list, of many profiles or of the commit log"
                } else {
                    continue;
                };
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

    #[test]
    fn a_read_that_does_not_return_fails_the_store() {
        let progress = Arc::new(Progress::new(Arc::new(SledFigures::new(OpenFigures::default()))));
        let state = watch::Sender::new(StoreState::Open);
        let watchdog = Watchdog::start(progress.clone(), Duration::from_millis(80), state.clone()).unwrap();
        for _ in 0..1000 {
            drop(progress.reading());
        }
        assert_eq!(*state.borrow(), StoreState::Open);
        let reading = progress.reading();
        progress.over().wait();
        assert!(progress.hung().is_cancelled());
        let StoreState::Failed { cause } = state.borrow().clone() else { panic!("it has not failed") };
        assert_eq!(cause, "a read of the state has not returned within 80ms");
        drop(reading);
        watchdog.stop();
    }

    #[test]
    fn a_step_that_panics_has_ended() {
        let progress = Progress::new(Arc::new(SledFigures::new(OpenFigures::default())));
        let step = || progress.during(Step::Decide, || panic!("wanted"));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)).unwrap_err();
        assert_eq!(progress.hanging_for(), None);
    }

    #[test]
    fn a_read_of_many_rows_fails_the_store_when_it_does_not_come_on_and_not_when_it_is_long() {
        let progress = Arc::new(Progress::new(Arc::new(SledFigures::new(OpenFigures::default()))));
        let state = watch::Sender::new(StoreState::Open);
        let bound = Duration::from_millis(400);
        let watchdog = Watchdog::start(progress.clone(), bound, state.clone()).unwrap();
        let read = progress.long_reads().begin();
        let began = Instant::now();
        while began.elapsed() < 3 * bound {
            read.comes_on();
            std::thread::yield_now();
        }
        assert_eq!(*state.borrow(), StoreState::Open);
        progress.over().wait();
        let StoreState::Failed { cause } = state.borrow().clone() else { panic!("it has not failed") };
        assert!(cause.starts_with("the next row of a list") && cause.ends_with("within 400ms"), "{cause}");
        drop(read);
        watchdog.stop();
    }
}
