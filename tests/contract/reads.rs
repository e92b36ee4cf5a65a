//! What a read shows.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use profilestore::model::{Outcome, Revision};
use profilestore::store::{Commit, DomainOrder, Scope, Store};

use crate::common::profiles::*;
use crate::common::soon;
use crate::common::stacks::Stack;

pub async fn an_absent_profile_is_none<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    assert_eq!(get(store, "a").await, None);
    assert_eq!(get(store, "a").await, None);
    store_one(store, put("a", "", "")).await;
    assert!(get(store, "a").await.is_some());
    commit(store, vec![delete("a")]).await;
    assert_eq!(get(store, "a").await, None);
}

pub async fn each_id_has_its_answer_in_the_order_of_the_ids<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    commit(store, vec![put("a", "", "A"), put("b", "", "B"), put("c", "", "C")]).await;
    get(store, "b").await;
    for _ in 0..2 {
        let records = store.get_many(&ids(["c", "none", "a", "b", "c", "none", "A"])).await.unwrap();
        let names: Vec<_> = records.iter().map(|record| record.as_ref().map(|it| profile(it).display_name)).collect();
        let names: Vec<_> = names.iter().map(Option::as_deref).collect();
        assert_eq!(names, [Some("C"), None, Some("A"), Some("B"), Some("C"), None, None]);
    }
    assert_eq!(store.get_many(&[]).await.unwrap(), []);
}

pub async fn a_read_after_a_commit_shows_it_by_every_method<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    for version in 0..20 {
        let address = format!("v{version}@example.com");
        // Before and after, so that a cache has something old to show.
        get(store, "a").await;
        let written = store_one(store, put("a", &address, "")).await;
        assert_eq!(store.get(&id("a")).await.unwrap().as_ref(), Some(&written));
        assert_eq!(store.get_many(&[id("a")]).await.unwrap(), [Some(written.clone())]);
        for scope in [Scope::All, scope("example.com"), subtree("com"), email(&address)] {
            assert_eq!(store.list(&scope, None, UNBOUNDED).await.unwrap().records, std::slice::from_ref(&written));
            assert_eq!(store.count(&scope).await.unwrap(), 1);
        }
        let domains = store.list_domains(None, DomainOrder::Index, None, 10).await.unwrap().domains;
        assert_eq!((domains.len(), domains[0].profiles), (1, 1));
    }
    commit(store, vec![delete("a")]).await;
    assert_eq!(store.get(&id("a")).await.unwrap(), None);
    assert_eq!(store.get_many(&[id("a")]).await.unwrap(), [None]);
    for scope in [Scope::All, scope("example.com"), subtree("com"), email("v19@example.com")] {
        assert_eq!(store.list(&scope, None, UNBOUNDED).await.unwrap().records, []);
        assert_eq!(store.count(&scope).await.unwrap(), 0);
    }
    assert_eq!(store.list_domains(None, DomainOrder::Index, None, 10).await.unwrap().domains, []);
}

pub async fn what_a_commit_returns_is_what_reads_show<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let outcomes = commit(store, vec![put("a", "a@b.example", "A"), put("b", "", "B")]).await;
    for (key, outcome) in ["a", "b"].into_iter().zip(outcomes) {
        let Outcome::Stored(record) = outcome else { panic!("{outcome:?}") };
        assert_eq!(store.get(&id(key)).await.unwrap(), Some(record));
    }
    let read = get(store, "a").await.unwrap();
    assert_eq!((read.email.as_str(), read.domain.as_str()), ("a@b.example", "b.example"));
    assert!(!read.etag.is_empty() && read.create_time.is_some() && read.update_time.is_some());
}

/// One writer and readers of every kind; whoever reads begins with the newest revision that anybody saw.
pub async fn whoever_has_seen_a_version_never_sees_an_older_one<K: Stack>() {
    let stack = Arc::new(K::open(Default::default()).await);
    store_one(stack.store(), put("a", "a@b.example", "0")).await;
    let seen = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for way in 0..3 {
        let (stack, seen, done) = (stack.clone(), seen.clone(), done.clone());
        readers.spawn(async move {
            let store = stack.store();
            while !done.load(Ordering::SeqCst) {
                let floor = seen.load(Ordering::SeqCst);
                let record = match way {
                    0 => store.get(&id("a")).await.unwrap(),
                    1 => store.get_many(&[id("a")]).await.unwrap().pop().flatten(),
                    _ => store.list(&email("a@b.example"), None, UNBOUNDED).await.unwrap().records.pop(),
                };
                let Revision(revision) = record.unwrap().revision();
                assert!(revision >= floor, "{revision} was read after {floor}");
                seen.fetch_max(revision, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        });
    }
    for version in 1..=100 {
        let Revision(revision) =
            store_one(stack.store(), put("a", "a@b.example", &version.to_string())).await.revision();
        seen.fetch_max(revision, Ordering::SeqCst);
    }
    done.store(true, Ordering::SeqCst);
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
}

pub async fn a_dropped_read_leaves_nothing_behind<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    store_one(store, put("a", "", "A")).await;
    let keys = ids(["a", "none"]);
    for key in &keys {
        let mut read = Box::pin(store.get(key));
        // Whether it is ready at once is the engine's affair.
        let _ = std::future::poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
    }
    // More than may wait, and reads long enough that an engine on disk hands them to other threads.
    let many: Vec<_> = (0..150).map(|number| id(format!("many-{number}"))).collect();
    for half in [0..75, 75..150] {
        let writes =
            half.map(|number| put(&format!("many-{number}"), &format!("m{number}@many.example"), "")).collect();
        commit(store, writes).await;
    }
    for _ in 0..1500 {
        let mut page = Box::pin(store.list(&Scope::All, None, UNBOUNDED));
        let mut found = Box::pin(store.get_many(&many));
        let _ = std::future::poll_fn(|context| Poll::Ready(page.as_mut().poll(context))).await;
        let _ = std::future::poll_fn(|context| Poll::Ready(found.as_mut().poll(context))).await;
    }
    assert_eq!(soon(store.list(&Scope::All, None, UNBOUNDED)).await.unwrap().records.len(), 151);
    assert_eq!(soon(store.get_many(&many)).await.unwrap().iter().flatten().count(), 150);
    let mut read = Box::pin(store.get_many(&keys));
    let _ = std::future::poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
    drop(read);
    assert_eq!(name(store, "a").await.as_deref(), Some("A"));
    assert_eq!(name(store, "none").await, None);
    let outcomes = store.commit(Commit::all(vec![put("a", "", "B")])).await.unwrap();
    assert!(matches!(outcomes[0], Ok(Outcome::Stored(_))));
    assert_eq!(name(store, "a").await.as_deref(), Some("B"));
}
