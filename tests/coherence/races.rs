//! One race each, held open by gates.

use std::sync::Arc;

use profilestore::cache::{CachedStore, Lookup};
use profilestore::model::Write;
use profilestore::store::{Scope, Store};
use tokio::task::JoinHandle;

use crate::common::gated::{GatedStore, Point, gated_and_cached};
use crate::common::profiles::*;
use crate::common::soon;

type Cached = Arc<CachedStore<GatedStore>>;

fn spawn_commit(store: &Cached, writes: Vec<Write>) -> JoinHandle<()> {
    let store = store.clone();
    tokio::spawn(async move { drop(commit(&*store, writes).await) })
}

fn spawn_read(store: &Cached, key: &'static str) -> JoinHandle<Option<String>> {
    let store = store.clone();
    tokio::spawn(async move { name(&*store, key).await })
}

/// What the engine shows on a page, which never comes from the cache.
async fn on_page(store: &Cached, key: &str) -> Option<String> {
    let page = store.list(&Scope::All, None, UNBOUNDED).await.unwrap();
    page.records.iter().map(profile).find(|profile| profile.id == key).map(|profile| profile.display_name)
}

async fn name_by_get_many(store: &Cached, key: &str) -> Option<String> {
    store.get_many(&[id(key)]).await.unwrap().pop().flatten().map(|record| profile(&record).display_name)
}

/// A read has looked before a commit and returns after it. Nothing it looked at may be found later.
async fn a_slow_read_meets(before: Option<&str>, write: Write, after: Option<&str>) {
    let store = gated_and_cached(false);
    if let Some(before) = before {
        store_one(&*store, put("a", "", before)).await;
    }
    let mut read = store.inner().hold(Point::AfterRead);
    let slow = spawn_read(&store, "a");
    read.reached().await;
    commit(&*store, vec![write]).await;
    read.release();
    assert_eq!(soon(slow).await.unwrap().as_deref(), before, "the slow read began before the commit returned");
    assert_eq!(store.cache().lookup("a"), Lookup::Miss, "what a slow read saw must not be installed");
    assert_eq!(name(&*store, "a").await.as_deref(), after);
    assert_eq!(name_by_get_many(&store, "a").await.as_deref(), after);
    assert_eq!(store.figures().refused_fills, 1);
}

#[tokio::test]
async fn a_slow_read_does_not_bring_an_old_record_back() {
    a_slow_read_meets(Some("old"), put("a", "", "new"), Some("new")).await;
}

#[tokio::test]
async fn a_slow_read_does_not_bring_a_deleted_record_back() {
    a_slow_read_meets(Some("old"), delete("a"), None).await;
}

#[tokio::test]
async fn a_slow_read_does_not_hide_a_created_record() {
    a_slow_read_meets(None, put("a", "", "new"), Some("new")).await;
}

#[tokio::test]
async fn a_slow_read_of_many_does_not_bring_an_old_record_back() {
    let store = gated_and_cached(false);
    commit(&*store, vec![put("a", "", "old"), put("b", "", "old")]).await;
    let mut read = store.inner().hold(Point::AfterRead);
    let slow = tokio::spawn({
        let store = store.clone();
        async move { store.get_many(&ids(["a", "missing", "b"])).await.unwrap() }
    });
    read.reached().await;
    commit(&*store, vec![put("a", "", "new"), put("missing", "", "new")]).await;
    read.release();
    assert_eq!(soon(slow).await.unwrap().iter().flatten().count(), 2);
    for (key, now) in [("a", "new"), ("missing", "new"), ("b", "old")] {
        assert_eq!(name(&*store, key).await.as_deref(), Some(now), "{key}");
    }
}

#[tokio::test]
async fn a_remembered_absence_ends_with_the_create() {
    let store = gated_and_cached(false);
    assert_eq!(name(&*store, "a").await, None);
    assert_eq!(store.cache().lookup("a"), Lookup::Absent);
    let mut applied = store.inner().hold(Point::Applied);
    let create = spawn_commit(&store, vec![put("a", "", "new")]);
    applied.reached().await;
    assert_eq!(on_page(&store, "a").await.as_deref(), Some("new"));
    assert_eq!(name(&*store, "a").await.as_deref(), Some("new"), "a page has shown it");
    applied.release();
    soon(create).await.unwrap();
    assert_eq!(name(&*store, "a").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn who_saw_a_new_record_on_a_page_does_not_get_the_old_one() {
    let store = gated_and_cached(false);
    store_one(&*store, put("a", "", "old")).await;
    assert_eq!(name(&*store, "a").await.as_deref(), Some("old"));
    let mut announced = store.inner().hold(Point::Announced);
    let mut applied = store.inner().hold(Point::Applied);
    let writer = spawn_commit(&store, vec![put("a", "", "new")]);
    announced.reached().await;
    assert_eq!(on_page(&store, "a").await.as_deref(), Some("old"));
    assert_eq!(name(&*store, "a").await.as_deref(), Some("old"), "it is not visible yet");
    announced.release();
    applied.reached().await;
    assert_eq!(on_page(&store, "a").await.as_deref(), Some("new"));
    assert_eq!(name(&*store, "a").await.as_deref(), Some("new"), "a page has shown it");
    assert_eq!(name_by_get_many(&store, "a").await.as_deref(), Some("new"), "a page has shown it");
    applied.release();
    soon(writer).await.unwrap();
    assert_eq!(name(&*store, "a").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn nothing_read_while_a_commit_is_under_way_is_installed() {
    let store = gated_and_cached(false);
    store_one(&*store, put("a", "", "old")).await;
    let mut announced = store.inner().hold(Point::Announced);
    let writer = spawn_commit(&store, vec![put("a", "", "new")]);
    announced.reached().await;
    // Begins and ends between the announcement and the change, and would install the old record.
    assert_eq!(name(&*store, "a").await.as_deref(), Some("old"));
    // Begins between the two, and ends when the commit is settled.
    let mut read = store.inner().hold(Point::AfterRead);
    let slow = spawn_read(&store, "a");
    read.reached().await;
    announced.release();
    soon(writer).await.unwrap();
    read.release();
    assert_eq!(soon(slow).await.unwrap().as_deref(), Some("old"));
    assert_eq!(name(&*store, "a").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn groups_that_settle_out_of_order_leave_the_newest_record() {
    // `finishing` says which of the three groups is the first, second and third to settle.
    for finishing in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let store = gated_and_cached(false);
        store_one(&*store, put("a", "", "0")).await;
        assert_eq!(name(&*store, "a").await.as_deref(), Some("0"));
        let mut groups = Vec::new();
        for value in ["1", "2", "3"] {
            let mut applied = store.inner().hold(Point::Applied);
            let writer = spawn_commit(&store, vec![put("a", "", value)]);
            applied.reached().await;
            groups.push(Some((applied, writer)));
        }
        for group in finishing {
            let (applied, writer) = groups[group].take().unwrap();
            applied.release();
            soon(writer).await.unwrap();
            assert_eq!(on_page(&store, "a").await.as_deref(), Some("3"));
            assert_eq!(name(&*store, "a").await.as_deref(), Some("3"), "after group {group} of {finishing:?}");
        }
        assert_ne!(store.cache().lookup("a"), Lookup::Miss, "it was in the cache and comes back");
    }
}

#[tokio::test]
async fn a_delete_that_settles_late_does_not_hide_a_newer_record_nor_the_other_way_round() {
    for (writes, newest) in
        [([delete("a"), put("a", "", "new")], Some("new")), ([put("a", "", "new"), delete("a")], None)]
    {
        let store = gated_and_cached(false);
        store_one(&*store, put("a", "", "old")).await;
        assert_eq!(name(&*store, "a").await.as_deref(), Some("old"));
        let mut groups = Vec::new();
        for write in writes {
            let mut applied = store.inner().hold(Point::Applied);
            let writer = spawn_commit(&store, vec![write]);
            applied.reached().await;
            groups.push((applied, writer));
        }
        for (applied, writer) in groups.into_iter().rev() {
            applied.release();
            soon(writer).await.unwrap();
            assert_eq!(name(&*store, "a").await.as_deref(), newest);
        }
        assert_ne!(store.cache().lookup("a"), Lookup::Miss, "it was in the cache and comes back");
    }
}

#[tokio::test]
async fn a_group_that_settles_does_not_install_while_a_newer_one_is_visible_already() {
    let store = gated_and_cached(false);
    store_one(&*store, put("a", "", "0")).await;
    assert_eq!(name(&*store, "a").await.as_deref(), Some("0"));
    let mut first_applied = store.inner().hold(Point::Applied);
    let first = spawn_commit(&store, vec![put("a", "", "1")]);
    first_applied.reached().await;
    let mut second_applied = store.inner().hold(Point::Applied);
    let second = spawn_commit(&store, vec![put("a", "", "2")]);
    second_applied.reached().await;
    first_applied.release();
    soon(first).await.unwrap();
    assert_eq!(on_page(&store, "a").await.as_deref(), Some("2"));
    assert_eq!(name(&*store, "a").await.as_deref(), Some("2"), "the first group must not install over the second");
    second_applied.release();
    soon(second).await.unwrap();
    assert_eq!(name(&*store, "a").await.as_deref(), Some("2"));
}
