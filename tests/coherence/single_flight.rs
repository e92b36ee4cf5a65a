//! Many misses of one id cost one load, and nobody is worse off for having waited.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use profilestore::cache::{CachedStore, JOIN_PATIENCE};
use profilestore::store::{Corruption, Store, StoreError};
use tokio::task::JoinHandle;

use crate::common::gated::{GatedStore, Point, gated_and_cached};
use crate::common::profiles::*;
use crate::common::soon;

type Cached = Arc<CachedStore<GatedStore>>;
type Read = JoinHandle<Result<Option<String>, StoreError>>;

fn spawn_reads(store: &Cached, count: usize) -> Vec<Read> {
    let read = || {
        let store = store.clone();
        tokio::spawn(async move { Ok(store.get(&id("a")).await?.map(|record| profile(&record).display_name)) })
    };
    (0..count).map(|_| read()).collect()
}

/// Gives way until so many callers have joined a load.
async fn joined(store: &Cached, joins: u64) {
    let all_have = async {
        while store.figures().joins < joins {
            tokio::task::yield_now().await;
        }
    };
    soon(all_have).await;
}

async fn results(reads: Vec<Read>) -> Vec<Result<Option<String>, StoreError>> {
    let mut results = Vec::new();
    for read in reads {
        results.push(soon(read).await.unwrap());
    }
    results
}

fn old() -> Result<Option<String>, StoreError> {
    Ok(Some("old".into()))
}

async fn with_old_record() -> Cached {
    let store = gated_and_cached(false);
    store_one(&*store, put("a", "", "old")).await;
    store
}

#[tokio::test(start_paused = true)]
async fn simultaneous_misses_of_one_id_share_one_load() {
    let store = with_old_record().await;
    let mut read = store.inner().hold(Point::BeforeRead);
    let reads = spawn_reads(&store, 100);
    read.reached().await;
    joined(&store, 99).await;
    read.release();
    assert_eq!(results(reads).await, vec![old(); 100]);
    assert_eq!(store.inner().loads(), 1);
    assert_eq!((store.figures().misses, store.figures().joins), (100, 99));
}

#[tokio::test(start_paused = true)]
async fn a_failed_load_fails_all_who_waited_and_nobody_after() {
    let store = with_old_record().await;
    let error = StoreError::Corrupt(Corruption("a test says so".into()));
    store.inner().fail_next_read(error.clone());
    let mut read = store.inner().hold(Point::BeforeRead);
    let reads = spawn_reads(&store, 10);
    read.reached().await;
    joined(&store, 9).await;
    read.release();
    assert_eq!(results(reads).await, vec![Err(error); 10]);
    assert_eq!(results(spawn_reads(&store, 1)).await, [old()]);
    assert_eq!(store.inner().loads(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_the_loading_caller_goes_away_another_one_loads() {
    let store = with_old_record().await;
    let mut read = store.inner().hold(Point::BeforeRead);
    let leader = spawn_reads(&store, 1).remove(0);
    read.reached().await;
    let reads = spawn_reads(&store, 10);
    joined(&store, 10).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    assert_eq!(results(reads).await, vec![old(); 10]);
    assert_eq!(store.inner().loads(), 2, "one load was given up, one answered all");
}

#[tokio::test(start_paused = true)]
async fn a_load_that_nobody_polls_does_not_hold_the_others_for_long() {
    let store = with_old_record().await;
    let _read = store.inner().hold(Point::BeforeRead);
    let key = id("a");
    let mut stalled = Box::pin(store.get(&key));
    let polled = std::future::poll_fn(|context| Poll::Ready(stalled.as_mut().poll(context))).await;
    assert!(polled.is_pending());
    let begun = tokio::time::Instant::now();
    assert_eq!(results(spawn_reads(&store, 1)).await, [old()]);
    assert_eq!(begun.elapsed().as_millis(), JOIN_PATIENCE.as_millis());
}

#[tokio::test(start_paused = true)]
async fn a_read_that_begins_after_a_commit_does_not_join_a_load_from_before_it() {
    let store = with_old_record().await;
    let mut read = store.inner().hold(Point::AfterRead);
    let early = spawn_reads(&store, 1);
    read.reached().await;
    store_one(&*store, put("a", "", "new")).await;
    // They begin before the early load ends, and would be handed its result if they joined it.
    let late = spawn_reads(&store, 2);
    read.release();
    assert_eq!(results(late).await, vec![Ok(Some("new".into())); 2]);
    assert_eq!(results(early).await, [old()]);
    assert_eq!(name(&*store, "a").await.as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_begins_while_a_commit_is_applied_joins_no_load() {
    let store = with_old_record().await;
    let mut read = store.inner().hold(Point::AfterRead);
    let early = spawn_reads(&store, 1);
    read.reached().await;
    let mut applied = store.inner().hold(Point::Applied);
    let writer = tokio::spawn({
        let store = store.clone();
        async move { store_one(&*store, put("a", "", "new")).await }
    });
    applied.reached().await;
    // A page would show the new record by now.
    let late = spawn_reads(&store, 2);
    read.release();
    assert_eq!(results(late).await, vec![Ok(Some("new".into())); 2]);
    applied.release();
    soon(writer).await.unwrap();
    assert_eq!(results(early).await, [old()]);
    assert_eq!(name(&*store, "a").await.as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn the_newer_of_two_loads_of_one_id_is_the_one_to_join() {
    let store = with_old_record().await;
    let mut early_read = store.inner().hold(Point::AfterRead);
    let early = spawn_reads(&store, 1);
    early_read.reached().await;
    store_one(&*store, put("a", "", "new")).await;
    let mut late_read = store.inner().hold(Point::BeforeRead);
    let late = spawn_reads(&store, 10);
    late_read.reached().await;
    joined(&store, 9).await;
    early_read.release();
    assert_eq!(results(early).await, [old()]);
    // The early load's end must not have ended the late one.
    let latest = spawn_reads(&store, 1);
    joined(&store, 10).await;
    late_read.release();
    assert_eq!(results(late).await, vec![Ok(Some("new".into())); 10]);
    assert_eq!(results(latest).await, [Ok(Some("new".into()))]);
    assert_eq!(store.inner().loads(), 2);
}
