//! Notices when the disk does not come back.
//!
//! A sync that hangs cannot be waited out: the committer sits in the kernel, and all writers behind it. A thread of
//! its own sees it, fails the store, and lets the waiting callers go, so that the process can end and be restarted. The
//! same for a look-up that hangs, and a serving thread with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::committer::fail;
use super::figures::SledFigures;
use super::pacer::{StopOnDrop, Stopper};
use super::read_watch::{ReadWatch, Reading};
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
}

const STEPS: [&str; 3] = ["a sync of the commit log", "a batch of sled", "a flush of sled"];

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
        }
    }

    /// Does a step under watch.
    pub fn during<T>(&self, step: Step, work: impl FnOnce() -> T) -> T {
        self.step.store(step as usize, Ordering::Relaxed);
        self.since.store(self.base.elapsed().as_millis() as u64 + 1, Ordering::Release);
        let timer = self.figures.time_step(step);
        let done = work();
        drop(timer);
        self.since.store(0, Ordering::Release);
        done
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
                let what = if progress.hanging_for().is_some_and(|hanging| hanging > bound) {
                    STEPS[progress.step.load(Ordering::Relaxed).min(STEPS.len() - 1)]
                } else if progress.reads.next_turn() >= u64::from(TURNS) {
                    "a read of the state"
                } else {
                    continue;
                };
                fail(&state, format!("{what} has not returned within {bound:?}"));
                progress.hung.cancel();
                progress.over.stop();
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
}
