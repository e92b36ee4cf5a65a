//! The one thread that changes anything.
//!
//! It takes what is queued, up to 128 writes or 128 KiB (a single request is never split), and for the group:
//! decides it, appends one frame to the log and syncs it, tells the observer, applies one batch to sled,
//! tells the observer again, and answers. Between groups it flushes sled now and then, which bounds how much
//! of the log a restart replays; it never flushes while a batch waits, because a reader that arrives behind
//! both would stall for a whole sync.
//!
//! Invariants:
//!
//! * Nothing enters sled, and so no reader's sight, before its frame is on disk.
//! * After the first error the committer makes no more writes: it answers [`StoreError::Failed`] until it is
//!   closed. A failed sync is never repeated.
//! * A request that was taken is decided and made to its end, whether its caller still waits or not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::keys::Applied;
use super::tree::Tree;
use crate::engine::EngineRules;
use crate::engine::commit_log::CommitLog;
use crate::engine::decision::{GroupDecision, Outcomes};
use crate::model::limits::MAX_COMMIT_WRITES;
use crate::model::{Incarnation, Revision, Write};
use crate::store::{CommitMode, CommitObserver, StoreError, StoreState};

/// A group is closed when it has this many writes. Larger batches break sled's reclaim of memory and space.
const GROUP_WRITES: usize = MAX_COMMIT_WRITES;
/// A group is closed when it has this many bytes.
const GROUP_BYTES: usize = 128 * 1024;
/// The largest single request.
pub const REQUEST_BYTES: usize = 1024 * 1024;

/// sled is flushed at the latest after this time, this many groups or this many bytes.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
const FLUSH_GROUPS: usize = 64;
const FLUSH_BYTES: usize = 8 * 1024 * 1024;

/// The bounds of the queue in front of the committer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueBounds {
    /// The most commits that wait.
    pub commits: usize,
    /// The most bytes of the commits that wait.
    pub bytes: usize,
}

struct Request {
    writes: Vec<Write>,
    mode: CommitMode,
    size_bytes: usize,
    answer: oneshot::Sender<Result<Outcomes, StoreError>>,
}

enum Message {
    Commit(Request),
    Close,
}

/// What waits in the queue.
#[derive(Debug, Default)]
struct Queued {
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
}

/// What the thread works with.
pub struct CommitterParts {
    /// The log, open at its end.
    pub log: CommitLog,
    /// The tree, at the log's end.
    pub tree: Arc<Tree>,
    /// How far the tree has come.
    pub applied: Applied,
    /// The life of the store.
    pub incarnation: Incarnation,
    /// The rules of decisions.
    pub rules: EngineRules,
    /// Who is told.
    pub observer: Arc<dyn CommitObserver>,
}

impl Committer {
    /// Starts the thread.
    pub fn start(parts: CommitterParts, bounds: QueueBounds) -> std::io::Result<Self> {
        let (queue, requests) = sync_channel(bounds.commits);
        let state = watch::Sender::new(StoreState::Open);
        let queued = Arc::new(Queued::default());
        let thread = CommitThread {
            requests,
            held_back: None,
            closing: false,
            queued: queued.clone(),
            state: state.clone(),
            log: Some(parts.log),
            tree: parts.tree,
            applied: parts.applied,
            incarnation: parts.incarnation,
            rules: parts.rules,
            observer: parts.observer,
            unflushed: None,
        };
        let thread = std::thread::Builder::new().name("committer".into()).spawn(move || thread.run())?;
        Ok(Self { queue, queued, bounds, thread: Mutex::new(Some(thread)), state })
    }

    /// Queues a commit and waits for its answer. Once queued it is made even if this future is dropped.
    pub async fn commit(&self, writes: Vec<Write>, mode: CommitMode) -> Result<Outcomes, StoreError> {
        self.ensure_open()?;
        if writes.len() > MAX_COMMIT_WRITES {
            return Err(StoreError::TooManyWrites { writes: writes.len(), limit: MAX_COMMIT_WRITES });
        }
        let size_bytes = writes.iter().map(|write| write.size_bytes).sum();
        if size_bytes > REQUEST_BYTES {
            return Err(StoreError::TooLarge { bytes: size_bytes, limit: REQUEST_BYTES });
        }
        if self.queued.bytes.fetch_add(size_bytes, Ordering::Relaxed) + size_bytes > self.bounds.bytes {
            self.queued.bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(StoreError::Overloaded);
        }
        let (answer, answered) = oneshot::channel();
        self.queued.commits.fetch_add(1, Ordering::Relaxed);
        let sent = self.queue.try_send(Message::Commit(Request { writes, mode, size_bytes, answer }));
        if let Err(error) = sent {
            self.queued.leave(size_bytes);
            return match error {
                TrySendError::Full(_) => Err(StoreError::Overloaded),
                TrySendError::Disconnected(_) => Err(self.why_closed()),
            };
        }
        answered.await.unwrap_or_else(|_| Err(self.why_closed()))
    }

    /// How many commits wait.
    pub fn queued_commits(&self) -> usize {
        self.queued.commits.load(Ordering::Relaxed)
    }

    /// The state and its changes.
    pub fn state(&self) -> &watch::Sender<StoreState> {
        &self.state
    }

    /// Fails when no write can be taken.
    pub fn ensure_open(&self) -> Result<(), StoreError> {
        if *self.state.borrow() == StoreState::Open { Ok(()) } else { Err(self.why_closed()) }
    }

    /// Makes what is queued, then ends the thread. Blocks. Returns whether the store had not failed before.
    pub fn close(&self) -> bool {
        if let Some(thread) = self.thread.lock().take() {
            // An error means that the thread has ended already.
            let _ = self.queue.send(Message::Close);
            if thread.join().is_err() {
                fail(&self.state, "the committer panicked".into());
            }
        }
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

impl Queued {
    fn leave(&self, size_bytes: usize) {
        self.commits.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(size_bytes, Ordering::Relaxed);
    }
}

fn fail(state: &watch::Sender<StoreState>, cause: String) {
    state.send_if_modified(|state| {
        let first = !matches!(state, StoreState::Failed { .. });
        if first {
            tracing::error!(cause, "the store has failed; it takes no more writes and must be opened anew");
            *state = StoreState::Failed { cause };
        }
        first
    });
}

/// What has been applied to sled but not flushed.
struct Unflushed {
    since: Instant,
    groups: usize,
    bytes: usize,
}

/// The thread's own state.
struct CommitThread {
    requests: Receiver<Message>,
    /// A request that did not fit into the group before.
    held_back: Option<Request>,
    /// The close was met while a group was being filled.
    closing: bool,
    queued: Arc<Queued>,
    state: watch::Sender<StoreState>,
    /// `None` only after the close.
    log: Option<CommitLog>,
    tree: Arc<Tree>,
    applied: Applied,
    incarnation: Incarnation,
    rules: EngineRules,
    observer: Arc<dyn CommitObserver>,
    unflushed: Option<Unflushed>,
}

/// Why the thread stops waiting.
enum Next {
    Group(Vec<Request>),
    FlushDue,
    Close,
}

impl CommitThread {
    fn run(mut self) {
        loop {
            let next = self.next();
            match next {
                Next::Group(group) => self.guarded(|this| this.commit_group(group)),
                Next::FlushDue => self.guarded(Self::flush),
                Next::Close => break,
            }
        }
        self.guarded(Self::close);
    }

    /// Runs one step; an error or a panic in it ends all writing.
    fn guarded(&mut self, step: impl FnOnce(&mut Self) -> Result<(), StoreError>) {
        match catch_unwind(AssertUnwindSafe(|| step(self))) {
            Ok(Ok(())) => {}
            Ok(Err(StoreError::Failed { cause })) => fail(&self.state, cause),
            Ok(Err(error)) => fail(&self.state, error.to_string()),
            Err(_) => fail(&self.state, "the committer panicked".into()),
        }
    }

    fn has_failed(&self) -> bool {
        matches!(*self.state.borrow(), StoreState::Failed { .. })
    }

    /// Waits for a request and takes with it what else is queued and fits.
    fn next(&mut self) -> Next {
        let first = match self.held_back.take() {
            Some(request) => request,
            None if self.closing => return Next::Close,
            None => match self.receive() {
                Ok(Message::Commit(request)) => request,
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => return Next::Close,
                Err(RecvTimeoutError::Timeout) => return Next::FlushDue,
            },
        };
        let (mut writes, mut bytes) = (first.writes.len(), first.size_bytes);
        let mut group = vec![first];
        while writes < GROUP_WRITES && bytes < GROUP_BYTES {
            let request = match self.requests.try_recv() {
                Ok(Message::Commit(request)) => request,
                Ok(Message::Close) => {
                    self.closing = true;
                    break;
                }
                Err(TryRecvError::Disconnected | TryRecvError::Empty) => break,
            };
            writes += request.writes.len();
            bytes += request.size_bytes;
            if writes > GROUP_WRITES || bytes > GROUP_BYTES {
                self.held_back = Some(request);
                break;
            }
            group.push(request);
        }
        Next::Group(group)
    }

    fn receive(&self) -> Result<Message, RecvTimeoutError> {
        match &self.unflushed {
            None => self.requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(unflushed) => self.requests.recv_timeout(FLUSH_INTERVAL.saturating_sub(unflushed.since.elapsed())),
        }
    }

    fn commit_group(&mut self, group: Vec<Request>) -> Result<(), StoreError> {
        for request in &group {
            self.queued.leave(request.size_bytes);
        }
        if self.has_failed() {
            // Dropping the answers tells the callers.
            return Ok(());
        }
        let time = self.rules.clock.now().max(self.applied.time);
        let first = Revision(self.applied.sequence + 1);
        let tree = self.tree.clone();
        let mut decision = GroupDecision::new(&*tree, self.rules.unique_email, self.incarnation, first, time);
        let mut answers = Vec::with_capacity(group.len());
        for request in group {
            answers.push((request.answer, decision.decide(request.writes, request.mode)));
        }
        let changes = decision.into_changes();
        if !changes.is_empty() {
            let log = self.log.as_mut().ok_or(StoreError::Closed)?;
            let bytes =
                log.append(&changes, time).map_err(|error| StoreError::Failed { cause: error.to_string() })?;
            self.observer.before_apply(&changes);
            self.applied = self.tree.apply(self.applied, &changes, time)?;
            self.observer.after_apply(&changes);
            let unflushed = self.unflushed.get_or_insert(Unflushed { since: Instant::now(), groups: 0, bytes: 0 });
            unflushed.groups += 1;
            unflushed.bytes += bytes;
        }
        for (answer, outcome) in answers {
            // Nobody may be waiting any more; the commit is made all the same.
            let _ = answer.send(outcome);
        }
        let flush_due = self.unflushed.as_ref().is_some_and(|unflushed| {
            unflushed.groups >= FLUSH_GROUPS
                || unflushed.bytes >= FLUSH_BYTES
                || unflushed.since.elapsed() >= FLUSH_INTERVAL
        });
        if flush_due { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.unflushed.take().is_some() && !self.has_failed() {
            self.tree.flush()?;
        }
        Ok(())
    }

    /// Flushes sled and leaves the log's mark; after a failure nothing is touched any more.
    fn close(&mut self) -> Result<(), StoreError> {
        let Some(log) = self.log.take().filter(|_| !self.has_failed()) else { return Ok(()) };
        self.tree.flush()?;
        log.close().map_err(|error| StoreError::Failed { cause: format!("closing the commit log: {error}") })
    }
}
