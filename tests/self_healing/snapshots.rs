//! A snapshot with the log behind it is the whole store.

use std::sync::atomic::AtomicBool;

use profilestore::engine::Disk;
use profilestore::store::{StoreError, StoreState};

use super::*;

/// A store whose log begins behind its first commits: only a snapshot has those.
async fn trimmed_store(dir: &Path, time: &Time) -> BTreeMap<String, Record> {
    let store = open(options(dir, time)).await.unwrap();
    write_some(&store, 0..4).await;
    time.advance(HOUR);
    write_some(&store, 4..5).await;
    time.advance(HOUR);
    store.snapshot().await.unwrap();
    write_some(&store, 5..6).await;
    let expected = contents(&store).await;
    store.close().await.unwrap();
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_the_log_behind_it_are_the_whole_store() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let expected = trimmed_store(dir.path(), &time).await;
    assert!(!segments(dir.path())[0].ends_with("00000000000000000001.log"), "the log was not trimmed");
    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let store = open(options(dir.path(), &time)).await.unwrap();
    assert_eq!(contents(&store).await, expected);
    write_some(&store, 6..7).await;
    let expected = contents(&store).await;
    store.close().await.unwrap();
    assert_eq!(contents(&open(options(dir.path(), &time)).await.unwrap()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_made_under_writes_is_whole() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let store = Arc::new(open(options(dir.path(), &time)).await.unwrap());
    write_some(&store, 0..2).await;
    let (done, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(2)));
    let writing = {
        let (store, done, written) = (store.clone(), done.clone(), written.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let version = written.load(Ordering::Relaxed);
                write_some(&store, version..version + 1).await;
                written.store(version + 1, Ordering::Relaxed);
            }
        })
    };
    let mut sequences = Vec::new();
    // However slow the writer is beside them.
    while sequences.len() < 20 || written.load(Ordering::Relaxed) < 4 {
        // It is compared with the digest that the tree has kept before it counts.
        sequences.push(store.snapshot().await.unwrap().sequence);
    }
    done.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    let last = sequences[sequences.len() - 1];
    assert!(sequences.is_sorted() && sequences[0] < last, "{sequences:?}");
    assert_eq!(snapshots_of(dir.path()).len(), 1, "older snapshots go when there is a newer one");
    let expected = contents(&store).await;
    Arc::into_inner(store).unwrap().close().await.unwrap();
    fs::write(dir.path().join("sled").join("db"), "not a database").unwrap();
    // Without the log from before the snapshot, only the snapshot can have been used.
    for segment in segments(dir.path()) {
        let first: u64 = segment.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let next = segments(dir.path()).into_iter().find(|path| *path > segment);
        let next = next.map(|path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap());
        if first <= last && next.is_some_and(|next| next <= last) {
            fs::remove_file(segment).unwrap();
        }
    }
    assert_eq!(contents(&open(options(dir.path(), &time)).await.unwrap()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_made_by_itself_when_the_log_has_become_long() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let defaults = options(dir.path(), &time);
    let policy = SnapshotPolicy { after_log_bytes: 1000, ..defaults.snapshots };
    let store = open(SledOptions { snapshots: policy, ..defaults }).await.unwrap();
    assert!(snapshots_of(dir.path()).is_empty());
    write_some(&store, 0..3).await;
    eventually("a snapshot", async || !snapshots_of(dir.path()).is_empty()).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_does_not_wait_for_a_snapshot_and_leaves_none_half_made() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let store = Arc::new(open(options(dir.path(), &time)).await.unwrap());
    write_some(&store, 0..20).await;
    let making = {
        let store = store.clone();
        tokio::spawn(async move { store.snapshot().await })
    };
    store.close().await.unwrap();
    let made = making.await.unwrap();
    assert!(with_ending(&dir.path().join("snapshots"), ".tmp").is_empty());
    assert_eq!(snapshots_of(dir.path()).len(), usize::from(made.is_ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_has_become_unreadable_is_noticed_and_no_log_is_trimmed_for_it() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let store = open(options(dir.path(), &time)).await.unwrap();
    write_some(&store, 0..2).await;
    store.snapshot().await.unwrap();
    write_some(&store, 2..3).await;
    store.close().await.unwrap();
    let snapshot = snapshots_of(dir.path()).remove(0);
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    let before = segments(dir.path());
    // Everything is past retention now.
    time.advance(HOUR);
    let store = open(options(dir.path(), &time)).await.unwrap();
    eventually("the discovery", async || dir.path().join("snapshots").join("damaged").exists()).await;
    store.close().await.unwrap();
    assert!(snapshots_of(dir.path()).is_empty());
    assert_eq!(segments(dir.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_read_for_a_while_stays_and_is_tried_again() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let store = open(options(dir.path(), &time)).await.unwrap();
    write_some(&store, 0..2).await;
    store.snapshot().await.unwrap();
    store.close().await.unwrap();
    let snapshot = snapshots_of(dir.path()).remove(0);
    let elsewhere = dir.path().join("snapshots").join("elsewhere");
    // What is read from a directory is an error of the system and not damage.
    fs::rename(&snapshot, &elsewhere).unwrap();
    fs::create_dir(&snapshot).unwrap();
    time.advance(HOUR);
    let before = segments(dir.path()).len();
    // Room is asked for twice by the opening and at the beginning of each look: with four the first look has ended.
    let asked = Arc::new(AtomicU64::new(0));
    let asks = asked.clone();
    let disk = Disk::system().with_free_bytes(move |_| {
        asks.fetch_add(1, Ordering::SeqCst);
        Ok(1 << 40)
    });
    let store = open(SledOptions { disk, ..options(dir.path(), &time) }).await.unwrap();
    eventually("the first look", async || asked.load(Ordering::SeqCst) >= 4).await;
    assert!(!dir.path().join("snapshots").join("damaged").exists());
    assert_eq!(segments(dir.path()).len(), before);
    fs::remove_dir(&snapshot).unwrap();
    fs::rename(&elsewhere, &snapshot).unwrap();
    eventually("the trimming", async || segments(dir.path()).len() < before).await;
    assert_eq!(snapshots_of(dir.path()), [snapshot]);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_due_at_once_when_the_log_alone_is_not_the_whole_store() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let expected = trimmed_store(dir.path(), &time).await;
    fs::remove_file(snapshots_of(dir.path()).remove(0)).unwrap();
    let store = open(options(dir.path(), &time)).await.unwrap();
    eventually("a snapshot", async || !snapshots_of(dir.path()).is_empty()).await;
    store.close().await.unwrap();
    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    assert_eq!(contents(&open(options(dir.path(), &time)).await.unwrap()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_lost_something_is_never_made_a_snapshot_of() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let expected = trimmed_store(dir.path(), &time).await;
    lose_a_record(&dir.path().join("sled"));
    let store = open(unchecked(dir.path(), &time)).await.unwrap();
    let error = store.snapshot().await.unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
    // The store has failed, for a restart, which builds the state anew.
    let refused = store.commit(Commit::all(vec![put(0, 0)])).await.unwrap_err().to_string();
    assert!(refused.contains("a restart rebuilds it"), "{refused}");
    let _ = store.close().await;
    assert_eq!(open_again(dir.path(), &time).await, expected);
}

/// Removes one record and its id from sled without a trace, as a page that falls back to an earlier state does.
fn lose_a_record(sled_dir: &Path) {
    let db = open_sled(sled_dir);
    let (entry, _) = db.scan_prefix(b"i").next().unwrap().unwrap();
    let id_at = entry.iter().rposition(|&byte| byte == 0).unwrap() + 1;
    let id = [b"r", &entry[id_at..]].concat();
    assert!(db.remove(&entry).unwrap().is_some() && db.remove(id).unwrap().is_some());
    db.flush().unwrap();
}

/// In a copy, since the failed store keeps its files until the process ends.
async fn open_again(dir: &Path, time: &Time) -> BTreeMap<String, Record> {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    let store = open(options(copy.path(), time)).await.unwrap();
    let found = contents(&store).await;
    store.close().await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_maintenance_thread_that_panics_fails_the_store_and_the_next_start_checks_all_of_it() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let armed = Arc::new(AtomicU64::new(0));
    let panics = armed.clone();
    let disk = Disk::system().with_free_bytes(move |_| {
        let is_maintenance = std::thread::current().name() == Some("maintenance");
        assert!(!is_maintenance || panics.load(Ordering::Relaxed) == 0, "wanted");
        Ok(u64::MAX / 4)
    });
    let store = open(SledOptions { disk, ..unchecked(dir.path(), &time) }).await.unwrap();
    write_some(&store, 0..1).await;
    let expected = contents(&store).await;
    armed.store(1, Ordering::Relaxed);
    let mut state = store.watch_state();
    let failed = state.wait_for(|state| matches!(state, StoreState::Failed { .. }));
    tokio::time::timeout(Duration::from_secs(60), failed).await.expect("it has not failed").unwrap();
    for refused in [store.snapshot().await.map(|_| ()), store.backup().await.map(|_| ()), store.close().await] {
        assert!(
            matches!(&refused, Err(StoreError::Failed { cause }) if cause.contains("maintenance")),
            "{refused:?}"
        );
    }
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    assert!(copy.path().join("sled-doubtful").exists());
    let store = open(unchecked(copy.path(), &time)).await.unwrap();
    assert!(store.figures().open().check_took.is_some(), "the state was not checked");
    assert_eq!(contents(&store).await, expected);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_snapshot_does_not_take_a_panic_for_an_orderly_close() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let store = open(options(dir.path(), &time)).await.unwrap();
    write_some(&store, 0..1).await;
    // After it everything is flushed, so that there is something to trim.
    store.close().await.unwrap();
    let armed = Arc::new(AtomicU64::new(0));
    let panics = armed.clone();
    // The time is asked for when the log is trimmed, which is before the answer.
    let clock = Clock::from_fn(move || {
        let is_maintenance = std::thread::current().name() == Some("maintenance");
        assert!(!is_maintenance || panics.load(Ordering::Relaxed) == 0, "wanted");
        UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    });
    let rules = EngineRules { clock, ..EngineRules::default() };
    let store = open(SledOptions { rules, ..options(dir.path(), &time) }).await.unwrap();
    armed.store(1, Ordering::Relaxed);
    let refused = store.snapshot().await;
    assert!(
        matches!(&refused, Err(StoreError::Failed { cause }) if cause.contains("unless it is told never to")),
        "{refused:?}"
    );
    assert!(store.close().await.is_err());
}
