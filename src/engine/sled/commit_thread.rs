//! The one thread that changes anything.
//!
//! It takes what is queued and what the callers who were just answered bring back in a moment ([`Gathering`]), up to 128
//! writes or 128 KiB (a single request is never split), and for the group:
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

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::answers::{Answering, Round};
use super::committer::{Answer, CommitterParts, Message, Queued, Request, latch};
use super::doubt::Doubt;
use super::figures::SledFigures;
use super::gathering::Gathering;
use super::group_effect::{GroupEffect, GroupState};
use super::group_trace::GroupTrace;
use super::head::Head;
use super::keys::Applied;
use super::recent_records::RecentRecords;
use super::space::SpaceWatch;
use super::tree::Tree;
use super::watchdog::{Progress, Step};
use crate::engine::commit_log::{CommitLog, sequence_numbers};
use crate::engine::decision::{Decided, GroupBasis, GroupDecision};
use crate::engine::durable_file;
use crate::engine::request_memory::RequestMemory;
use crate::engine::{Disk, EngineRules, Point};
use crate::model::limits::MAX_COMMIT_WRITES;
use crate::model::{CommitTime, Incarnation, Revision};
use crate::store::{CommitObserver, StoreError, StoreState};

/// A group is closed when it has this many writes. Larger batches break sled's reclaim of memory and space.
const GROUP_WRITES: usize = MAX_COMMIT_WRITES;
/// A group is closed when it has this many bytes.
const GROUP_BYTES: usize = 128 * 1024;

/// sled is flushed at the latest after this time, this many groups or this many bytes.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
const FLUSH_GROUPS: usize = 64;
const FLUSH_BYTES: usize = 8 * 1024 * 1024;

/// What has been applied to sled but not flushed.
struct Unflushed {
    since: Instant,
    groups: usize,
    bytes: usize,
}

/// The thread's own state.
pub(super) struct CommitThread {
    queue: Receiver<Message>,
    /// Requests that did not fit into the group before, in order.
    held_back: VecDeque<Request>,
    /// The requests of the group in the making that are not decided yet.
    undecided: VecDeque<Request>,
    /// The callers of the group in the making, with what they will be told.
    answers: Vec<(Answering, Answer)>,
    /// Those who were answered and may not have been woken.
    round: Round,
    /// Whether the next group waits for them.
    gathering: Gathering,
    /// What the group in the making tells those who trace its writes.
    trace: GroupTrace,
    /// A batch was begun: if it does not end well, sled may hold half of it.
    applying: bool,
    suspect_mark: PathBuf,
    doubt: Doubt,
    /// The close was met while a group was being filled.
    closing: bool,
    queued: Arc<Queued>,
    state: watch::Sender<StoreState>,
    /// `None` only after the close.
    log: Option<CommitLog>,
    tree: Arc<Tree>,
    applied: Applied,
    recent: RecentRecords,
    head: Arc<Head>,
    /// What the log remembers.
    requests: RequestMemory,
    incarnation: Incarnation,
    rules: EngineRules,
    observer: Arc<dyn CommitObserver>,
    unflushed: Option<Unflushed>,
    /// Up to where sled is flushed.
    checkpoint: Arc<AtomicU64>,
    space: Arc<SpaceWatch>,
    /// What the watchdog watches.
    progress: Arc<Progress>,
    figures: Arc<SledFigures>,
    /// Where tests let a step fail.
    disk: Disk,
}

/// Why the thread stops waiting.
enum Next {
    Group,
    FlushDue,
    Close,
}

impl CommitThread {
    /// The thread's state at its start.
    pub(super) fn new(
        parts: CommitterParts,
        queue: Receiver<Message>,
        queued: Arc<Queued>,
        state: watch::Sender<StoreState>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            queue,
            held_back: VecDeque::new(),
            undecided: VecDeque::new(),
            closing: false,
            answers: Vec::new(),
            round: Round::default(),
            gathering: Gathering::default(),
            trace: GroupTrace::default(),
            applying: false,
            suspect_mark: parts.suspect_mark,
            doubt: parts.doubt,
            queued,
            state,
            log: Some(parts.log),
            tree: parts.tree,
            applied: parts.applied,
            recent: RecentRecords::default(),
            head: parts.head,
            requests: parts.requests,
            incarnation: parts.incarnation,
            rules: parts.rules,
            observer: parts.observer,
            unflushed: None,
            checkpoint: parts.checkpoint,
            space: parts.space,
            progress,
            figures: parts.figures,
            disk: parts.disk,
        }
    }

    /// Works until the close, or until nobody can send any more.
    pub(super) fn run(&mut self) {
        loop {
            self.guarded(|this| this.pass(Point::Waiting));
            let next = self.next();
            match next {
                Next::Group => self.guarded(Self::commit_group),
                Next::FlushDue => self.guarded(Self::flush),
                Next::Close => break,
            }
        }
        self.guarded(Self::close);
    }

    /// Runs one step; an error or a panic in it ends all writing.
    fn guarded(&mut self, step: impl FnOnce(&mut Self) -> Result<(), StoreError>) {
        let cause = match catch_unwind(AssertUnwindSafe(|| step(self))) {
            Ok(Ok(())) => return,
            Ok(Err(StoreError::Failed { cause })) => cause,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the committer panicked".to_owned(),
        };
        if std::mem::take(&mut self.applying) {
            // A batch that fails halfway may become durable in part, with or without the applied sequence, and
            // then no replay can tell. The next open rebuilds sled from the log.
            // Under watch: the callers wait, and the disk that failed may not answer.
            let mark = || {
                self.pass(Point::SuspectMark)
                    .map_err(|error| error.to_string())
                    .and_then(|()| durable_file::replace(&self.suspect_mark, b"").map_err(|error| error.to_string()))
            };
            if let Err(error) = self.progress.during(Step::Apply, mark) {
                tracing::error!(%error, "sled's state could not be marked as suspect");
            }
        }
        // First the state, then the callers: none of them may take a failure for an orderly close.
        let failure = latch(&self.state, cause.clone());
        let undecided = self.undecided.drain(..).map(|request| {
            self.queued.leave(request.size_bytes);
            request.answer
        });
        let callers = self.answers.drain(..).map(|(answer, _)| answer).chain(undecided);
        self.round.hand_out(callers.map(|answer| (answer, Err(StoreError::Failed { cause: cause.clone() }))));
        self.round.finish();
        failure.tell();
    }

    fn has_failed(&self) -> bool {
        matches!(*self.state.borrow(), StoreState::Failed { .. })
    }

    fn pass(&self, point: Point) -> Result<(), StoreError> {
        self.disk.pass(point).map_err(|error| StoreError::Failed { cause: error.to_string() })
    }

    fn has_room(&self) -> bool {
        self.progress.during(Step::AskForRoom, || self.space.has_room())
    }

    /// Waits for a request and takes with it what else is queued and fits.
    fn next(&mut self) -> Next {
        let first = match self.held_back.pop_front() {
            Some(request) => request,
            None if self.closing => return Next::Close,
            None => match self.receive() {
                Ok(Message::Commit(request)) => request,
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => return Next::Close,
                Err(RecvTimeoutError::Timeout) => return Next::FlushDue,
            },
        };
        let (mut writes, mut bytes) = (first.commit.writes.len(), first.size_bytes);
        self.undecided.push_back(first);
        while writes < GROUP_WRITES && bytes < GROUP_BYTES {
            let next = self.held_back.pop_front().or_else(|| self.try_receive()).or_else(|| self.gather());
            let Some(request) = next else { break };
            writes += request.commit.writes.len();
            bytes += request.size_bytes;
            if writes > GROUP_WRITES || bytes > GROUP_BYTES {
                self.held_back.push_front(request);
                break;
            }
            self.undecided.push_back(request);
        }
        Next::Group
    }

    /// A request that is queued already.
    fn try_receive(&mut self) -> Option<Request> {
        let message = self.queue.try_recv().ok()?;
        self.request_in(message)
    }

    /// A request that comes while the group waits for callers to come back.
    fn gather(&mut self) -> Option<Request> {
        if self.closing {
            return None;
        }
        let patience = self.gathering.patience(self.undecided.len())?;
        let message = self.queue.recv_timeout(patience).ok()?;
        self.request_in(message)
    }

    fn request_in(&mut self, message: Message) -> Option<Request> {
        match message {
            Message::Commit(request) => Some(request),
            Message::Close => {
                self.closing = true;
                None
            }
        }
    }

    fn receive(&mut self) -> Result<Message, RecvTimeoutError> {
        if let Ok(message) = self.queue.try_recv() {
            return Ok(message);
        }
        self.round.finish();
        match &self.unflushed {
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(unflushed) => self.queue.recv_timeout(FLUSH_INTERVAL.saturating_sub(unflushed.since.elapsed())),
        }
    }

    fn commit_group(&mut self) -> Result<(), StoreError> {
        let refusal = match &*self.state.borrow() {
            StoreState::Failed { cause } => Some(StoreError::Failed { cause: cause.clone() }),
            _ => None,
        };
        if let Some(refusal) = refusal.or_else(|| (!self.has_room()).then_some(StoreError::DiskLow)) {
            let refused = self.undecided.drain(..).map(|request| {
                self.queued.leave(request.size_bytes);
                (request.answer, Err(refusal.clone()))
            });
            self.round.hand_out(refused);
            // What was taken before becomes durable in sled in its time, however many are refused.
            return self.flush_if_due();
        }
        let began = Instant::now();
        let time = self.rules.clock.now().max(self.applied.time);
        self.requests.forget_old(time);
        let progress = self.progress.clone();
        let (group, effect) = progress.during(Step::Decide, || self.decide(time))?;
        self.pass(Point::Decided)?;
        let changes = group.changes.len();
        let is_empty = changes == 0 && group.requests.is_empty();
        let made = if is_empty { Ok(()) } else { self.make(group, &effect) };
        self.trace.end(changes, made.is_err());
        made?;
        self.gathering.answered(self.answers.len(), self.queued.commits(), began.elapsed());
        self.round.hand_out(self.answers.drain(..));
        self.flush_if_due()
    }

    fn flush_if_due(&mut self) -> Result<(), StoreError> {
        let flush_due = self.unflushed.as_ref().is_some_and(|unflushed| {
            unflushed.groups >= FLUSH_GROUPS
                || unflushed.bytes >= FLUSH_BYTES
                || unflushed.since.elapsed() >= FLUSH_INTERVAL
        });
        if flush_due { self.flush() } else { Ok(()) }
    }

    /// Decides the requests of a group, as many as fit by what they really write: a small update of a large
    /// profile writes a large one.
    fn decide(&mut self, time: CommitTime) -> Result<(Decided, GroupEffect), StoreError> {
        let state = GroupState::new(&self.tree, &self.recent, self.applied);
        let mut decision = GroupDecision::new(GroupBasis {
            state: &state,
            requests: &self.requests,
            unique_email: self.rules.unique_email,
            incarnation: self.incarnation,
            first_revision: Revision(self.applied.sequence + 1),
            time,
        });
        while decision.size_bytes() < GROUP_BYTES
            && let Some(request) = self.undecided.pop_front()
        {
            self.queued.leave(request.size_bytes);
            // The caller is known before anything can go wrong; until it is decided the outcome is unknown.
            let unknown = StoreError::Failed { cause: "the commit was not decided".into() };
            self.answers.push((request.answer, Err(unknown)));
            self.trace.add(request.commit.trace);
            let outcome = self.doubt.note(decision.decide(request.commit));
            if let Err(error @ StoreError::Failed { .. }) = outcome {
                return Err(error);
            }
            if let Some((_, answer)) = self.answers.last_mut() {
                *answer = outcome;
            }
        }
        let group = decision.finish();
        while let Some(request) = self.undecided.pop_back() {
            self.held_back.push_front(request);
        }
        Ok((group, state.into_effect()))
    }

    /// Makes changes durable, then visible.
    fn make(&mut self, group: Decided, effect: &GroupEffect) -> Result<(), StoreError> {
        let Decided { changes, time, .. } = &group;
        let sequence = self.applied.sequence + sequence_numbers(changes.len());
        let prepared = self.tree.prepare(effect, changes, sequence, *time);
        self.round.finish();
        self.progress.ensure_awaited()?;
        let log = self.log.as_mut().ok_or(StoreError::Closed)?;
        let append = || self.progress.during(Step::Append, || log.append(&group));
        let appended = self.trace.part("commit_log.append", append);
        let bytes = appended.map_err(|error| StoreError::Failed { cause: error.to_string() })?;
        self.progress.ensure_awaited()?;
        self.pass(Point::Appended)?;
        self.observer.before_apply(changes);
        self.pass(Point::Announced)?;
        self.applying = true;
        self.head.begin(sequence);
        self.pass(Point::BatchBegun)?;
        let apply = || self.progress.during(Step::Apply, || self.tree.apply(prepared));
        self.applied = self.trace.part("sled.apply", apply)?;
        self.applying = false;
        self.recent.follow(changes);
        self.pass(Point::Applied)?;
        self.observer.after_apply(changes);
        self.head.publish(sequence);
        self.figures.group(changes.len(), bytes);
        self.pass(Point::Published)?;
        for request in group.requests {
            self.requests.remember(request, group.time);
        }
        let unflushed = self.unflushed.get_or_insert(Unflushed { since: Instant::now(), groups: 0, bytes: 0 });
        unflushed.groups += 1;
        unflushed.bytes += bytes;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.unflushed.take().is_some() && !self.has_failed() {
            self.round.finish();
            self.flush_sled()?;
            self.checkpoint.store(self.applied.sequence, Ordering::Release);
            self.progress.during(Step::AskForRoom, || self.space.ask());
        }
        Ok(())
    }

    fn flush_sled(&self) -> Result<(), StoreError> {
        self.pass(Point::SledFlush)?;
        self.progress.during(Step::Flush, || self.tree.flush())?;
        self.pass(Point::SledFlushed)
    }

    /// Flushes sled and leaves the log's mark; after a failure nothing is touched any more.
    fn close(&mut self) -> Result<(), StoreError> {
        self.round.finish();
        let Some(log) = self.log.take().filter(|_| !self.has_failed()) else { return Ok(()) };
        self.flush_sled()?;
        let closed = self.progress.during(Step::Append, || log.close());
        closed.map_err(|error| StoreError::Failed { cause: format!("closing the commit log: {error}") })
    }
}
