//! The log gets shorter, and nothing that is needed goes.

use profilestore::store::{RequestId, RequestMark, StoreError};

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
