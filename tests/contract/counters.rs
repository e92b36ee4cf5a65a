//! Counts, figures and the check of everything.

use profilestore::model::Precondition;
use profilestore::store::{Commit, DomainOrder, Scope, Store, StoreState};

use crate::common::profiles::*;
use crate::common::stacks::Stack;

/// The counts of all, of two domains, and of three subtrees.
async fn counts(store: &impl Store) -> [u64; 6] {
    let scopes = [
        Scope::All,
        scope("x.example"),
        scope("sub.x.example"),
        subtree("example"),
        subtree("x.example"),
        subtree("org"),
    ];
    let mut counts = [0; 6];
    for (count, scope) in counts.iter_mut().zip(&scopes) {
        *count = store.count(scope).await.unwrap();
        assert_eq!(*count, listed(store, scope).await.len() as u64, "{scope:?}");
    }
    counts
}

pub async fn counters_follow_every_change<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    assert_eq!(counts(store).await, [0; 6]);
    for (write, expected) in [
        (put("a", "a@x.example", ""), [1, 1, 0, 1, 1, 0]),
        (put("b", "a@x.example", ""), [2, 2, 0, 2, 2, 0]),
        (put("b", "b@sub.x.example", ""), [2, 1, 1, 2, 2, 0]),
        (put("b", "b@sub.x.example", "a change that moves nothing"), [2, 1, 1, 2, 2, 0]),
        (put("c", "", ""), [3, 1, 1, 2, 2, 0]),
        (put("c", "c@y.example", ""), [3, 1, 1, 3, 2, 0]),
        (put("a", "a@org", ""), [3, 0, 1, 2, 1, 1]),
        (append("a", "!", Precondition::None), [3, 0, 1, 2, 1, 1]),
        (delete("b"), [2, 0, 0, 1, 0, 1]),
        (put("a", "", ""), [2, 0, 0, 1, 0, 0]),
        (delete("a"), [1, 0, 0, 1, 0, 0]),
        (delete("c"), [0; 6]),
    ] {
        commit(store, vec![write]).await;
        assert_eq!(counts(store).await, expected);
    }
    // All of it in one group.
    let group = vec![
        put("a", "a@x.example", ""),
        put("a", "a@sub.x.example", ""),
        put("b", "b@x.example", ""),
        delete("b"),
        put("b", "b@org", ""),
        put("c", "c@x.example", ""),
        delete("c"),
    ];
    commit(store, group).await;
    assert_eq!(counts(store).await, [2, 0, 1, 1, 1, 1]);
    assert_eq!(store.verify().await.unwrap().problems, []);
}

pub async fn counters_of_a_refused_commit_stay<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    store_one(store, put("a", "a@x.example", "")).await;
    let writes = vec![put("b", "b@x.example", ""), delete("a"), refuse("c")];
    store.commit(Commit::all(writes)).await.unwrap_err();
    commit_one(store, put_if("a", "a@org", "", Precondition::MustBeAbsent)).await.unwrap_err();
    assert_eq!(counts(store).await, [1, 1, 0, 1, 1, 0]);
    let domains = store.list_domains(None, DomainOrder::Index, None, 10).await.unwrap().domains;
    assert_eq!((domains.len(), domains[0].profiles), (1, 1));
}

pub async fn an_email_is_counted<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(store.count(&email("x@y.example")).await.unwrap(), number as u64);
        commit(store, vec![put(key, "X@y.example", ""), put(&format!("{key}!"), "xx@y.example", "")]).await;
    }
    assert_eq!(store.count(&email("x@y.example")).await.unwrap(), 3);
}

pub async fn the_status_knows_the_number_of_profiles<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    for (write, profiles) in [(put("a", "", ""), 1), (put("b", "", ""), 2), (put("a", "", "!"), 2), (delete("a"), 1)]
    {
        commit(store, vec![write]).await;
        assert_eq!(store.status().totals.profiles, profiles);
    }
    let status = store.status();
    assert_eq!((status.state, status.queued_commits), (StoreState::Open, 0));
    assert!(!status.engine.is_empty());
}

pub async fn a_sound_store_has_no_problems<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    assert_eq!(store.verify().await.unwrap(), Default::default());
    commit(store, vec![put("a", "a@x.example", ""), put("b", "a@x.example", ""), put("c", "", "")]).await;
    let report = store.verify().await.unwrap();
    assert_eq!((report.profiles, report.index_entries, report.problems), (3, 2, Vec::new()));
}
