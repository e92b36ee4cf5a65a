//! What becomes of the writes of a commit.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use profilestore::engine::EngineRules;
use profilestore::model::limits::{MAX_BATCH_BYTES, MAX_COMMIT_WRITES};
use profilestore::model::{Canonicalization, Draft, Outcome, Precondition, Profile, Rejection, Write};
use profilestore::store::{Clock, Commit, CommitMode, Scope, Store, StoreError};

use crate::common::profiles::*;
use crate::common::stacks::Stack;

pub async fn writes_are_decided_in_order_each_against_those_before_it<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    get(store, "a").await;
    let writes = vec![
        put_if("a", "", "1", Precondition::MustBeAbsent),
        append("a", "2", Precondition::MustExist),
        put_if("a", "", "3", Precondition::MustBeAbsent),
        delete_if("a", Precondition::MustExist),
        append("a", "4", Precondition::MustBeAbsent),
        append("a", "5", Precondition::None),
    ];
    let outcomes = store.commit(Commit::each(writes)).await.unwrap();
    let names: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(Outcome::Stored(record)) => profile(record).display_name,
            other => format!("{other:?}").split('(').nth(1).unwrap_or_default().trim_matches(')').to_owned(),
        })
        .collect();
    assert_eq!(names, ["1", "12", "AlreadyExists", "Deleted", "4", "45"]);
    assert_eq!(name(store, "a").await.as_deref(), Some("45"));
}

pub async fn an_atomic_commit_is_all_or_nothing<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    commit(store, vec![put("a", "a@x.example", "old"), put("b", "b@x.example", "old")]).await;
    let before = store.list(&Scope::All, None, UNBOUNDED).await.unwrap();
    for refused in [put_if("c", "c@x.example", "new", Precondition::MustExist), refuse("c")] {
        let writes = vec![put("a", "a@y.example", "new"), delete("b"), put("d", "", "new"), refused];
        let result = store.commit(Commit::all(writes)).await;
        assert!(matches!(result, Err(StoreError::Rejected { index: 3, .. })), "{result:?}");
        assert_eq!(store.list(&Scope::All, None, UNBOUNDED).await.unwrap(), before);
        assert_eq!(store.get_many(&ids(["a", "b", "c", "d"])).await.unwrap().iter().flatten().count(), 2);
        assert_eq!(listed(store, &subtree("x.example")).await, ["a", "b"]);
        assert_eq!(store.count(&scope("y.example")).await.unwrap(), 0);
    }
    let writes = vec![put("a", "a@y.example", "new"), delete("b"), put("c", "", "new"), delete("none")];
    let outcomes = store.commit(Commit::all(writes)).await.unwrap();
    assert!(matches!(
        outcomes[..],
        [Ok(Outcome::Stored(_)), Ok(Outcome::Deleted(_)), Ok(Outcome::Stored(_)), Ok(Outcome::Absent)]
    ));
    assert_eq!(listed(store, &Scope::All).await, ["a", "c"]);
    assert_eq!(store.verify().await.unwrap().problems, []);
}

pub async fn an_atomic_commit_names_the_first_refused_write<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    store_one(store, put("a", "", "old")).await;
    let writes = vec![
        put("b", "", ""),
        put_if("a", "", "", Precondition::MustBeAbsent),
        put_if("c", "", "", Precondition::MustExist),
    ];
    let refused = StoreError::Rejected { index: 1, rejection: Rejection::AlreadyExists };
    assert_eq!(store.commit(Commit::all(writes)).await, Err(refused));
}

pub async fn an_atomic_commit_refuses_two_writes_of_one_profile<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let refused = StoreError::Rejected { index: 2, rejection: Rejection::DuplicateId };
    let writes = vec![put("a", "", "1"), put("b", "", "1"), put("a", "", "1")];
    assert_eq!(store.commit(Commit::all(writes)).await, Err(refused));
    assert_eq!(listed(store, &Scope::All).await, [""; 0]);
}

pub async fn an_import_decides_each_write_by_itself<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    store_one(store, put("b", "", "old")).await;
    let writes = vec![
        put("a", "", "new"),
        put_if("b", "", "new", Precondition::MustBeAbsent),
        refuse("b"),
        delete_if("c", Precondition::MustExist),
        put("d", "", "new"),
    ];
    let outcomes = store.commit(Commit::each(writes)).await.unwrap();
    assert!(matches!(outcomes[0], Ok(Outcome::Stored(_))));
    assert_eq!(outcomes[1], Err(Rejection::AlreadyExists));
    assert!(matches!(outcomes[2], Err(Rejection::Invalid(_))));
    assert_eq!(outcomes[3], Err(Rejection::NotFound));
    assert!(matches!(outcomes[4], Ok(Outcome::Stored(_))));
    assert_eq!(listed(store, &Scope::All).await, ["a", "b", "d"]);
    assert_eq!(name(store, "b").await.as_deref(), Some("old"));
}

pub async fn a_commit_of_nothing_is_made<K: Stack>() {
    let stack = K::open(Default::default()).await;
    for mode in [CommitMode::All, CommitMode::Each] {
        assert_eq!(stack.store().commit(Commit { mode, ..Commit::each(Vec::new()) }).await, Ok(Vec::new()));
    }
}

pub async fn a_put_that_changes_nothing_keeps_its_etag<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let first = store_one(store, put("a", "a@b.example", "A")).await;
    for mode in [CommitMode::All, CommitMode::Each] {
        let again = store.commit(Commit { mode, ..Commit::each(vec![put("a", "a@b.example", "A")]) }).await.unwrap();
        assert_eq!(again, [Ok(Outcome::Unchanged(first.clone()))]);
    }
    assert_eq!(store.get(&id("a")).await.unwrap(), Some(first.clone()));
    // Another spelling of the same address is another content: the profile shows it as it was written.
    assert_ne!(etag(&store_one(store, put("a", "A@B.example", "A")).await), etag(&first));
}

pub async fn an_update_that_changes_nothing_keeps_its_etag<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let first = store_one(store, put("a", "a@b.example", "A")).await;
    let again = commit_one(store, append("a", "", Precondition::MustExist)).await;
    assert_eq!(again, Ok(Outcome::Unchanged(first.clone())));
    assert_eq!(store.get(&id("a")).await.unwrap(), Some(first));
}

pub async fn every_change_brings_a_new_etag_and_a_larger_revision<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let mut etags = std::collections::HashSet::new();
    let mut last = None;
    for change in 0..20 {
        let write =
            if change % 2 == 0 { put("a", "", &change.to_string()) } else { append("a", "!", Precondition::None) };
        let record = store_one(store, write).await;
        assert!(etags.insert(profile(&record).etag));
        assert!(last < Some(record.revision()));
        last = Some(record.revision());
    }
}

pub async fn revisions_grow_over_a_delete<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let before = store_one(store, put("a", "", "A")).await;
    let Outcome::Deleted(deleted) = commit_one(store, delete("a")).await.unwrap() else { panic!("it was there") };
    let after = store_one(store, put("a", "", "A")).await;
    assert!(before.revision() < deleted && deleted < after.revision());
    assert_ne!(etag(&before), etag(&after));
}

/// Rules whose clock shows the seconds of the cell.
fn with_clock(seconds: &Arc<AtomicI64>) -> EngineRules {
    let seconds = seconds.clone();
    let clock =
        Clock::from_fn(move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::SeqCst) as u64));
    EngineRules { clock, ..EngineRules::default() }
}

pub async fn the_create_time_stays_until_the_profile_is_deleted<K: Stack>() {
    let seconds = Arc::new(AtomicI64::new(1000));
    let stack = K::open(with_clock(&seconds)).await;
    let store = stack.store();
    let created = |key| async move { get(store, key).await.unwrap().create_time.unwrap().seconds };
    store_one(store, put("a", "", "1")).await;
    seconds.store(2000, Ordering::SeqCst);
    store_one(store, put("a", "", "2")).await;
    store_one(store, append("a", "3", Precondition::None)).await;
    assert_eq!(created("a").await, 1000);
    assert_eq!(get(store, "a").await.unwrap().update_time.unwrap().seconds, 2000);
    commit(store, vec![delete("a"), put("a", "", "4")]).await;
    assert_eq!(created("a").await, 2000);
}

pub async fn update_time_never_goes_back_whatever_the_clock_does<K: Stack>() {
    let seconds = Arc::new(AtomicI64::new(0));
    let mut stack = K::open(with_clock(&seconds)).await;
    let mut last = 0;
    for (change, now) in [1000, 2000, 1500, 0, 1999, 2001, 500].into_iter().enumerate() {
        seconds.store(now, Ordering::SeqCst);
        let written = profile(&store_one(stack.store(), put("a", "", &change.to_string())).await);
        let time = written.update_time.unwrap().seconds;
        assert_eq!(time, now.max(last), "with the clock at {now}");
        assert!(time >= written.create_time.unwrap().seconds);
        last = time;
        stack = stack.reopen().await;
    }
}

pub async fn a_commit_whose_future_is_dropped_is_made_as_a_whole_or_not_at_all<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    for round in 0..50 {
        let keys = [format!("a{round}"), format!("b{round}")];
        get(store, &keys[0]).await;
        let writes = keys.iter().map(|key| put(key, "x@y.example", "")).collect();
        let mut unfinished = Box::pin(store.commit(Commit::all(writes)));
        let _ = std::future::poll_fn(|context| Poll::Ready(unfinished.as_mut().poll(context))).await;
        drop(unfinished);
        // Behind it in every queue.
        store_one(store, put("last", "", &round.to_string())).await;
        let made = store.get_many(&keys.each_ref().map(id)).await.unwrap();
        assert_eq!(made[0].is_some(), made[1].is_some());
        assert_eq!(get(store, &keys[0]).await.is_some(), made[0].is_some());
    }
    assert_eq!(store.verify().await.unwrap().problems, []);
}

pub async fn a_commit_of_too_many_writes_is_refused_and_changes_nothing<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let writes = |count: usize| (0..count).map(|number| put(&number.to_string(), "", "")).collect();
    let refused = store.commit(Commit::each(writes(MAX_COMMIT_WRITES + 1))).await;
    let error = StoreError::TooManyWrites { writes: MAX_COMMIT_WRITES + 1, limit: MAX_COMMIT_WRITES };
    assert_eq!(refused, Err(error));
    assert_eq!(store.count(&Scope::All).await.unwrap(), 0);
    store.commit(Commit::all(writes(MAX_COMMIT_WRITES))).await.unwrap();
    assert_eq!(store.count(&Scope::All).await.unwrap(), MAX_COMMIT_WRITES as u64);
}

pub async fn a_commit_that_is_too_large_is_refused_and_changes_nothing<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let large = |number: usize| {
        let attributes = (0..15).map(|key| (key.to_string(), "x".repeat(1024))).collect();
        let profile = Profile { id: number.to_string(), attributes, ..Profile::default() };
        Write::put(Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap(), Precondition::None)
    };
    let writes = |count: usize| (0..count).map(large).collect();
    for commit in [Commit::all(writes(MAX_COMMIT_WRITES)), Commit::each(writes(MAX_COMMIT_WRITES))] {
        match store.commit(commit).await {
            Err(StoreError::TooLarge { bytes, limit }) => {
                assert!(bytes > limit && limit >= MAX_BATCH_BYTES, "{bytes} of {limit}");
                assert_eq!(store.count(&Scope::All).await.unwrap(), 0);
            }
            // An engine may take whatever comes; one that writes it down as a whole does not.
            made => assert!(!K::DURABLE && made.unwrap().iter().all(Result::is_ok)),
        }
    }
    store.commit(Commit::all(writes(MAX_BATCH_BYTES / (16 * 1024)))).await.unwrap();
    assert!(store.count(&Scope::All).await.unwrap() >= 64);
}
