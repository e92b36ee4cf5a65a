//! Lives and deaths of a store: where its committer is stopped, and what is left on disk.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use profilestore::engine::Point;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::callers::{Caller, Standing};
use super::history::{Operation, Recorder};
use super::lives::Life;
use crate::common::files::copy_dir;
use crate::common::mortal_disk::MortalDisk;

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

/// Makes one history.
pub async fn live_through<L: Life>(seed: u64) -> Vec<Operation> {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let (recorder, values) = (Arc::new(Recorder::default()), Arc::new(AtomicUsize::new(0)));
    for number in 0..LIVES {
        let own = dir.path().join(number.to_string());
        let disk = MortalDisk::default();
        disk.stop_at(*POINTS.choose(&mut rng).unwrap(), rng.random_range(0..6));
        let life = L::open(&own, &disk).await;
        // Also when a check fails: a committer that is never released keeps its store from closing.
        let _released = disk.released_in_the_end();
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
                disk.cut_power(&own, &next, rng.random(), rng.random_bool(0.3));
                if disk.lies() || rng.random_bool(0.3) {
                    // The log can replace it.
                    fs::remove_dir_all(next.join("sled")).unwrap();
                }
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
