//! The one background thread: makes snapshots and trims the log, at a pace that leaves the machine to others.
//!
//! It looks at the log's directory every few seconds and costs a commit nothing. A snapshot is due when the log
//! since the last one is longer than the live data and than a bound. A log segment goes when it is past retention,
//! flushed into sled, covered by the newest snapshot that this process has made or read through, and held by nobody. What
//! is held has a bound, and is given up when there is no room for writes.
//!
//! A state that turns out damaged while it is copied is marked, and the store fails: the next open rebuilds it. The same when the
//! thread panics, as sled makes it on some damaged pages: without it no snapshot would be made and no log trimmed any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::committer::{fail, latch};
use super::doubt::Doubt;
use super::figures::SledFigures;
use super::holds::Holds;
use super::pacer::{Pacer, StopOnDrop, Stopper};
use super::snapshotter::{self, Snapshot, SnapshotFailure, Source};
use super::space::{Ballast, SpaceWatch};
use super::tree::Tree;
use crate::engine::commit_log::{HeldLog, Retention, bytes_after, first_sequence, trim};
use crate::engine::durable_file;
use crate::engine::snapshot::{SnapshotDir, SnapshotError};
use crate::model::{Canonicalization, Incarnation};
use crate::store::{Clock, Corruption, StoreError, StoreState};

/// How often it looks whether there is something to do.
const INTERVAL: Duration = Duration::from_secs(2);
/// After a snapshot has failed it waits, twice as long each time.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// A clock that is behind the last commit by more than this is worth a line.
const CLOCK_BEHIND: Duration = Duration::from_secs(60);
/// So many looks in a row an unreadable snapshot is tried again before it counts for none.
const READ_ATTEMPTS: u32 = 15;

/// When snapshots are made and how much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// A snapshot is due when the log since the last one has more bytes than this, and more than the live data.
    pub after_log_bytes: u64,
    /// What is kept of the log behind the newest snapshot.
    pub retention: Retention,
}

/// What the thread works with.
pub struct MaintenanceParts {
    pub tree: Arc<Tree>,
    pub commit_log: PathBuf,
    pub snapshots: SnapshotDir,
    pub suspect_mark: PathBuf,
    pub doubt: Doubt,
    pub incarnation: Incarnation,
    pub canonicalization: Canonicalization,
    pub policy: SnapshotPolicy,
    pub holds: Arc<Holds>,
    /// How much of the log is kept for those who hold it, in bytes.
    pub held_log_bytes: u64,
    pub clock: Clock,
    /// Whether snapshots are made.
    pub snapshots_due: bool,
    pub ballast: Ballast,
    /// Whether writes are refused for want of room.
    pub space: Arc<SpaceWatch>,
    /// Up to where sled is flushed; the committer moves it.
    pub checkpoint: Arc<AtomicU64>,
    /// How long an end waits for the disk.
    pub sync_timeout: Duration,
    pub state: watch::Sender<StoreState>,
    /// Told of snapshots.
    pub figures: Arc<SledFigures>,
}

enum Message {
    Snapshot(oneshot::Sender<Result<Snapshot, StoreError>>),
    Stop,
}

/// The handle of the thread.
pub struct Maintenance {
    messages: SyncSender<Message>,
    stopper: Stopper,
    /// Told when the thread has ended.
    ended: Stopper,
    sync_timeout: Duration,
    state: watch::Receiver<StoreState>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Maintenance {
    /// Starts the thread.
    pub fn start(parts: MaintenanceParts) -> std::io::Result<Self> {
        let (messages, received) = sync_channel(1);
        let (stopper, ended, sync_timeout) = (Stopper::default(), Stopper::default(), parts.sync_timeout);
        let state = parts.state.subscribe();
        let thread = Thread {
            parts,
            stopper: stopper.clone(),
            answer: None,
            proven: None,
            unreadable: 0,
            failures: 0,
            not_before: Instant::now(),
        };
        let end = StopOnDrop(ended.clone());
        let thread = std::thread::Builder::new().name("maintenance".into()).spawn(move || {
            let _end = end;
            thread.run(&received);
        })?;
        Ok(Self { messages, stopper, ended, sync_timeout, state, thread: Mutex::new(Some(thread)) })
    }

    /// Makes a snapshot now and trims the log behind it.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.messages.try_send(Message::Snapshot(answer)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Overloaded,
            TrySendError::Disconnected(_) => self.why_ended(),
        })?;
        answered.await.unwrap_or_else(|_| Err(self.why_ended()))
    }

    fn why_ended(&self) -> StoreError {
        match &*self.state.borrow() {
            StoreState::Failed { cause } => StoreError::Failed { cause: cause.clone() },
            StoreState::Open | StoreState::Closed => StoreError::Closed,
        }
    }

    /// Ends the thread; a snapshot in the making is given up. Blocks for milliseconds, or as long as one sync may take.
    /// Returns whether it has ended: one that waits for the disk is left behind.
    pub fn stop(&self) -> bool {
        self.stopper.stop();
        // If the queue is full the thread wakes up all the same.
        let _ = self.messages.try_send(Message::Stop);
        if self.ended.rest(self.sync_timeout).is_ok() {
            tracing::error!(
                waited = ?self.sync_timeout,
                "the maintenance thread waits for the disk; it is not waited for any longer"
            );
            return false;
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the maintenance thread panicked");
        }
        true
    }
}

struct Thread {
    parts: MaintenanceParts,
    stopper: Stopper,
    /// Who waits for the snapshot in the making. Not on the stack: a panic must not let him go before the store has failed.
    answer: Option<oneshot::Sender<Result<Snapshot, StoreError>>>,
    /// The newest snapshot that this process has made or read through. `None`: not looked yet.
    proven: Option<u64>,
    /// How often in a row the newest snapshot could not be read.
    unreadable: u32,
    failures: u32,
    not_before: Instant,
}

impl Thread {
    fn run(mut self, messages: &Receiver<Message>) {
        let worked = catch_unwind(AssertUnwindSafe(|| self.work(messages)));
        if worked.is_err() {
            // First the state, then whoever waits for a snapshot, who is let go with this thread: he must not take a failure for
            // an orderly close.
            let what = "the maintenance thread panicked";
            let remedy = "a restart checks the whole state, unless it is told never to";
            let failure = latch(&self.parts.state, format!("{what}; {remedy}"));
            let _ = self.parts.doubt.note::<()>(Err(StoreError::Corrupt(Corruption(what.into()))));
            failure.tell();
        }
    }

    fn work(&mut self, messages: &Receiver<Message>) {
        self.look_at_the_clock();
        // The first look is at once: a process that is stopped and started often must come to its snapshots too.
        let mut wait = Duration::ZERO;
        while self.stopper.check().is_ok() {
            match messages.recv_timeout(std::mem::replace(&mut wait, INTERVAL)) {
                Ok(Message::Snapshot(answer)) => {
                    self.answer = Some(answer);
                    let made = self.snapshot(self.failures > 0).map_err(|failure| match failure {
                        SnapshotFailure::Stopped => StoreError::Closed,
                        other => StoreError::Failed { cause: format!("no snapshot could be made: {other}") },
                    });
                    self.trim();
                    if let Some(answer) = self.answer.take() {
                        let _ = answer.send(made);
                    }
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => self.look(),
            }
        }
    }

    fn look_at_the_clock(&self) {
        let now = self.parts.clock.now();
        if let Ok(applied) = self.parts.tree.applied()
            && applied.time.saturating_sub(CLOCK_BEHIND) > now
        {
            let ahead_s = applied.time.unix_nanos().saturating_sub(now.unix_nanos()) / 1_000_000_000;
            tracing::warn!(
                ahead_s,
                "the last commit's time is ahead of the clock, which is wrong or was; commits keep that time until the clock is there"
            );
        }
    }

    fn look(&mut self) {
        if matches!(*self.parts.state.borrow(), StoreState::Failed { .. }) {
            return;
        }
        if self.parts.tree.flusher().has_ended() {
            self.parts.figures.flusher_has_ended();
            let what = "sled's flusher thread has ended, so nothing reclaims space any more";
            fail(&self.parts.state, format!("{what}; a restart begins it anew"));
            return;
        }
        if let Err(error) = self.parts.ballast.take() {
            tracing::debug!(%error, "the ballast could not be taken");
        }
        self.parts.space.ask();
        match self.is_due() {
            Ok(true) if Instant::now() >= self.not_before => {
                // A second attempt hurries, since the first may have failed because too much changed meanwhile.
                let _ = self.snapshot(self.failures > 0);
            }
            Ok(_) | Err(SnapshotFailure::Stopped) => {}
            Err(error) => tracing::warn!(%error, "whether a snapshot is due cannot be said"),
        }
        self.trim();
    }

    /// Whether the log since the newest good snapshot has become long.
    fn is_due(&mut self) -> Result<bool, SnapshotFailure> {
        if !self.parts.snapshots_due {
            return Ok(false);
        }
        let live_bytes = self.parts.tree.applied()?.totals.profile_bytes;
        let bound = self.parts.policy.after_log_bytes.max(live_bytes);
        let newest_good = self.newest_good()?;
        // Without the log behind it, no snapshot gives a whole state.
        let first_kept = first_sequence(&self.parts.commit_log)?.unwrap_or(1);
        if newest_good + 1 < first_kept {
            return Ok(true);
        }
        Ok(bytes_after(&self.parts.commit_log, newest_good)? > bound)
    }

    /// The sequence of the newest good snapshot; 0 without one. Reads through one of an earlier run before it counts.
    fn newest_good(&mut self) -> Result<u64, SnapshotFailure> {
        if let Some(proven) = self.proven {
            return Ok(proven);
        }
        let mut pacer = Pacer::new(self.stopper.clone(), false);
        while let Some(newest) = self.parts.snapshots.list()?.pop() {
            match snapshotter::is_good(&self.parts.snapshots, newest, &mut pacer) {
                Ok(()) => {
                    self.proven = Some(newest);
                    return Ok(newest);
                }
                Err(SnapshotFailure::File(SnapshotError::Io(error))) => {
                    // The disk may give it another time. If not, a new one is made when one is needed, and this one stays
                    // until then.
                    self.unreadable += 1;
                    if self.unreadable < READ_ATTEMPTS {
                        return Err(SnapshotFailure::File(SnapshotError::Io(error)));
                    }
                    tracing::error!(sequence = newest, %error, "a snapshot cannot be read, and counts for none until the next start");
                    break;
                }
                Err(SnapshotFailure::File(error)) => {
                    tracing::error!(sequence = newest, %error, "a snapshot can no longer be used; it was set aside");
                    self.parts.snapshots.set_aside(newest)?;
                }
                Err(other) => return Err(other),
            }
        }
        self.proven = Some(0);
        Ok(0)
    }

    fn snapshot(&mut self, hurry: bool) -> Result<Snapshot, SnapshotFailure> {
        let source = Source {
            tree: &self.parts.tree,
            commit_log: self.parts.commit_log.clone(),
            incarnation: self.parts.incarnation,
            canonicalization: self.parts.canonicalization,
        };
        let mut pacer = Pacer::new(self.stopper.clone(), hurry);
        // sled panics on some damaged pages.
        let making = AssertUnwindSafe(|| {
            self.ensure_room()?;
            snapshotter::make(&source, &self.parts.snapshots, &mut pacer)
        });
        let panicked = |_| Err(SnapshotFailure::Damaged("sled panicked while it was read".into()));
        let made = catch_unwind(making).unwrap_or_else(panicked);
        if !matches!(made, Err(SnapshotFailure::Stopped)) {
            self.parts.figures.snapshot(made.as_ref().ok());
        }
        match &made {
            Ok(Snapshot { sequence, profiles, bytes, took }) => {
                tracing::info!(sequence, profiles, bytes, elapsed_ms = took.as_millis() as u64, "made a snapshot");
                self.proven = Some(*sequence);
                self.failures = 0;
            }
            Err(SnapshotFailure::Stopped) => {}
            Err(SnapshotFailure::Damaged(what)) => {
                if let Err(error) = durable_file::replace(&self.parts.suspect_mark, what.as_bytes()) {
                    tracing::error!(%error, "sled's state could not be marked as damaged");
                }
                fail(&self.parts.state, format!("sled's state is damaged: {what}; a restart rebuilds it"));
            }
            Err(error) => {
                let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(16)).min(LONGEST_WAIT);
                tracing::warn!(%error, wait_s = wait.as_secs(), "no snapshot could be made");
                self.failures += 1;
                self.not_before = Instant::now() + wait;
            }
        }
        made
    }

    /// A snapshot must not be what fills the disk.
    fn ensure_room(&self) -> Result<(), SnapshotFailure> {
        let live_bytes = self.parts.tree.applied()?.totals.profile_bytes;
        if self.parts.ballast.leaves_room_for(live_bytes + live_bytes / 4)? {
            Ok(())
        } else {
            Err(SnapshotFailure::NoRoom)
        }
    }

    fn trim(&mut self) {
        let needed_after = [self.proven.unwrap_or(0), self.parts.checkpoint.load(Ordering::Acquire)];
        let needed_after = needed_after.into_iter().min().unwrap_or(0);
        if needed_after == 0 {
            return;
        }
        let MaintenanceParts { commit_log, incarnation, policy, clock, holds, space, .. } = &self.parts;
        // A follower that has stopped must not be what keeps writers out, also not where some room has come back but not
        // enough for them.
        let max_bytes = if space.is_low() { 0 } else { self.parts.held_log_bytes };
        let trimmed = holds.trim(|held_after| {
            let held = held_after.map(|after| HeldLog { after, max_bytes });
            trim(commit_log, *incarnation, needed_after, held, policy.retention, clock.now())
        });
        match trimmed {
            Ok(trimmed) if trimmed.segments > 0 => tracing::info!(
                segments = trimmed.segments,
                bytes = trimmed.bytes,
                first_sequence = trimmed.first_sequence,
                "trimmed the commit log"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the commit log could not be trimmed"),
        }
    }
}
