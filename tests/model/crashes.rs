//! Kills, power cuts, snapshots, trims and repairs among the random operations.
//!
//! The model knows what may be in doubt: a commit that had no answer is made as a whole or not at all, and by where it was
//! stopped it is often known which. Its repetition under the same request id makes it once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use profilestore::engine::commit_log::Retention;
use profilestore::engine::sled::{SledOptions, SledStore, SnapshotPolicy, repair, verify_offline};
use profilestore::engine::{EngineRules, Point};
use profilestore::model::Outcome;
use profilestore::store::{Clock, Commit, CommitMode, NoObserver, Store};
use rand::RngExt;
use rand::seq::IndexedRandom;
use tempfile::TempDir;

use super::oracle::Oracle;
use super::plan::{IDS, Planned};
use super::run::{Made, Run};
use crate::common::files::{copy_dir, with_ending};
use crate::common::mortal_disk::MortalDisk;
use crate::common::profiles::{id, profile};
use crate::common::soon;
use crate::common::stacks::Stack;

/// How many operations a run makes, the steps below among them; the environment may ask for more.
const OPERATIONS_VARIABLE: &str = "PROFILESTORE_MODEL_OPERATIONS";
const OPERATIONS: usize = 1000;
const HOUR: u64 = 3600;

/// Where a kill may find the committer, and whether the commit is made then: without an answer it may be either.
const POINTS: [(Point, Option<bool>); 7] = [
    (Point::Decided, Some(false)),
    (Point::LogWrite, Some(false)),
    // Written and not synced: it is there unless the power is cut.
    (Point::LogSync, None),
    (Point::Appended, Some(true)),
    (Point::BatchBegun, Some(true)),
    (Point::Applied, Some(true)),
    (Point::Published, Some(true)),
];

/// The sled engine on a disk that is mortal.
struct Mortal {
    store: SledStore,
    disk: MortalDisk,
    rules: EngineRules,
    /// In seconds.
    time: Arc<AtomicU64>,
    dir: TempDir,
    /// How many times it was opened; each life has a directory of its own.
    lives: usize,
}

impl Mortal {
    fn path(&self) -> PathBuf {
        self.dir.path().join(self.lives.to_string())
    }

    /// Small segments, of which nothing is kept for followers.
    fn options(path: &Path, disk: &MortalDisk, rules: &EngineRules) -> SledOptions {
        let defaults = SledOptions::new(path);
        SledOptions {
            rules: rules.clone(),
            snapshots: SnapshotPolicy {
                retention: Retention { age: Duration::ZERO, bytes: 0 },
                ..defaults.snapshots
            },
            log_segment_bytes: 4096,
            disk: disk.disk(),
            ..defaults
        }
    }

    async fn open_at(path: &Path, disk: &MortalDisk, rules: &EngineRules) -> SledStore {
        let store = SledStore::open(Self::options(path, disk, rules), Arc::new(NoObserver)).await.unwrap();
        disk.all_is_synced(path);
        store
    }

    /// Leaves the directory as it is, as a kill does, and opens what `damage` makes of the copy.
    async fn die(self, damage: impl FnOnce(&MortalDisk, &Path, &Path)) -> Self {
        let (old, next) = (self.path(), self.dir.path().join((self.lives + 1).to_string()));
        copy_dir(&old, &next);
        damage(&self.disk, &old, &next);
        self.disk.release();
        self.store.close().await.unwrap();
        std::fs::remove_dir_all(old).unwrap();
        let disk = MortalDisk::default();
        if self.disk.lies() {
            disk.lie();
        }
        let store = Self::open_at(&next, &disk, &self.rules).await;
        Self { store, disk, lives: self.lives + 1, ..self }
    }

    /// Whether sled can be built anew from what is beside it.
    fn can_lose_sled(path: &Path) -> bool {
        let first = with_ending(&path.join("commit-log"), ".log").remove(0);
        first.ends_with("00000000000000000001.log") || !with_ending(&path.join("snapshots"), ".snapshot").is_empty()
    }
}

impl Stack for Mortal {
    type Store = SledStore;
    const DURABLE: bool = true;

    async fn open(rules: EngineRules) -> Self {
        let (dir, disk) = (tempfile::tempdir().unwrap(), MortalDisk::default());
        let time = Arc::new(AtomicU64::new(1_000_000_000));
        let now = time.clone();
        let clock = Clock::from_fn(move || UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed)));
        let rules = EngineRules { clock, ..rules };
        let store = Self::open_at(&dir.path().join("0"), &disk, &rules).await;
        Self { store, disk, rules, time, dir, lives: 0 }
    }

    fn store(&self) -> &SledStore {
        &self.store
    }

    async fn reopen(self) -> Self {
        self.store.close().await.unwrap();
        let store = Self::open_at(&self.path(), &self.disk, &self.rules).await;
        Self { store, ..self }
    }
}

impl Run<Mortal> {
    async fn crash_or_tend(mut self) -> Self {
        match self.rng.random_range(0..10) {
            0..5 => self.kill_in_a_commit().await,
            5..7 => self.kill_at_rest().await,
            7 => {
                self.stack.store.snapshot().await.unwrap();
                self
            }
            8 => {
                // What was requested so long ago is forgotten, and so the log may go.
                self.stack.time.fetch_add(HOUR, Ordering::Relaxed);
                self.made.clear();
                self.stack.store.snapshot().await.unwrap();
                self
            }
            _ => self.repair().await,
        }
    }

    async fn kill_at_rest(mut self) -> Self {
        let (loses_sled, is_suspect, torn) =
            (self.rng.random_bool(0.3), self.rng.random_bool(0.2), self.rng.random());
        self.stack = self
            .stack
            .die(|_, _, copy| {
                if loses_sled && Mortal::can_lose_sled(copy) {
                    std::fs::remove_dir_all(copy.join("sled")).unwrap();
                } else if is_suspect {
                    std::fs::write(copy.join("sled-suspect"), "a test says so").unwrap();
                }
                if torn {
                    let last = with_ending(&copy.join("commit-log"), ".log").pop().unwrap();
                    let whole = std::fs::read(&last).unwrap();
                    // The beginning of a frame that never came.
                    std::fs::write(&last, [&whole[..], b"PSGF\x40\0\0\0\x01\x02\x03\x04half"].concat()).unwrap();
                }
            })
            .await;
        self.compare_everything().await;
        self
    }

    /// Stops a commit somewhere, kills, and sees what became of it.
    async fn kill_in_a_commit(mut self) -> Self {
        let mode = if self.rng.random_bool(0.5) { CommitMode::All } else { CommitMode::Each };
        let count = self.rng.random_range(1..=5);
        let planned: Vec<_> = (0..count).map(|_| Planned::any(&mut self.rng, |key| self.oracle.etag(key))).collect();
        let commit = |planned: &[Planned], mark| {
            let writes = planned.iter().map(Planned::write).collect();
            Commit { writes, mode, request: Some(mark), trace: None }
        };
        let mark = self.new_mark();
        let &(point, mut is_made) = POINTS.choose(&mut self.rng).unwrap();
        let power_is_cut = self.rng.random_bool(0.5);
        self.stack.disk.stop_at(point, 0);
        let stopped = {
            let committing = self.stack.store.commit(commit(&planned, mark.clone()));
            tokio::pin!(committing);
            soon(async {
                loop {
                    tokio::select! {
                        answer = &mut committing => return Some(answer),
                        () = tokio::time::sleep(Duration::from_micros(100)) => {}
                    }
                    if self.stack.disk.stands() {
                        return None;
                    }
                }
            })
            .await
        };
        if let Some(answer) = stopped {
            // It has nothing to write, and so does not come to where it would stop.
            self.stack.disk.release();
            let made = matches!(&answer, Ok(outcomes) if outcomes.iter().all(Result::is_ok));
            self.oracle.follow(&planned, mode, answer);
            if made {
                self.remember(Made { mark, planned, mode });
            }
            return self;
        }
        let (part, zeros, loses_sled) = (self.rng.random(), self.rng.random_bool(0.3), self.rng.random_bool(0.3));
        self.stack = self
            .stack
            .die(|disk, original, copy| {
                if power_is_cut {
                    disk.cut_power(original, copy, part, zeros);
                    // A log that lies has lost what sled knows, and then the store would not open at all.
                    if (loses_sled || disk.lies()) && Mortal::can_lose_sled(copy) {
                        std::fs::remove_dir_all(copy.join("sled")).unwrap();
                    }
                }
            })
            .await;
        if point == Point::LogSync && !power_is_cut {
            is_made = Some(true);
        }
        let (imagined, all) = self.oracle.imagine(&planned, mode);
        let was_made = self.settle(imagined, is_made, &planned).await;
        // The caller asks again, and it is made once.
        let outcome = self.stack.store.commit(commit(&planned, mark.clone())).await;
        let repeated = |outcome: &Result<Outcome, _>| matches!(outcome, Ok(Outcome::Repeated(_)));
        let is_repeated = matches!(&outcome, Ok(outcomes) if outcomes.iter().all(repeated));
        assert_eq!(was_made.map_or(is_repeated, |made| made && all), is_repeated, "{outcome:?}");
        if is_repeated {
            self.remember(Made { mark, planned, mode });
        } else {
            let made = matches!(&outcome, Ok(outcomes) if outcomes.iter().all(Result::is_ok));
            self.oracle.follow(&planned, mode, outcome);
            if made {
                self.remember(Made { mark, planned, mode });
            }
        }
        self.compare_everything().await;
        self
    }

    /// Finds out whether a commit in doubt was made, and follows it. Nothing in between is allowed, nor what cannot be. `None`
    /// when it changes nothing that can be seen.
    async fn settle(&mut self, mut imagined: Oracle, is_made: Option<bool>, planned: &[Planned]) -> Option<bool> {
        let mut found = Oracle::default();
        for number in 0..IDS {
            let key = format!("user-{number}");
            let Some(record) = self.stack.store.get(&id(&key)).await.unwrap() else { continue };
            let stored = profile(&record);
            let known = super::oracle::Known { email: stored.email, name: stored.display_name, record: Some(record) };
            found.profiles.insert(key, known);
        }
        let (before, after, now) = (self.oracle.contents(), imagined.contents(), found.contents());
        if before == after {
            assert_eq!(now, before, "{planned:?}");
            // Nothing to see in the contents; the records may be other ones all the same.
            self.oracle.profiles = found.profiles;
            return is_made;
        }
        let was_made = now == after;
        assert!(was_made || now == before, "a commit was made in part: {planned:?}");
        assert_eq!(is_made.unwrap_or(was_made), was_made, "{planned:?}");
        if was_made {
            imagined.profiles = found.profiles;
            self.oracle = imagined;
        }
        Some(was_made)
    }

    async fn repair(mut self) -> Self {
        let stack = self.stack;
        stack.store.close().await.unwrap();
        let options = Mortal::options(&stack.path(), &stack.disk, &stack.rules);
        let store = tokio::task::spawn_blocking(move || {
            repair(&options).unwrap();
            assert_eq!(verify_offline(&options).unwrap().problems, []);
        });
        store.await.unwrap();
        let store = Mortal::open_at(&stack.path(), &stack.disk, &stack.rules).await;
        self.stack = Mortal { store, ..stack };
        self.compare_everything().await;
        self
    }
}

/// How a disk that has not synced what it said is noticed: by the contents, or by the open.
const NOTICED: [&str; 3] = ["left == right", "a commit was made in part", "commit log"];
const LYING_RUNS: usize = 5;

async fn random_operations(unique_email: bool, lies: bool) {
    let operations = std::env::var(OPERATIONS_VARIABLE).map_or(OPERATIONS, |count| count.parse().unwrap());
    let mut run = Run::<Mortal>::begin(unique_email).await;
    if lies {
        run.stack.disk.lie();
    }
    let mut steps = 0;
    for _ in 0..operations {
        if run.rng.random_ratio(1, 25) {
            run = run.crash_or_tend().await;
            steps += 1;
        } else {
            run.any_operation().await;
        }
    }
    run.compare_everything().await;
    println!("{operations} operations, {steps} of them kills, power cuts, snapshots, trims and repairs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_with_kills_power_cuts_snapshots_and_repairs_do_what_a_map_does() {
    random_operations(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_with_unique_emails_and_kills_do_what_a_map_does() {
    random_operations(true, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_only_says_that_it_has_synced_is_noticed() {
    // A run may come to no power cut that takes anything away.
    for _ in 0..LYING_RUNS {
        let Err(noticed) = tokio::spawn(random_operations(false, true)).await else { continue };
        let noticed = noticed.into_panic();
        let what = noticed.downcast_ref::<String>().map(String::as_str).or(noticed.downcast_ref::<&str>().copied());
        // What is missing after a power cut, and not whatever else may go wrong.
        let what = what.expect("it says what it has noticed");
        assert!(NOTICED.iter().any(|part| what.contains(part)), "{what}");
        return;
    }
    panic!("{LYING_RUNS} runs have noticed nothing");
}
