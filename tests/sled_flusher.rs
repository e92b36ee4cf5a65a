//! sled's own thread ends. A process of its own: the thread is found by its name among those of the process.

use std::fs;
use std::sync::Arc;

use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::store::{NoObserver, Scope, Store, StoreError, StoreState};

mod common;

use common::files::copy_dir;
use common::profiles::*;
use common::soon;

/// The names of this process's threads, by where they can be changed.
fn flushers() -> Vec<std::path::PathBuf> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("comm"));
    tasks.filter(|name| fs::read_to_string(name).is_ok_and(|name| name.trim_end() == "log flusher")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flusher_of_sled_that_has_ended_fails_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = SledStore::open(SledOptions::new(&live), Arc::new(NoObserver)).await.unwrap();
    store_one(&store, put("before", "before@one.example", "")).await;
    // It gives itself its name, and is looked for every two seconds.
    let flusher = soon(async {
        loop {
            if let [flusher] = &*flushers() {
                return flusher.clone();
            }
            tokio::task::yield_now().await;
        }
    });
    let flusher = flusher.await;
    let mut state = store.watch_state();
    let failed = state.wait_for(|state| matches!(state, StoreState::Failed { .. }));
    assert!(tokio::time::timeout(std::time::Duration::from_secs(5), failed).await.is_err(), "it is there");
    assert!(!store.figures().has_flusher_ended());
    // A thread that ends takes its name along.
    fs::write(flusher, "another").unwrap();
    soon(state.wait_for(|state| matches!(state, StoreState::Failed { .. }))).await.unwrap();
    assert!(store.figures().has_flusher_ended());
    let refused = store.commit(profilestore::store::Commit::all(vec![put("late", "", "")])).await;
    assert!(matches!(&refused, Err(StoreError::Failed { cause }) if cause.contains("flusher")), "{refused:?}");
    assert_eq!(listed(&store, &Scope::All).await, ["before"], "reads go on until the restart");
    assert!(matches!(store.close().await, Err(StoreError::Failed { .. })));
    let copy = dir.path().join("copy");
    copy_dir(&live, &copy);
    let store = SledStore::open(SledOptions::new(&copy), Arc::new(NoObserver)).await.unwrap();
    assert_eq!(listed(&store, &Scope::All).await, ["before"]);
    store.close().await.unwrap();
}
