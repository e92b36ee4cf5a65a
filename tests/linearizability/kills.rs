//! Lives and deaths of a store: where its committer is stopped, and what is left on disk.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use profilestore::engine::{Disk, Point};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::callers::{Caller, Standing};
use super::history::{Operation, Recorder};
use super::lives::Life;
use crate::common::files::{copy_dir, with_ending};

const CALLERS: usize = 3;
const LIVES: usize = 3;

/// Where a kill may find the committer.
const POINTS: [Point; 9] = [
    Point::Decided,
    Point::LogWrite,
    Point::LogSync,
    Point::Appended,
    Point::Announced,
    Point::BatchBegun,
    Point::Applied,
    Point::Published,
    Point::SledFlush,
];

/// Whether a kill takes with it what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    MayFail,
    Fails,
}

/// A disk on which the committer can be stopped, and that knows what was synced.
#[derive(Default)]
pub struct DiskUnderTest(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stop: Mutex<Stop>,
    released: Condvar,
    /// The synced length of each file of the log, by its inode.
    synced: Mutex<HashMap<u64, u64>>,
    lies: AtomicBool,
}

#[derive(Default)]
struct Stop {
    /// The point, and how often it is still passed before.
    planned: Option<(Point, usize)>,
    stands: bool,
    released: bool,
}

impl DiskUnderTest {
    fn planned(point: Point, passed_before: usize) -> Self {
        let disk = Self::default();
        disk.0.stop.lock().planned = Some((point, passed_before));
        disk
    }

    pub fn disk(&self) -> Disk {
        let (passing, syncing) = (self.0.clone(), self.0.clone());
        Disk::system().with_faults(move |point| Ok(passing.pass(point))).with_sync(move |file| {
            if !syncing.lies.load(Ordering::SeqCst) {
                file.sync_data()?;
                let metadata = file.metadata()?;
                syncing.synced.lock().insert(metadata.ino(), metadata.len());
            }
            Ok(())
        })
    }

    /// From now on syncs do nothing and say that they did.
    pub fn lie(&self) {
        self.0.lies.store(true, Ordering::SeqCst);
    }

    /// What stands in the log of a directory now is on disk.
    fn all_is_synced(&self, dir: &Path) {
        for segment in with_ending(&dir.join("commit-log"), ".log") {
            let metadata = fs::metadata(segment).unwrap();
            self.0.synced.lock().insert(metadata.ino(), metadata.len());
        }
    }

    fn synced_bytes(&self, segment: &Path) -> u64 {
        // A segment is synced with its header before it is used.
        self.0.synced.lock().get(&fs::metadata(segment).unwrap().ino()).copied().unwrap_or(40)
    }

    fn stands(&self) -> bool {
        self.0.stop.lock().stands
    }

    fn release(&self) {
        let mut stop = self.0.stop.lock();
        (stop.planned, stop.released) = (None, true);
        self.0.released.notify_all();
    }
}

/// Releases the committer in the end.
struct Released<'a>(&'a DiskUnderTest);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Inner {
    fn pass(&self, point: Point) {
        let mut stop = self.stop.lock();
        match &mut stop.planned {
            Some((planned, 0)) if *planned == point => stop.stands = true,
            Some((planned, left)) if *planned == point => {
                *left -= 1;
                return;
            }
            _ => return,
        }
        self.released.wait_while(&mut stop, |stop| !stop.released);
    }
}

/// Makes one history.
pub async fn live_through<L: Life>(seed: u64) -> Vec<Operation> {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let (recorder, values) = (Arc::new(Recorder::default()), Arc::new(AtomicUsize::new(0)));
    for number in 0..LIVES {
        let own = dir.path().join(number.to_string());
        let disk = DiskUnderTest::planned(*POINTS.choose(&mut rng).unwrap(), rng.random_range(0..6));
        let life = L::open(&own, &disk).await;
        // Also when a check fails: a committer that is never released keeps its store from closing.
        let _released = Released(&disk);
        disk.all_is_synced(&own);
        let standing = Arc::new(Standing::default());
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let caller = Caller {
                target: life.target(),
                recorder: recorder.clone(),
                standing: standing.clone(),
                values: values.clone(),
                rng: StdRng::seed_from_u64(rng.random()),
            };
            callers.spawn(caller.run());
        }
        let is_over = || {
            let done = standing.done.load(Ordering::SeqCst);
            done == CALLERS || disk.stands() && done + standing.writing.load(Ordering::SeqCst) == CALLERS
        };
        while !is_over() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let is_last = number + 1 == LIVES;
        if !is_last {
            callers.abort_all();
        }
        if is_last {
            disk.release();
        }
        while let Some(caller) = callers.join_next().await {
            assert!(caller.is_ok() || caller.unwrap_err().is_cancelled(), "a caller panicked");
        }
        recorder.killed();
        let next = dir.path().join((number + 1).to_string());
        if !is_last {
            copy_dir(&own, &next);
            if L::POWER == Power::Fails || rng.random_bool(0.5) {
                cut_power(&own, &next, &disk, &mut rng);
            }
            disk.release();
        } else {
            let caller = Caller {
                target: life.target(),
                recorder: recorder.clone(),
                standing,
                values: values.clone(),
                rng: StdRng::seed_from_u64(0),
            };
            caller.pages().await.unwrap();
        }
        life.close().await;
        fs::remove_dir_all(own).unwrap();
    }
    Arc::into_inner(recorder).expect("all callers are gone").into_operations()
}

/// Takes out of a copy what was not synced in the original: the end of the log, and sled as far as the log can replace it.
fn cut_power(original: &Path, copy: &Path, disk: &DiskUnderTest, rng: &mut StdRng) {
    let segments = with_ending(&original.join("commit-log"), ".log");
    let last = segments.last().unwrap();
    let synced = disk.synced_bytes(last);
    let in_copy = copy.join("commit-log").join(last.file_name().unwrap());
    let file = fs::OpenOptions::new().write(true).open(&in_copy).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(rng.random_range(synced.min(length)..=length)).unwrap();
    if rng.random_bool(0.3) {
        // The file had grown, but its last bytes never came to the disk.
        file.set_len(length).unwrap();
    }
    if disk.0.lies.load(Ordering::SeqCst) || rng.random_bool(0.3) {
        fs::remove_dir_all(copy.join("sled")).unwrap();
    }
}
