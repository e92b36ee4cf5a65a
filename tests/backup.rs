//! Backups, restores, checks and repairs: what is copied is the store as of one change, what is damaged is found and
//! named, and nothing half-made is ever served.

#[path = "backup/backups.rs"]
mod backups;
#[path = "backup/checks.rs"]
mod checks;
#[path = "backup/points.rs"]
mod points;
#[path = "backup/repairs.rs"]
mod repairs;

#[path = "common/files.rs"]
mod files;
#[path = "common/raw_sled.rs"]
mod raw_sled;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use files::{copy_dir, with_ending};
use profilestore::engine::EngineRules;
use profilestore::engine::commit_log::Retention;
use profilestore::engine::sled::{CheckAtOpen, OpenError, SledOptions, SledStore, SnapshotPolicy};
use profilestore::model::{Canonicalization, Draft, Precondition, Profile, ProfileId, Record, Write};
use profilestore::store::{Clock, Commit, NoObserver, PageBounds, Scope, Store, StoreError};
use raw_sled::open_sled;

const PAGE: PageBounds = PageBounds { max_records: 1000, max_bytes: usize::MAX };

/// A clock that stands still makes all records of one length.
fn options(dir: &Path) -> SledOptions {
    let defaults = SledOptions::new(dir);
    let clock = Clock::from_fn(|| UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    SledOptions {
        rules: EngineRules { clock, ..EngineRules::default() },
        snapshots: SnapshotPolicy { retention: Retention { age: Duration::ZERO, bytes: 0 }, ..defaults.snapshots },
        log_segment_bytes: 2048,
        ..defaults
    }
}

async fn open(dir: &Path) -> Result<SledStore, OpenError> {
    SledStore::open(options(dir), Arc::new(NoObserver)).await
}

fn id(number: u64) -> ProfileId {
    ProfileId::parse(&format!("user-{number}"), "id").unwrap()
}

fn draft(number: u64, version: u64) -> Draft {
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
        ..Profile::default()
    };
    Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap()
}

fn put(number: u64, version: u64) -> Write {
    Write::put(draft(number, version), Precondition::None)
}

async fn commit(store: &SledStore, write: Write) {
    store.commit(Commit::all(vec![write])).await.unwrap()[0].clone().unwrap();
}

/// A store with forty profiles and some history.
async fn filled(dir: &Path) -> SledStore {
    let store = open(dir).await.unwrap();
    for version in 0..3 {
        for number in 0..40 {
            commit(&store, put(number, version)).await;
        }
    }
    store
}

/// Everything in the store, after it was found to agree with itself.
async fn contents(store: &SledStore) -> BTreeMap<String, Record> {
    let report = store.verify().await.unwrap();
    assert_eq!((report.problems, report.unsettled), (vec![], 0));
    let page = store.list(&Scope::All, None, PAGE).await.unwrap();
    page.records.into_iter().map(|record| (record.decode().unwrap().id, record)).collect()
}

/// What callers have stored, by id.
fn names(contents: &BTreeMap<String, Record>) -> BTreeMap<String, (String, String)> {
    let decoded = contents.iter().map(|(id, record)| (id.clone(), record.decode().unwrap()));
    decoded.map(|(id, profile)| (id, (profile.email, profile.display_name))).collect()
}

/// Makes a backup and writes it to a file; returns as of which change.
async fn back_up(store: &SledStore, file: &Path) -> u64 {
    let mut backup = store.backup().await.unwrap();
    let mut bytes = Vec::new();
    backup.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, backup.bytes);
    fs::write(file, bytes).unwrap();
    backup.sequence
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 4;
    fs::write(file, bytes).unwrap();
}

/// Changes what is in sled behind the store's back.
fn in_sled(dir: &Path, change: impl FnOnce(&sled::Db)) {
    let db = open_sled(&dir.join("sled"));
    change(&db);
    db.flush().unwrap();
}

/// The first row of a kind behind a key.
fn row(db: &sled::Db, from: &str) -> (Vec<u8>, Vec<u8>) {
    let (key, value) = db.range(from.as_bytes()..).next().unwrap().unwrap();
    (key.to_vec(), value.to_vec())
}
