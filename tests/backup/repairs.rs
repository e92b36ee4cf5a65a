//! A repair builds the state anew, or keeps what can be read and says what is lost.

use profilestore::engine::sled::{Repaired, repair, verify_offline};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_repaired_without_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.snapshot().await.unwrap();
    commit(&store, put(3, 9)).await;
    let expected = contents(&store).await;
    store.close().await.unwrap();
    in_sled(dir.path(), |db| drop(db.remove(row(db, "i").0).unwrap()));
    assert!(!verify_offline(&options(dir.path())).unwrap().problems.is_empty());
    assert_eq!(repair(&options(dir.path())).unwrap(), Repaired::Whole { profiles: 40 });
    assert!(dir.path().join("sled-set-aside-1").is_dir(), "the old state is kept");
    assert_eq!(verify_offline(&options(dir.path())).unwrap().problems, []);
    assert_eq!(contents(&open(dir.path()).await.unwrap()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_snapshot_and_the_whole_log_what_can_be_read_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.snapshot().await.unwrap();
    for version in 9..12 {
        commit(&store, put(3, version)).await;
    }
    let mut expected = contents(&store).await;
    store.close().await.unwrap();
    // What a trimmed log and a snapshot that went bad leave.
    let segments = with_ending(&dir.path().join("commit-log"), ".log");
    segments[..segments.len() - 1].iter().for_each(|segment| fs::remove_file(segment).unwrap());
    flip(&with_ending(&dir.path().join("snapshots"), ".snapshot")[0], 500);
    in_sled(dir.path(), |db| {
        let (key, mut value) = row(db, "ruser-7");
        value[20] ^= 1;
        db.insert(key, value).unwrap();
        db.remove(row(db, "d").0).unwrap();
    });
    let repaired = repair(&options(dir.path())).unwrap();
    assert!(matches!(repaired, Repaired::Salvaged { profiles: 39, unreadable: 1, .. }), "{repaired:?}");
    assert!(dir.path().join("sled-set-aside-1").is_dir(), "the old state is kept");
    assert!(expected.remove("user-7").is_some());
    let store = open(dir.path()).await.unwrap();
    let page = store.list(&Scope::All, None, PAGE).await.unwrap();
    let found: BTreeMap<_, _> =
        page.records.into_iter().map(|record| (record.decode().unwrap().id, record)).collect();
    assert_eq!(found, expected);
    // Only the snapshot that cannot be used is left to complain of.
    let problems = store.verify().await.unwrap().problems;
    let about_state = problems.iter().filter(|problem| problem.remedy.contains("profilestore repair"));
    assert_eq!(about_state.count(), 0, "{problems:?}");
    commit(&store, put(7, 0)).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_served_is_neither_repaired_nor_checked_offline() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    for refused in [repair(&options(dir.path())).err(), verify_offline(&options(dir.path())).err()] {
        assert!(refused.unwrap().to_string().contains("in use by another process"));
    }
    assert_eq!(contents(&store).await.len(), 40);
    let nothing = dir.path().join("nothing");
    assert!(repair(&options(&nothing)).is_err() && !nothing.exists(), "no store is made where there was none");
}
