//! What keeps a store on disk whole for years: snapshots, a log that is trimmed, a state that is built anew when it is
//! damaged, room on the disk, and a disk that does not come back.

#[path = "self_healing/closed.rs"]
mod closed;
#[path = "self_healing/damage.rs"]
mod damage;
#[path = "self_healing/disk.rs"]
mod disk;
#[path = "self_healing/lost_holds.rs"]
mod lost_holds;
#[path = "self_healing/snapshots.rs"]
mod snapshots;
#[path = "self_healing/trimming.rs"]
mod trimming;

#[path = "common/files.rs"]
mod files;
#[path = "common/raw_sled.rs"]
mod raw_sled;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use files::{copy_dir, with_ending};
use profilestore::engine::EngineRules;
use profilestore::engine::commit_log::Retention;
use profilestore::engine::sled::{CheckAtOpen, OpenError, SledOptions, SledStore, SnapshotPolicy};
use profilestore::model::{Canonicalization, Draft, Precondition, Profile, ProfileId, Record, Write};
use profilestore::store::{Clock, Commit, NoObserver, PageBounds, Scope, Store};
use raw_sled::open_sled;

const HOUR: u64 = 3600;
const PAGE: PageBounds = PageBounds { max_records: 1000, max_bytes: usize::MAX };

/// A clock that a test moves, in seconds.
#[derive(Clone)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_000_000_000)))
    }

    fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

/// Small segments, and a log of which nothing is kept for followers.
fn options(dir: &Path, time: &Time) -> SledOptions {
    let time = time.0.clone();
    let clock = Clock::from_fn(move || UNIX_EPOCH + Duration::from_secs(time.load(Ordering::Relaxed)));
    let defaults = SledOptions::new(dir);
    SledOptions {
        rules: EngineRules { clock, ..EngineRules::default() },
        snapshots: SnapshotPolicy { retention: Retention { age: Duration::ZERO, bytes: 0 }, ..defaults.snapshots },
        log_segment_bytes: 2048,
        ..defaults
    }
}

/// The same without a check of the whole state after an orderly close.
fn unchecked(dir: &Path, time: &Time) -> SledOptions {
    SledOptions { check_at_open: CheckAtOpen::AfterCrash, ..options(dir, time) }
}

async fn open(options: SledOptions) -> Result<SledStore, OpenError> {
    SledStore::open(options, Arc::new(NoObserver)).await
}

fn put(number: u64, version: u64) -> Write {
    let email = if number.is_multiple_of(7) {
        String::new()
    } else {
        // Some versions move the profile to another domain.
        format!("user-{number}@d{}.e{}.example", (number + version / 2) % 5, number % 2)
    };
    let profile = Profile {
        id: format!("user-{number}"),
        email,
        display_name: format!("version {version}"),
        // From 100 on they are so large that sled writes several segments.
        attributes: [("filler".to_owned(), "x".repeat((number * 13 % 90 + number / 100 * 1500) as usize))].into(),
        ..Profile::default()
    };
    Write::put(Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap(), Precondition::None)
}

fn delete(number: u64) -> Write {
    Write::delete(ProfileId::parse(&format!("user-{number}"), "id").unwrap(), Precondition::None)
}

async fn commit(store: &SledStore, write: Write) {
    store.commit(Commit::all(vec![write])).await.unwrap()[0].clone().unwrap();
}

/// Writes, moves and deletes profiles, one commit each.
async fn write_some(store: &SledStore, versions: std::ops::Range<u64>) {
    for version in versions {
        for number in 0..40 {
            if (number + version).is_multiple_of(11) {
                commit(store, delete(number)).await;
            } else {
                commit(store, put(number, version)).await;
            }
        }
    }
}

/// Everything in the store, after it was found to agree with itself.
async fn contents(store: &SledStore) -> BTreeMap<String, Record> {
    assert_eq!(store.verify().await.unwrap().problems, []);
    let page = store.list(&Scope::All, None, PAGE).await.unwrap();
    page.records.into_iter().map(|record| (record.decode().unwrap().id, record)).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    with_ending(&dir.join("commit-log"), ".log")
}

fn snapshots_of(dir: &Path) -> Vec<PathBuf> {
    with_ending(&dir.join("snapshots"), ".snapshot")
}

/// Waits for what must come soon, asking again and again.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = std::time::Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(std::time::Instant::now() < patience, "{what} must come and has not");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
