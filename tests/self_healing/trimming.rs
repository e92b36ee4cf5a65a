//! The log gets shorter, and nothing that is needed goes.

use profilestore::engine::Disk;
use profilestore::engine::sled::SpaceBounds;
use profilestore::store::{ChangeBounds, HoldName, RequestId, RequestMark, StoreError};

use super::*;

fn keeping(dir: &Path, time: &Time, age: Duration, bytes: u64) -> SledOptions {
    let defaults = options(dir, time);
    SledOptions {
        snapshots: SnapshotPolicy { retention: Retention { age, bytes }, ..defaults.snapshots },
        ..defaults
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_goes_when_it_is_old_or_when_the_log_is_long_but_not_within_ten_minutes() {
    for (age, bytes, stays_for, goes_after) in [
        (Duration::from_secs(2 * HOUR), u64::MAX, HOUR, 2 * HOUR),
        (Duration::from_secs(24 * HOUR), 0, 500, 200),
        (Duration::ZERO, u64::MAX, 500, 200),
    ] {
        let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
        let store = open(keeping(dir.path(), &time, age, bytes)).await.unwrap();
        write_some(&store, 0..3).await;
        let all = segments(dir.path()).len();
        assert!(all > 5);
        time.advance(stays_for);
        store.snapshot().await.unwrap();
        assert_eq!(segments(dir.path()).len(), all, "{age:?} {bytes}");
        time.advance(goes_after);
        store.snapshot().await.unwrap();
        // The last segment stays, and the one before it while the last has nothing that is needed.
        eventually("the trimming", async || segments(dir.path()).len() <= 2).await;
        let expected = contents(&store).await;
        store.close().await.unwrap();
        assert_eq!(contents(&open(keeping(dir.path(), &time, age, bytes)).await.unwrap()).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_no_snapshot_covers_is_kept() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let store = open(options(dir.path(), &time)).await.unwrap();
    write_some(&store, 0..2).await;
    let sequence = store.snapshot().await.unwrap().sequence;
    write_some(&store, 2..4).await;
    time.advance(24 * HOUR);
    // Asks for nothing but a look: every segment is past retention, those behind the snapshot are needed.
    eventually("the trimming", async || !segments(dir.path())[0].ends_with("00000000000000000001.log")).await;
    let name = segments(dir.path())[0].file_stem().unwrap().to_str().unwrap().to_owned();
    assert!(name.parse::<u64>().unwrap() <= sequence + 1);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_remembered_over_a_restart_of_a_trimmed_log() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let store = open(options(dir.path(), &time)).await.unwrap();
    let mark = |fingerprint| RequestMark { id: RequestId([7; 16]), fingerprint, made_ids: Box::default() };
    write_some(&store, 0..3).await;
    time.advance(HOUR);
    store.commit(Commit::all(vec![put(99, 0)]).for_request(Some(mark(1)))).await.unwrap();
    write_some(&store, 3..5).await;
    time.advance(500);
    store.snapshot().await.unwrap();
    assert!(!segments(dir.path())[0].ends_with("00000000000000000001.log"), "the log was not trimmed");
    store.close().await.unwrap();
    let store = open(options(dir.path(), &time)).await.unwrap();
    let another = Commit::all(vec![put(99, 1)]).for_request(Some(mark(2)));
    assert_eq!(store.commit(another).await, Err(StoreError::RequestIdReused));
    store.close().await.unwrap();
}

fn holding(dir: &Path, time: &Time, held_log_bytes: u64) -> SledOptions {
    SledOptions { held_log_bytes, ..options(dir, time) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_stays_however_old_it_is_and_over_a_restart() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let name = HoldName::new("follower").unwrap();
    let bounds = ChangeBounds { max_changes: usize::MAX, max_bytes: usize::MAX, through: None };
    let store = open(holding(dir.path(), &time, u64::MAX)).await.unwrap();
    write_some(&store, 0..2).await;
    let held = store.head().await.unwrap();
    store.hold(&name, &held).await.unwrap();
    write_some(&store, 2..4).await;
    store.close().await.unwrap();
    let store = open(holding(dir.path(), &time, u64::MAX)).await.unwrap();
    write_some(&store, 4..5).await;
    time.advance(24 * HOUR);
    store.snapshot().await.unwrap();
    assert!(!segments(dir.path())[0].ends_with("00000000000000000001.log"), "what nobody holds goes");
    let hold = store.holds().await.unwrap().remove(0);
    assert_eq!((hold.position, hold.lost), (held, 0));
    let page = store.changes_after(&held, bounds).await.unwrap();
    assert_eq!(page.changes.len() as u64, hold.lag);
    let before = segments(dir.path()).len();
    store.hold(&name, &store.head().await.unwrap()).await.unwrap();
    store.snapshot().await.unwrap();
    eventually("the trimming", async || segments(dir.path()).len() < before.min(3)).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn held_log_beyond_its_bound_goes_and_what_was_lost_is_counted() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let name = HoldName::new("follower").unwrap();
    let bounds = ChangeBounds { max_changes: 1, max_bytes: 1, through: None };
    let store = open(holding(dir.path(), &time, 3 * 4096)).await.unwrap();
    let start = store.head().await.unwrap();
    store.hold(&name, &start).await.unwrap();
    write_some(&store, 0..5).await;
    time.advance(24 * HOUR);
    store.snapshot().await.unwrap();
    let kept: u64 = segments(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!((3 * 4096..6 * 4096).contains(&kept), "{kept} bytes of log are left");
    let hold = store.holds().await.unwrap().remove(0);
    assert!(hold.lost > 0 && hold.lost < hold.lag, "{hold:?}");
    let Err(StoreError::Truncated { oldest }) = store.changes_after(&start, bounds).await else {
        panic!("the lost changes were not missed");
    };
    store.hold(&name, &oldest).await.unwrap();
    let moved = store.holds().await.unwrap().remove(0);
    assert_eq!((moved.lost, moved.lag), (0, hold.lag - hold.lost), "what was lost is known to the change");
    let truncated = store.hold(&name, &start).await;
    assert_eq!(truncated, Err(StoreError::Truncated { oldest }), "what is gone cannot be held");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_goes_when_there_is_no_room_for_writes() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let free = Arc::new(AtomicU64::new(1 << 30));
    let disk = Disk::system().with_free_bytes({
        let free = free.clone();
        move |_| Ok(free.load(Ordering::SeqCst))
    });
    let space = SpaceBounds { min_free_bytes: 1 << 20, ballast_bytes: 0 };
    let options = SledOptions { disk, space, ..holding(dir.path(), &time, u64::MAX) };
    let store = open(options).await.unwrap();
    store.hold(&HoldName::new("follower").unwrap(), &store.head().await.unwrap()).await.unwrap();
    write_some(&store, 0..5).await;
    time.advance(24 * HOUR);
    store.snapshot().await.unwrap();
    assert_eq!(store.holds().await.unwrap()[0].lost, 0);
    free.store(1 << 19, Ordering::SeqCst);
    eventually("the trimming", async || segments(dir.path()).len() < 3).await;
    assert!(store.holds().await.unwrap()[0].lost > 0);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_goes_as_long_as_writers_are_kept_out() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let free = Arc::new(AtomicU64::new(1 << 30));
    let disk = Disk::system().with_free_bytes({
        let free = free.clone();
        move |_| Ok(free.load(Ordering::SeqCst))
    });
    let space = SpaceBounds { min_free_bytes: 1 << 20, ballast_bytes: 0 };
    let store = open(SledOptions { disk, space, ..holding(dir.path(), &time, u64::MAX) }).await.unwrap();
    store.hold(&HoldName::new("follower").unwrap(), &store.head().await.unwrap()).await.unwrap();
    write_some(&store, 0..5).await;
    store.snapshot().await.unwrap();
    free.store(1 << 19, Ordering::SeqCst);
    eventually("a refusal", async || store.figures().is_disk_low()).await;
    // Room enough not to refuse, but not enough to take writes again; and only now the log is past retention.
    free.store((1 << 20) + (1 << 16), Ordering::SeqCst);
    time.advance(24 * HOUR);
    eventually("the trimming", async || segments(dir.path()).len() < 3).await;
    assert!(store.figures().is_disk_low());
    store.close().await.unwrap();
}
