//! Faults at every step of a commit and of recovery.
//!
//! A first run counts how often each [`Point`] is passed; then each passing of each point fails once, in a run of its own.
//! Whatever fails: the store takes no more writes and says why, no caller takes that for an orderly close, what was
//! acknowledged is there at the next open, and what was not is wholly there or wholly absent.

mod common;

#[path = "faults/commits.rs"]
mod commits;
#[path = "faults/groups.rs"]
mod groups;
#[path = "faults/half_batches.rs"]
mod half_batches;
#[path = "faults/openings.rs"]
mod openings;
#[path = "faults/restores.rs"]
mod restores;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{join, join_all};
use parking_lot::{Condvar, Mutex};
use profilestore::engine::sled::{CheckAtOpen, OpenError, SledOptions, SledStore};
use profilestore::engine::{Disk, Point};
use profilestore::store::{Commit, NoObserver, Outcomes, RequestId, RequestMark, Scope, Store, StoreError};

use common::files::copy_dir;
use common::profiles::*;
use common::raw_sled::open_sled;

/// What happens when the turn of a point has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Io,
    NoSpace,
    Panic,
}

/// Decides at each point whether it fails.
struct Faults {
    /// The point, at which passing, counted from 1, and how.
    planned: Option<(Point, usize, Fault)>,
    /// Whether passings count yet.
    armed: AtomicBool,
    passed: Mutex<BTreeMap<Point, usize>>,
    struck: AtomicBool,
    /// How often the committer has begun to wait, and how often it may.
    turns: Mutex<(usize, usize)>,
    released: Condvar,
}

impl Faults {
    fn new(planned: Option<(Point, usize, Fault)>) -> Arc<Self> {
        Arc::new(Self {
            planned,
            armed: AtomicBool::new(false),
            passed: Mutex::default(),
            struck: AtomicBool::new(false),
            turns: Mutex::new((0, usize::MAX)),
            released: Condvar::new(),
        })
    }

    fn disk(self: &Arc<Self>) -> Disk {
        let faults = self.clone();
        Disk::system().with_faults(move |point| faults.pass(point))
    }

    fn pass(&self, point: Point) -> io::Result<()> {
        if point == Point::Waiting {
            let mut turns = self.turns.lock();
            turns.0 += 1;
            let turn = turns.0;
            self.released.notify_all();
            self.released.wait_while(&mut turns, |turns| turn > turns.1);
            return Ok(());
        }
        if !self.armed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let passing = {
            let mut passed = self.passed.lock();
            let count = passed.entry(point).or_default();
            *count += 1;
            *count
        };
        match self.planned {
            Some((planned, nth, fault)) if planned == point && nth == passing => {
                self.struck.store(true, Ordering::SeqCst);
                match fault {
                    Fault::Io => Err(io::Error::from_raw_os_error(libc::EIO)),
                    Fault::NoSpace => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                    Fault::Panic => panic!("a fault was planned here: {point:?}"),
                }
            }
            _ => Ok(()),
        }
    }

    fn arm(&self, armed: bool) {
        self.armed.store(armed, Ordering::SeqCst);
    }

    fn has_struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst)
    }

    /// From now on the committer waits for a turn before it takes a group.
    fn hold(&self) {
        let mut turns = self.turns.lock();
        turns.1 = turns.0;
    }

    /// Waits until the committer waits for this turn.
    fn until_waiting(&self, turn: usize) {
        let mut turns = self.turns.lock();
        self.released.wait_while(&mut turns, |turns| turns.0 < turn);
    }

    fn give_turns(&self, count: usize) {
        let mut turns = self.turns.lock();
        turns.1 = turns.1.saturating_add(count);
        self.released.notify_all();
    }
}

/// Small segments, so that rolling and the replay of several are among what fails.
fn options(dir: &Path, faults: &Arc<Faults>) -> SledOptions {
    // What a test damages after an orderly close is there for the calls.
    let check_at_open = CheckAtOpen::AfterCrash;
    SledOptions { disk: faults.disk(), log_segment_bytes: 900, check_at_open, ..SledOptions::new(dir) }
}

async fn open(dir: &Path, faults: &Arc<Faults>) -> Result<SledStore, OpenError> {
    SledStore::open(options(dir, faults), Arc::new(NoObserver)).await
}

/// An open store whose committer takes exactly the groups that [`together`] makes.
async fn open_held(dir: &Path, faults: &Arc<Faults>) -> SledStore {
    faults.hold();
    let store = open(dir, faults).await.unwrap();
    // A turn is taken before each group; the first may have been taken already.
    faults.arm(true);
    store
}

/// Makes commits as one group.
async fn together(store: &SledStore, faults: &Faults, commits: Vec<Commit>) -> Vec<Result<Outcomes, StoreError>> {
    in_turns(1, store, faults, commits).await
}

/// Makes commits as so many groups at most.
async fn in_turns(
    turns: usize,
    store: &SledStore,
    faults: &Faults,
    commits: Vec<Commit>,
) -> Vec<Result<Outcomes, StoreError>> {
    // All are in the queue when the turns are given.
    let commits = commits.into_iter().map(|commit| store.commit(commit));
    join(join_all(commits), async { faults.give_turns(turns) }).await.0
}

const ROUNDS: usize = 8;
const CALLERS: usize = 4;

/// The ids and display names of all profiles.
type Contents = BTreeMap<String, String>;

/// The commits of one round, which come as one group: each writes two profiles, all or nothing.
fn round(round: usize) -> Vec<Commit> {
    let commit = |caller: usize| {
        let (first, second) = (format!("user-{}", 2 * caller), format!("user-{}", 2 * caller + 1));
        let email = |key: &str| match (round + caller) % 4 {
            0 => String::new(),
            domain => format!("{key}@d{domain}.example"),
        };
        let name = format!("round {round}");
        let other = if round % 3 == 2 { delete(&second) } else { put(&second, &email(&second), &name) };
        let mark = RequestMark {
            id: RequestId([(round * CALLERS + caller) as u8; 16]),
            fingerprint: 7,
            made_ids: Box::default(),
        };
        Commit::all(vec![put(&first, &email(&first), &name), other]).for_request(Some(mark))
    };
    (0..CALLERS).map(commit).collect()
}

/// What the store holds after so many rounds.
fn after(rounds: usize) -> Contents {
    let Some(last) = rounds.checked_sub(1) else { return Contents::new() };
    let ids = (0..2 * CALLERS).filter(|number| last % 3 != 2 || number % 2 == 0);
    ids.map(|number| (format!("user-{number}"), format!("round {last}"))).collect()
}

/// Everything in the store, after index, records and counters were found to agree.
async fn contents(store: &SledStore) -> Contents {
    assert_eq!(store.verify().await.unwrap().problems, []);
    let page = store.list(&Scope::All, None, UNBOUNDED).await.unwrap();
    assert_eq!(store.count(&Scope::All).await.unwrap(), page.records.len() as u64);
    let profiles = page.records.iter().map(profile);
    profiles.map(|profile| (profile.id, profile.display_name)).collect()
}
