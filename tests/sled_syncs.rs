//! A disk that fails sled's own syncs. A process of its own: the hook is the whole process's.

use std::path::Path;
use std::sync::Arc;

use profilestore::engine::sled::{SledOptions, SledStore, fail_syncs};
use profilestore::store::{NoObserver, Store, StoreError, StoreState};

mod common;

use common::files::copy_dir;
use common::profiles::*;
use common::soon;

async fn open(dir: &Path) -> SledStore {
    SledStore::open(SledOptions::new(dir), Arc::new(NoObserver)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_sleds_syncs_fails_the_store_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = open(&live).await;
    store_one(&store, put("before", "before@one.example", "")).await;
    fail_syncs(true);
    let mut acknowledged = vec!["before".to_owned()];
    let mut state = store.watch_state();
    // What is acknowledged is in the log, whose syncs work; the next flush of sled is the end.
    for number in 0.. {
        let key = format!("user-{number:05}");
        match soon(store.commit(profilestore::store::Commit::all(vec![put(&key, "a@two.example", "")]))).await {
            Ok(_) => acknowledged.push(key),
            Err(error) => {
                assert!(matches!(error, StoreError::Failed { .. }), "{error:?}");
                break;
            }
        }
    }
    soon(state.wait_for(|state| matches!(state, StoreState::Failed { .. }))).await.unwrap();
    let closed = soon(store.close()).await;
    assert!(matches!(closed, Err(StoreError::Failed { .. })), "{closed:?}");
    let copy = dir.path().join("copy");
    copy_dir(&live, &copy);
    fail_syncs(false);
    let store = open(&copy).await;
    let found = listed(&store, &profilestore::store::Scope::All).await;
    assert!(acknowledged.iter().all(|key| found.contains(key)), "an acknowledged write is missing");
    assert!(found.len() <= acknowledged.len() + 1, "at most the write that was not acknowledged is there besides");
    assert_eq!(store.verify().await.unwrap().problems, []);
    store.close().await.unwrap();
}
