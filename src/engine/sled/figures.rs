//! What the store on disk can tell about its work. Written where the work is done, read when somebody looks.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::blobs;
use super::snapshotter::Snapshot;
use super::watchdog::Step;
use crate::figures::{Distribution, Histogram, SIZE_BOUNDS, Timer};

/// What callers ask of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// One record by id.
    Get,
    /// Records of many ids.
    GetMany,
    /// A page of records.
    List,
    /// A page of domains.
    ListDomains,
    /// A number of profiles.
    Count,
    /// A commit, from the queue to the answer.
    Commit,
    /// A page of changes.
    Changes,
}

impl Operation {
    /// All of them, with their names, in order.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Get, "get"),
        (Self::GetMany, "get_many"),
        (Self::List, "list"),
        (Self::ListDomains, "list_domains"),
        (Self::Count, "count"),
        (Self::Commit, "commit"),
        (Self::Changes, "changes"),
    ];
}

/// The committer's steps with their names, in order.
const STEPS: [(Step, &str); 5] = [
    (Step::Append, "log_append"),
    (Step::Apply, "apply"),
    (Step::Flush, "flush"),
    (Step::Decide, "decide"),
    (Step::AskForRoom, "ask_for_room"),
];

/// What was found and done when the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenFigures {
    /// How long it took.
    pub took: Duration,
    /// Groups that were replayed from the log.
    pub replayed_groups: u64,
    /// How long the check of the whole state took, if it was made.
    pub check_took: Option<Duration>,
    /// The state was damaged and was built anew.
    pub healed: bool,
    /// Whoever had it open before did not close it: it was killed, or failed.
    pub left_open: bool,
}

/// What the store has done since it was opened.
#[derive(Debug)]
pub struct SledFigures {
    open: OpenFigures,
    operations: [Histogram; Operation::ALL.len()],
    steps: [Histogram; STEPS.len()],
    group_writes: Histogram,
    log_bytes: AtomicU64,
    disk_low: AtomicBool,
    flusher_ended: AtomicBool,
    /// `u64::MAX`: not asked.
    free_bytes: AtomicU64,
    snapshots: AtomicU64,
    snapshot_failures: AtomicU64,
    snapshot_bytes: AtomicU64,
    snapshot_unix_seconds: AtomicU64,
    blobs: AtomicU64,
}

impl SledFigures {
    /// Of a store that was just opened.
    pub(super) fn new(open: OpenFigures) -> Self {
        Self {
            open,
            operations: std::array::from_fn(|_| Histogram::of_latencies()),
            steps: std::array::from_fn(|_| Histogram::of_latencies()),
            group_writes: Histogram::new(&SIZE_BOUNDS),
            log_bytes: AtomicU64::new(0),
            disk_low: AtomicBool::new(false),
            flusher_ended: AtomicBool::new(false),
            free_bytes: AtomicU64::new(u64::MAX),
            snapshots: AtomicU64::new(0),
            snapshot_failures: AtomicU64::new(0),
            snapshot_bytes: AtomicU64::new(0),
            snapshot_unix_seconds: AtomicU64::new(0),
            blobs: AtomicU64::new(0),
        }
    }

    /// Times an operation until what is returned is dropped.
    pub(super) fn time(&self, operation: Operation) -> Timer<'_> {
        self.operations[operation as usize].time()
    }

    /// Times a step of the committer.
    pub(super) fn time_step(&self, step: Step) -> Timer<'_> {
        self.steps[step as usize].time()
    }

    /// A group was made.
    pub(super) fn group(&self, changes: usize, log_bytes: usize) {
        self.group_writes.add(changes as u64);
        self.log_bytes.fetch_add(log_bytes as u64, Ordering::Relaxed);
    }

    /// The disk was asked for its room.
    pub(super) fn room(&self, free_bytes: u64, low: bool) {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        self.disk_low.store(low, Ordering::Relaxed);
    }

    /// sled's own thread has ended.
    pub(super) fn flusher_has_ended(&self) {
        self.flusher_ended.store(true, Ordering::Relaxed);
    }

    /// Whether sled's own thread, which reclaims space, has ended; the store has failed then.
    pub fn has_flusher_ended(&self) -> bool {
        self.flusher_ended.load(Ordering::Relaxed)
    }

    /// A snapshot was made, or failed.
    pub(super) fn snapshot(&self, made: Option<&Snapshot>) {
        let Some(Snapshot { bytes, .. }) = made else {
            self.snapshot_failures.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.snapshot_bytes.store(*bytes, Ordering::Relaxed);
        self.snapshot_unix_seconds.store(now.as_secs(), Ordering::Relaxed);
        self.snapshots.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks through sled's directory, and tells `comes_on` of every file; the first that must not be there are a warning.
    pub(super) fn look_for_blobs(&self, sled: &Path, comes_on: &dyn Fn()) -> io::Result<()> {
        let count = blobs::count(sled, comes_on)?;
        if self.blobs.swap(count, Ordering::Relaxed) == 0 && count > 0 {
            tracing::error!(count, "sled keeps items in files of their own, which it does not sync; make a backup");
        }
        Ok(())
    }

    /// How many items sled keeps in files of their own, which it never syncs. Must be 0.
    pub fn blobs(&self) -> u64 {
        self.blobs.load(Ordering::Relaxed)
    }

    /// What was done when it was opened.
    pub fn open(&self) -> OpenFigures {
        self.open
    }

    /// How long each operation took, by name.
    pub fn operations(&self) -> impl Iterator<Item = (&'static str, Distribution)> + '_ {
        Operation::ALL.iter().zip(&self.operations).map(|((_, name), seen)| (*name, seen.distribution()))
    }

    /// How long each step of the committer took, by name. `log_append` has the log's sync in it.
    pub fn steps(&self) -> impl Iterator<Item = (&'static str, Distribution)> + '_ {
        STEPS.iter().zip(&self.steps).map(|((_, name), seen)| (*name, seen.distribution()))
    }

    /// How long the groups took to be in the log, with its syncs.
    pub fn log_appends(&self) -> Distribution {
        self.steps[Step::Append as usize].distribution()
    }

    /// How many changes the groups had.
    pub fn group_writes(&self) -> Distribution {
        self.group_writes.distribution()
    }

    /// The bytes of all groups in the log.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    /// Whether writes are refused because the disk is nearly full.
    pub fn is_disk_low(&self) -> bool {
        self.disk_low.load(Ordering::Relaxed)
    }

    /// The disk's room besides the ballast when it was last asked; `None` when it never answered.
    pub fn free_bytes(&self) -> Option<u64> {
        Some(self.free_bytes.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX)
    }

    /// The number of snapshots made.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// The number of snapshots that failed, those that were given up for a close not counted.
    pub fn snapshot_failures(&self) -> u64 {
        self.snapshot_failures.load(Ordering::Relaxed)
    }

    /// The bytes of the newest snapshot that was made, and when, in seconds of Unix time.
    pub fn newest_snapshot(&self) -> Option<(u64, u64)> {
        let made = self.snapshot_unix_seconds.load(Ordering::Relaxed);
        (made > 0).then(|| (self.snapshot_bytes.load(Ordering::Relaxed), made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_and_steps_are_kept_under_their_own_names() {
        let figures = SledFigures::new(OpenFigures::default());
        for (operation, name) in Operation::ALL {
            assert_eq!(Operation::ALL[operation as usize].1, name);
            drop(figures.time(operation));
            assert_eq!(figures.operations().find(|(of, _)| *of == name).unwrap().1.count(), 1, "{name}");
        }
        for (step, name) in STEPS {
            assert_eq!(STEPS[step as usize].1, name);
            drop(figures.time_step(step));
            assert_eq!(figures.steps().find(|(of, _)| *of == name).unwrap().1.count(), 1, "{name}");
        }
    }
}
