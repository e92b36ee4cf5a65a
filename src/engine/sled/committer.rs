//! The committer as its users see it: a bounded queue in front of the one thread that changes anything
//! ([`CommitThread`]).
//!
//! Invariants: what was queued is answered, at the latest when the thread ends; a full queue refuses at once;
//! a caller never takes a failure for an orderly close.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::answers::{self, Answering};
use super::commit_thread::CommitThread;
use super::doubt::Doubt;
use super::figures::SledFigures;
use super::head::Head;
use super::keys::Applied;
use super::read_watch::{LongReads, Reading};
use super::space::SpaceWatch;
use super::tree::Tree;
use super::watchdog::{Progress, Watchdog};
use crate::engine::commit_log::CommitLog;
use crate::engine::request_memory::RequestMemory;
use crate::engine::{Disk, EngineRules};
use crate::model::Incarnation;
use crate::model::limits::{MAX_BATCH_BYTES, MAX_COMMIT_WRITES};
use crate::store::{Commit, CommitObserver, Outcomes, StoreError, StoreState};

/// The largest single request: the largest batch with what its writes cost beside their profiles.
pub const REQUEST_BYTES: usize = MAX_BATCH_BYTES + 64 * 1024;

/// How much lower than others' the priority of the committer's thread is, in the steps of `nice`.
const NICENESS: i32 = 3;

/// A close that finds the queue full looks again after so long.
const FULL_QUEUE: Duration = Duration::from_millis(5);

/// The bounds of the queue in front of the committer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueBounds {
    /// The most commits that wait.
    pub commits: usize,
    /// The most bytes of the commits that wait.
    pub bytes: usize,
}

/// A commit that waits.
pub(super) struct Request {
    pub commit: Commit,
    pub size_bytes: usize,
    pub answer: Answering,
}

/// What goes through the queue.
pub(super) enum Message {
    Commit(Request),
    Close,
}

/// What a caller is told.
pub(super) type Answer = Result<Outcomes, StoreError>;

/// What waits in the queue.
#[derive(Debug, Default)]
pub(super) struct Queued {
    commits: AtomicUsize,
    bytes: AtomicUsize,
}

/// The handle of the committer's thread.
pub struct Committer {
    queue: SyncSender<Message>,
    queued: Arc<Queued>,
    bounds: QueueBounds,
    /// Taken by whoever closes.
    thread: Mutex<Option<JoinHandle<()>>>,
    state: watch::Sender<StoreState>,
    progress: Arc<Progress>,
    watchdog: Watchdog,
}

/// What the thread works with.
pub struct CommitterParts {
    /// The log, open at its end.
    pub log: CommitLog,
    /// The tree, at the log's end.
    pub tree: Arc<Tree>,
    /// How far the tree has come.
    pub applied: Applied,
    /// How far everybody may read.
    pub head: Arc<Head>,
    /// The requests that the log remembers.
    pub requests: RequestMemory,
    /// The life of the store.
    pub incarnation: Incarnation,
    /// The rules of decisions.
    pub rules: EngineRules,
    /// Who is told.
    pub observer: Arc<dyn CommitObserver>,
    /// The file that says, at the next open, that sled may hold half a group.
    pub suspect_mark: PathBuf,
    /// Told of damage that a decision meets.
    pub doubt: Doubt,
    /// Up to where sled is flushed, for whoever trims the log.
    pub checkpoint: Arc<AtomicU64>,
    /// Whether there is room for writes.
    pub space: Arc<SpaceWatch>,
    /// Told what was done.
    pub figures: Arc<SledFigures>,
    /// Where tests let a step fail.
    pub disk: Disk,
}

impl Committer {
    /// Starts the thread.
    pub fn start(parts: CommitterParts, bounds: QueueBounds, sync_timeout: Duration) -> std::io::Result<Self> {
        let (queue, requests) = sync_channel(bounds.commits);
        let state = watch::Sender::new(StoreState::Open);
        let queued = Arc::new(Queued::default());
        let progress = Arc::new(Progress::new(parts.figures.clone()));
        let watchdog = Watchdog::start(progress.clone(), sync_timeout, state.clone())?;
        let thread = CommitThread::new(parts, requests, queued.clone(), state.clone(), progress.clone());
        let (end, failed) = (progress.until_the_end(), state.clone());
        let thread = std::thread::Builder::new().name("committer".into()).spawn(move || {
            let _end = end;
            let_others_go_first();
            let mut thread = thread;
            // A step of the thread catches its panics. What is between them may panic too: it wakes callers, whose code may be
            // anything. Those who still wait are let go behind this.
            if catch_unwind(AssertUnwindSafe(|| thread.run())).is_err() {
                fail(&failed, "the committer panicked".into());
            }
        })?;
        Ok(Self { queue, queued, bounds, thread: Mutex::new(Some(thread)), state, progress, watchdog })
    }

    /// Queues a commit and waits for its answer. Once queued it is made even if this future is dropped.
    pub async fn commit(&self, commit: Commit) -> Result<Outcomes, StoreError> {
        self.ensure_open()?;
        if commit.writes.len() > MAX_COMMIT_WRITES {
            return Err(StoreError::TooManyWrites { writes: commit.writes.len(), limit: MAX_COMMIT_WRITES });
        }
        let size_bytes = commit.writes.iter().map(|write| write.size_bytes).sum();
        if size_bytes > REQUEST_BYTES {
            return Err(StoreError::TooLarge { bytes: size_bytes, limit: REQUEST_BYTES });
        }
        if self.queued.bytes.fetch_add(size_bytes, Ordering::Relaxed) + size_bytes > self.bounds.bytes {
            self.queued.bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(StoreError::Overloaded);
        }
        let (answer, answered) = answers::slot();
        self.queued.commits.fetch_add(1, Ordering::Relaxed);
        let sent = self.queue.try_send(Message::Commit(Request { commit, size_bytes, answer }));
        if let Err(error) = sent {
            self.queued.leave(size_bytes);
            return match error {
                TrySendError::Full(_) => Err(StoreError::Overloaded),
                TrySendError::Disconnected(_) => Err(self.why_closed()),
            };
        }
        tokio::select! {
            biased;
            answer = answered => answer.unwrap_or_else(|| Err(self.why_closed())),
            // The thread sits in the kernel and may never answer.
            () = self.progress.hung().cancelled() => Err(self.why_closed()),
        }
    }

    /// How many commits wait.
    pub fn queued_commits(&self) -> usize {
        self.queued.commits()
    }

    /// How many bytes of commits wait.
    pub fn queued_bytes(&self) -> usize {
        self.queued.bytes.load(Ordering::Relaxed)
    }

    /// The bounds of what waits.
    pub fn bounds(&self) -> QueueBounds {
        self.bounds
    }

    /// The state and its changes.
    pub fn state(&self) -> &watch::Sender<StoreState> {
        &self.state
    }

    /// Fails when no write can be taken.
    pub fn ensure_open(&self) -> Result<(), StoreError> {
        if *self.state.borrow() == StoreState::Open { Ok(()) } else { Err(self.why_closed()) }
    }

    /// A look-up begins on this thread, and goes on until what is returned is dropped.
    pub(super) fn reading(&self) -> Reading<'_> {
        self.progress.reading()
    }

    /// For reads of many rows, which must come from row to row.
    pub(super) fn long_reads(&self) -> &LongReads {
        self.progress.long_reads()
    }

    /// Makes what is queued, then ends the thread. Blocks, but not behind a disk that hangs. Returns whether the
    /// store had not failed before.
    pub fn close(&self) -> bool {
        let over = self.progress.over();
        if let Some(thread) = self.thread.lock().take() {
            // An error means that the thread has ended already.
            while let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Close) {
                if over.rest(FULL_QUEUE).is_err() {
                    break;
                }
            }
            over.wait();
            if self.progress.hung().is_cancelled() {
                // The thread may never come back; it ends with the process.
                return false;
            }
            if thread.join().is_err() {
                fail(&self.state, "the committer panicked".into());
            }
        }
        self.watchdog.stop();
        let failed = matches!(*self.state.borrow(), StoreState::Failed { .. });
        if !failed {
            self.state.send_replace(StoreState::Closed);
        }
        !failed
    }

    fn why_closed(&self) -> StoreError {
        match &*self.state.borrow() {
            StoreState::Failed { cause } => StoreError::Failed { cause: cause.clone() },
            StoreState::Open | StoreState::Closed => StoreError::Closed,
        }
    }
}

/// Gives this thread a lower priority than those that serve: a get that waits for the processor behind a group of writes
/// waits for milliseconds, while a group only becomes larger by waiting.
fn let_others_go_first() {
    // For Linux a thread is what elsewhere is a process, so nobody else is meant.
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, NICENESS)
    {
        tracing::debug!(%error, "the committer keeps its priority");
    }
}

impl Queued {
    /// How many commits wait.
    pub fn commits(&self) -> usize {
        self.commits.load(Ordering::Relaxed)
    }

    /// A request has left the queue.
    pub fn leave(&self, size_bytes: usize) {
        self.commits.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(size_bytes, Ordering::Relaxed);
    }
}

/// The store has failed, and the log does not say so yet.
#[must_use]
pub(super) struct Failure(Option<String>);

impl Failure {
    /// Says so, if it is the first.
    pub fn tell(self) {
        if let Some(cause) = self.0 {
            tracing::error!(cause, "the store has failed; it takes no more writes and must be opened anew");
        }
    }
}

/// From now on the store has failed. The line is left to the caller, for when nobody waits for anything any more: whoever
/// writes the log must hold up neither the failure, nor those who ask for the state, nor those who wait for an answer.
pub(super) fn latch(state: &watch::Sender<StoreState>, cause: String) -> Failure {
    let first = state.send_if_modified(|state| {
        let first = !matches!(state, StoreState::Failed { .. });
        if first {
            *state = StoreState::Failed { cause: cause.clone() };
        }
        first
    });
    Failure(first.then_some(cause))
}

pub(super) fn fail(state: &watch::Sender<StoreState>, cause: String) {
    latch(state, cause).tell();
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    /// Asks for the state at every line, as a thread would that answers a probe while the line is written.
    struct Asks(watch::Receiver<StoreState>, Arc<Mutex<Vec<bool>>>);

    impl<S: tracing::Subscriber> Layer<S> for Asks {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            let state = self.0.clone();
            let (asked, answer) = std::sync::mpsc::channel();
            std::thread::spawn(move || asked.send(matches!(*state.borrow(), StoreState::Failed { .. })));
            self.1.lock().push(answer.recv_timeout(Duration::from_secs(60)) == Ok(true));
        }
    }

    #[test]
    fn the_state_is_failed_before_the_line_is_written_and_nobody_waits_for_the_line() {
        let (state, has_failed) = (watch::Sender::new(StoreState::Open), Arc::<Mutex<Vec<bool>>>::default());
        let subscriber = tracing_subscriber::registry().with(Asks(state.subscribe(), has_failed.clone()));
        tracing::subscriber::with_default(subscriber, || fail(&state, "a test".into()));
        assert_eq!(*has_failed.lock(), [true], "a line was written first, or with the state's lock held");
    }
}
