//! One request of a group goes wrong: what becomes of the others.

use profilestore::model::{Outcome, Precondition, Rejection};
use profilestore::store::StoreState;

use super::*;

fn marked(commit: Commit, number: u8) -> Commit {
    let mark = RequestMark { id: RequestId([number; 16]), fingerprint: 7, made_ids: Box::default() };
    commit.for_request(Some(mark))
}

/// Damages the counters of a domain, given by its key in the tree.
fn damage_counters(dir: &Path, domain_key: &[u8]) {
    let sled = open_sled(&dir.join("sled"));
    let key = [b"d", domain_key].concat();
    let mut value = sled.get(&key).unwrap().expect("the domain has counters").to_vec();
    value[0] ^= 1;
    sled.insert(key, value).unwrap();
    sled.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_counters_fail_only_those_who_touch_them() {
    let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::new(None));
    let store = open(dir.path(), &faults).await.unwrap();
    let repeated = || marked(Commit::all(vec![put("old", "old@good.two", "old")]), 1);
    store.commit(repeated()).await.unwrap();
    commit(&store, vec![put("bad", "bad@bad.one", "old"), put("stays", "stays@bad.one", "old")]).await;
    store.close().await.unwrap();
    damage_counters(dir.path(), b"one\0bad\0");

    let store = open_held(dir.path(), &faults).await;
    let all = |write| Commit::all(vec![write]);
    let commits = vec![
        all(put("new", "new@good.two", "new")),
        marked(all(put("x", "x@bad.one", "new")), 2),
        all(put_if("old", "old@good.two", "new", Precondition::MustBeAbsent)),
        repeated(),
        // What failed before it is not there for it.
        all(put_if("x", "x@good.two", "new", Precondition::MustBeAbsent)),
        Commit::all(vec![put("y", "y@good.two", "new"), delete("bad")]),
        all(put("stays", "stays@bad.one", "renamed")),
        all(put("plain", "", "new")),
    ];
    let answers = together(&store, &faults, commits).await;
    faults.give_turns(usize::MAX);
    let stored = |answer: &Result<Outcomes, StoreError>| matches!(answer.as_deref(), Ok([Ok(Outcome::Stored(_))]));
    let corrupt = |answer: &Result<Outcomes, StoreError>| matches!(answer, Err(StoreError::Corrupt(_)));
    assert!(stored(&answers[0]), "{answers:?}");
    assert!(corrupt(&answers[1]), "{answers:?}");
    assert_eq!(answers[2], Err(StoreError::Rejected { index: 0, rejection: Rejection::AlreadyExists }));
    assert!(matches!(answers[3].as_deref(), Ok([Ok(Outcome::Repeated(Some(_)))])), "{answers:?}");
    assert!(stored(&answers[4]), "{answers:?}");
    assert!(corrupt(&answers[5]), "{answers:?}");
    assert!(stored(&answers[6]), "the counters stay the same: {answers:?}");
    assert!(stored(&answers[7]), "{answers:?}");
    assert_eq!(*store.watch_state().borrow(), StoreState::Open);
    assert_eq!(listed(&store, &Scope::All).await, ["bad", "new", "old", "plain", "stays", "x"]);
    assert_eq!(store.count(&scope("good.two")).await.unwrap(), 3);
    // A request that failed is not remembered.
    let again = store.commit(marked(all(put("x", "x@good.two", "once more")), 2)).await;
    assert!(stored(&again), "{again:?}");
    store.close().await.unwrap();
    // Nobody has read what is damaged, but those who wrote have met it: the next start heals it.
    assert!(dir.path().join("sled-doubtful").exists());
    let store = open(dir.path(), &Faults::new(None)).await.unwrap();
    commit(&store, vec![put("x", "x@bad.one", "new")]).await;
    assert_eq!(store.count(&scope("bad.one")).await.unwrap(), 3);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_panics_fails_the_store_and_everybody_in_its_group_is_told() {
    let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::new(None));
    let live = dir.path().join("live");
    let store = open_held(&live, &faults).await;
    assert!(together(&store, &faults, round(0)).await.iter().all(Result::is_ok));
    let panics = || {
        let update: profilestore::model::UpdateFn = Box::new(|_| panic!("an update panics"));
        profilestore::model::Write::update(id("user-0"), update, Precondition::None, 64)
    };
    // The third and the fourth are in the group of the one that panics, the others in groups behind it.
    let large = |number: usize| put(&format!("large-{number}"), "", &"x".repeat(200));
    let mut commits = vec![Commit::all(vec![large(0)]), Commit::all(vec![panics()])];
    commits.extend((1..6).map(|number| Commit::each((0..60).map(|part| large(100 * number + part)).collect())));
    let answers = in_turns(10, &store, &faults, commits).await;
    faults.give_turns(usize::MAX);
    for answer in answers {
        assert!(matches!(answer, Err(StoreError::Failed { .. })), "{answer:?}");
    }
    assert_eq!(store.status().queued_commits, 0);
    assert!(matches!(store.close().await, Err(StoreError::Failed { .. })));
    let copy = dir.path().join("copy");
    copy_dir(&live, &copy);
    let store = open(&copy, &Faults::new(None)).await.unwrap();
    assert_eq!(contents(&store).await, after(1));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sled_is_flushed_in_its_time_also_while_all_writes_are_refused() {
    let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::new(None));
    let free_bytes = Arc::new(std::sync::atomic::AtomicU64::new(1000));
    let says = free_bytes.clone();
    let disk = faults.disk().with_free_bytes(move |_| Ok(says.load(Ordering::Relaxed)));
    let space = profilestore::engine::sled::SpaceBounds { min_free_bytes: 100, ballast_bytes: 0 };
    let options = SledOptions { disk, space, ..options(dir.path(), &faults) };
    faults.hold();
    let store = SledStore::open(options, Arc::new(NoObserver)).await.unwrap();
    let flushes = || store.figures().steps().find(|(name, _)| *name == "flush").unwrap().1.count();
    assert!(together(&store, &faults, round(0)).await.iter().all(Result::is_ok));
    let before = flushes();
    free_bytes.store(1, Ordering::Relaxed);
    // So long is the answer about the room good, and longer than sled may stay unflushed.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let refused = together(&store, &faults, round(1)).await;
    assert!(refused.iter().all(|answer| *answer == Err(StoreError::DiskLow)), "{refused:?}");
    // The committer waits for its next turn, behind the refusals: it has not come to look whether the queue is empty.
    faults.until_waiting(3);
    let after = flushes();
    faults.give_turns(usize::MAX);
    assert_eq!(after, before + 1);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_by_commits_and_by_bytes_and_takes_again_when_there_is_room() {
    use profilestore::engine::sled::QueueBounds;
    let size = |write: &profilestore::model::Write| write.size_bytes;
    let large = |number: usize| put(&format!("large-{number}"), "", &"x".repeat(200));
    let of_bytes = QueueBounds { commits: 100, bytes: 4 * size(&large(0)) };
    for (queue, fit) in [(QueueBounds { commits: 3, bytes: 1 << 20 }, 3), (of_bytes, 4)] {
        let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::new(None));
        faults.hold();
        let store = SledStore::open(SledOptions { queue, ..options(dir.path(), &faults) }, Arc::new(NoObserver));
        let store = store.await.unwrap();
        faults.until_waiting(1);
        let mut waiting: Vec<_> =
            (0..fit).map(|number| Box::pin(store.commit(Commit::all(vec![large(number)])))).collect();
        for commit in &mut waiting {
            assert!(futures_util::poll!(commit.as_mut()).is_pending(), "{queue:?}");
        }
        for _ in 0..3 {
            // At once: it is ready when it is asked for the first time.
            let refused = futures_util::poll!(Box::pin(store.commit(Commit::all(vec![large(9)]))));
            assert_eq!(refused, std::task::Poll::Ready(Err(StoreError::Overloaded)), "{queue:?}");
        }
        assert_eq!(store.status().queued_commits, fit, "who was refused takes no room");
        faults.give_turns(usize::MAX);
        assert!(join_all(waiting).await.iter().all(Result::is_ok), "{queue:?}");
        assert!(store.commit(Commit::all(vec![large(9)])).await.is_ok());
        assert_eq!(store.status().queued_commits, 0);
        store.close().await.unwrap();
    }
}
