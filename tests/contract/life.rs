//! Opening, closing, and what outlives them.

use std::future::Future;
use std::task::Poll;

use profilestore::model::Precondition;
use profilestore::store::{
    ChangeBounds, Commit, CommitMode, DomainOrder, HoldName, Scope, Store, StoreError, StoreState,
};

use crate::common::profiles::*;
use crate::common::stacks::Stack;

pub async fn a_commit_survives_a_restart<K: Stack>() {
    let mut stack = K::open(Default::default()).await;
    for round in 0..5 {
        let store = stack.store();
        let key = format!("user-{round}");
        commit(store, vec![put(&key, "a@x.example", ""), put("changed", "", &key), delete("deleted")]).await;
        let before = store.list(&Scope::All, None, UNBOUNDED).await.unwrap();
        commit(store, vec![put("deleted", "d@x.example", ""), delete("deleted")]).await;
        stack = stack.reopen().await;
        let store = stack.store();
        assert_eq!(store.list(&Scope::All, None, UNBOUNDED).await.unwrap(), before, "to the last byte");
        assert_eq!(get(store, "deleted").await, None);
        assert_eq!(name(store, "changed").await, Some(key));
        assert_eq!(store.count(&scope("x.example")).await.unwrap(), round + 1);
        assert_eq!(store.status().totals.profiles, round + 2);
        assert_eq!(store.verify().await.unwrap().problems, []);
    }
}

pub async fn etags_and_times_go_on_after_a_restart<K: Stack>() {
    let mut stack = K::open(Default::default()).await;
    let mut last = store_one(stack.store(), put("a", "", "")).await;
    let created = profile(&last).create_time;
    for round in 0..5 {
        // The largest revision of all is that of a delete.
        commit(stack.store(), vec![put("b", "", ""), delete("b")]).await;
        stack = stack.reopen().await;
        let unchanged = commit_one(stack.store(), append("a", "", must_match(&etag(&last)))).await;
        assert!(unchanged.is_ok(), "the etag of before the restart is still the current one");
        let next = store_one(stack.store(), put_if("a", "", &round.to_string(), must_match(&etag(&last)))).await;
        assert!(next.revision() > last.revision());
        assert_ne!(etag(&next), etag(&last));
        assert_eq!(profile(&next).create_time, created);
        last = next;
    }
}

pub async fn after_closing_every_method_says_so<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    commit(store, vec![put("a", "a@x.example", ""), put("b", "b@x.example", "")]).await;
    get(store, "a").await;
    let head = store.head().await.unwrap();
    store.get_many(&ids(["a", "none"])).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.get(&id("a")).await, Err(StoreError::Closed));
    assert_eq!(store.get(&id("none")).await, Err(StoreError::Closed));
    assert_eq!(store.get_many(&ids(["a", "none"])).await, Err(StoreError::Closed));
    assert_eq!(store.get_many(&ids(["a"])).await, Err(StoreError::Closed));
    assert_eq!(store.get_many(&[]).await, Err(StoreError::Closed));
    for mode in [CommitMode::All, CommitMode::Each] {
        assert_eq!(
            store.commit(Commit { mode, ..Commit::each(vec![put("c", "", "")]) }).await,
            Err(StoreError::Closed)
        );
    }
    for scope in [Scope::All, scope("x.example"), subtree("example"), email("a@x.example")] {
        assert_eq!(store.list(&scope, None, UNBOUNDED).await, Err(StoreError::Closed));
        assert_eq!(store.count(&scope).await, Err(StoreError::Closed));
    }
    for order in [DomainOrder::Index, DomainOrder::LargestFirst] {
        assert_eq!(store.list_domains(None, order, None, 10).await, Err(StoreError::Closed));
    }
    let bounds = ChangeBounds { max_changes: 1, max_bytes: 1, through: None };
    assert_eq!(store.changes_after(&head, bounds).await, Err(StoreError::Closed));
    assert_eq!(store.head().await, Err(StoreError::Closed));
    assert_eq!(store.oldest_position().await, Err(StoreError::Closed));
    let name = HoldName::new("a").unwrap();
    assert_eq!(store.hold(&name, &head).await, Err(StoreError::Closed));
    assert_eq!(store.release_hold(&name).await, Err(StoreError::Closed));
    assert_eq!(store.holds().await, Err(StoreError::Closed));
    assert_eq!(store.verify().await, Err(StoreError::Closed));
    assert_eq!(store.backup().await.unwrap_err(), StoreError::Closed);
    assert_eq!(store.disk_bytes().await, Err(StoreError::Closed));
}

pub async fn a_second_close_does_nothing<K: Stack>() {
    let stack = K::open(Default::default()).await;
    store_one(stack.store(), put("a", "", "A")).await;
    for _ in 0..3 {
        assert_eq!(stack.store().close().await, Ok(()));
        assert_eq!(stack.store().get(&id("a")).await, Err(StoreError::Closed));
    }
    if K::DURABLE {
        let stack = stack.reopen().await;
        assert_eq!(name(stack.store(), "a").await.as_deref(), Some("A"));
    }
}

pub async fn the_state_is_watched_until_closing<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let mut early = store.watch_state();
    assert_eq!(*early.borrow_and_update(), StoreState::Open);
    store_one(store, put("a", "", "")).await;
    assert!(!early.has_changed().unwrap());
    store.close().await.unwrap();
    early.changed().await.unwrap();
    assert_eq!(*early.borrow(), StoreState::Closed);
    assert_eq!(*store.watch_state().borrow(), StoreState::Closed);
    assert_eq!(store.status().state, StoreState::Closed);
}

pub async fn close_makes_the_commits_that_were_accepted<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let mut commits = Vec::new();
    for number in 0..20 {
        let write = put_if(&format!("user-{number:02}"), "", "", Precondition::MustBeAbsent);
        let mut commit = Box::pin(store.commit(Commit::all(vec![write])));
        let first = std::future::poll_fn(|context| Poll::Ready(commit.as_mut().poll(context))).await;
        commits.push((commit, first));
    }
    store.close().await.unwrap();
    for (commit, first) in commits {
        let made = match first {
            Poll::Ready(made) => made,
            Poll::Pending => commit.await,
        };
        assert!(made.unwrap()[0].is_ok());
    }
    if K::DURABLE {
        let stack = stack.reopen().await;
        assert_eq!(stack.store().count(&Scope::All).await.unwrap(), 20);
    }
}
