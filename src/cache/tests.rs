//! The bounds of a cache around a real store. Its coherence is tested in `tests/coherence.rs`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::cache::{CacheOptions, CachedStore, HotCache, Lookup};
use crate::engine::EngineRules;
use crate::engine::memory::MemoryStore;
use crate::model::limits::MAX_COMMIT_WRITES;
use crate::model::{Canonicalization, Change, Draft, Precondition, Profile, ProfileId, Record, Revision, Write};
use crate::store::{Commit, CommitObserver, PageBounds, Scope, Store, StoreError};

fn store(options: CacheOptions) -> CachedStore<MemoryStore> {
    with_cache(HotCache::new(options))
}

fn with_cache(cache: HotCache) -> CachedStore<MemoryStore> {
    let cache = Arc::new(cache);
    CachedStore::new(MemoryStore::new(EngineRules::default(), cache.clone()), cache)
}

fn id(id: impl AsRef<str>) -> ProfileId {
    ProfileId::parse(id.as_ref(), "id").unwrap()
}

fn put(id: &str, name: &str) -> Write {
    let profile = Profile { id: id.into(), display_name: name.into(), ..Profile::default() };
    let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
    Write::put(draft, Precondition::None)
}

async fn commit(store: &impl Store, writes: Vec<Write>) {
    let mut writes = writes.into_iter().peekable();
    while writes.peek().is_some() {
        let some = writes.by_ref().take(MAX_COMMIT_WRITES).collect();
        store.commit(Commit::each(some)).await.unwrap().into_iter().for_each(|outcome| drop(outcome.unwrap()));
    }
}

async fn name(store: &impl Store, key: &str) -> Option<String> {
    store.get(&id(key)).await.unwrap().map(|record: Record| record.decode().unwrap().display_name)
}

/// Reads an id so that it is in the cache.
async fn warm(store: &CachedStore<MemoryStore>, key: &str) {
    store.get(&id(key)).await.unwrap();
    assert_ne!(store.cache().lookup(key), Lookup::Miss, "{key} has just been read");
}

fn is_cached(store: &CachedStore<MemoryStore>, key: &str) -> bool {
    store.cache().lookup(key) != Lookup::Miss
}

#[tokio::test(start_paused = true)]
async fn a_record_leaves_within_its_time_to_live_but_not_before_nine_tenths_of_it() {
    let store = store(CacheOptions::default());
    commit(&store, (0..200).map(|number| put(&format!("user-{number}"), "x")).collect()).await;
    let keys: Vec<_> = (0..200).map(|number| format!("user-{number}")).collect();
    for key in &keys {
        warm(&store, key).await;
    }
    tokio::time::advance(Duration::from_secs(269)).await;
    assert!(keys.iter().all(|key| is_cached(&store, key)));
    tokio::time::advance(Duration::from_secs(16)).await;
    let still_there = keys.iter().filter(|key| is_cached(&store, key)).count();
    assert!((1..200).contains(&still_there), "not all go at once, but {still_there} are there");
    tokio::time::advance(Duration::from_secs(15)).await;
    assert!(!keys.iter().any(|key| is_cached(&store, key)));
    assert_eq!(store.figures().expirations, 200);
}

#[tokio::test(start_paused = true)]
async fn an_absence_leaves_within_its_own_time_to_live() {
    let store = store(CacheOptions::default());
    warm(&store, "nobody").await;
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(!is_cached(&store, "nobody"));
}

#[tokio::test]
async fn ids_that_do_not_exist_push_out_no_record() {
    let store = store(CacheOptions { max_bytes: 1 << 20, max_entries: 2000, ..CacheOptions::default() });
    commit(&store, (0..1000).map(|number| put(&format!("hot-{number}"), "x")).collect()).await;
    for number in 0..1000 {
        warm(&store, &format!("hot-{number}")).await;
    }
    for number in 0..100_000 {
        assert_eq!(store.get(&id(format!("missing-{number}"))).await, Ok(None));
    }
    let figures = store.figures();
    assert_eq!((figures.entries, figures.evictions), (1000, 0));
    assert!(figures.negative_entries <= 65_536);
    assert!((0..1000).all(|number| is_cached(&store, &format!("hot-{number}"))));
}

#[tokio::test]
async fn pages_and_imports_push_out_nothing_and_leave_nothing_behind() {
    let store = store(CacheOptions { max_entries: 100, ..CacheOptions::default() });
    commit(&store, (0..50).map(|number| put(&format!("hot-{number}"), "x")).collect()).await;
    for number in 0..50 {
        warm(&store, &format!("hot-{number}")).await;
    }
    commit(&store, (0..5000).map(|number| put(&format!("imported-{number}"), "x")).collect()).await;
    let page = store.list(&Scope::All, None, PageBounds { max_records: 5050, max_bytes: usize::MAX }).await.unwrap();
    assert_eq!(page.records.len(), 5050);
    let figures = store.figures();
    assert_eq!((figures.entries, figures.negative_entries, figures.evictions), (50, 0, 0));
    assert!((0..50).all(|number| is_cached(&store, &format!("hot-{number}"))));
}

#[tokio::test]
async fn a_scan_of_one_off_ids_leaves_the_hot_set_in_place() {
    let store = store(CacheOptions { max_entries: 200, ..CacheOptions::default() });
    let hot: Vec<_> = (0..50).map(|number| format!("hot-{number}")).collect();
    commit(&store, hot.iter().map(|key| put(key, "old")).collect()).await;
    commit(&store, (0..10_000).map(|number| put(&format!("cold-{number}"), "x")).collect()).await;
    for key in hot.iter().chain(&hot) {
        store.get(&id(key)).await.unwrap();
    }
    let scan = async |numbers: std::ops::Range<u32>| {
        let ids: Vec<_> = numbers.map(|number| id(format!("cold-{number}"))).collect();
        for id in &ids[..ids.len() / 2] {
            assert!(store.get(id).await.unwrap().is_some());
        }
        let rest = store.get_many(&ids[ids.len() / 2..]).await.unwrap();
        assert!(rest.iter().all(Option::is_some));
    };
    scan(0..4000).await;
    assert!(hot.iter().all(|key| is_cached(&store, key)));
    for key in &hot {
        commit(&store, vec![put(key, "new")]).await;
    }
    scan(4000..10_000).await;
    for key in &hot {
        assert!(is_cached(&store, key), "a write does not make {key} a newcomer");
        assert_eq!(name(&store, key).await.as_deref(), Some("new"));
    }
    assert_eq!(store.figures().entries, 200);
}

#[tokio::test]
async fn a_write_refreshes_only_what_was_in_the_cache() {
    let store = store(CacheOptions::default());
    commit(&store, vec![put("read", "old"), put("unread", "old")]).await;
    for key in ["read", "created"] {
        warm(&store, key).await;
    }
    commit(&store, vec![put("read", "new"), put("unread", "new"), put("created", "new")]).await;
    for key in ["read", "created"] {
        let Lookup::Hit(record) = store.cache().lookup(key) else { panic!("{key} was in the cache") };
        assert_eq!(record.decode().unwrap().display_name, "new");
    }
    assert_eq!(store.cache().lookup("unread"), Lookup::Miss);
    commit(&store, vec![Write::delete(id("read"), Precondition::None)]).await;
    assert_eq!(store.cache().lookup("read"), Lookup::Absent);
}

#[tokio::test]
async fn of_several_writes_of_one_id_in_a_group_the_last_wins() {
    let store = store(CacheOptions::default());
    commit(&store, vec![put("a", "0"), put("b", "0"), put("c", "0")]).await;
    for key in ["a", "b", "c"] {
        warm(&store, key).await;
    }
    let delete = |key| Write::delete(id(key), Precondition::None);
    let group = vec![put("a", "1"), put("b", "1"), delete("c"), put("a", "2"), delete("b"), put("c", "2")];
    commit(&store, group).await;
    for (key, expected) in [("a", Some("2")), ("b", None), ("c", Some("2"))] {
        assert!(is_cached(&store, key));
        assert_eq!(name(&store, key).await.as_deref(), expected, "{key}");
    }
    warm(&store, "d").await;
    assert_eq!(name(&store, "a").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_cache_of_no_size_caches_nothing_and_works() {
    for options in [
        CacheOptions { max_bytes: 0, ..CacheOptions::default() },
        CacheOptions { max_entries: 0, ..CacheOptions::default() },
    ] {
        let store = store(options);
        commit(&store, vec![put("a", "1")]).await;
        for expected in ["1", "2", "3"] {
            assert_eq!(name(&store, "a").await.as_deref(), Some(expected));
            assert_eq!(name(&store, "b").await, None);
            assert_eq!(store.get_many(&[id("b"), id("a")]).await.unwrap().iter().flatten().count(), 1);
            commit(&store, vec![put("a", &(expected.parse::<u8>().unwrap() + 1).to_string())]).await;
        }
        let figures = store.figures();
        assert_eq!((figures.entries, figures.negative_entries, figures.hits, figures.joins), (0, 0, 0, 0));
    }
}

#[tokio::test]
async fn a_record_larger_than_a_shards_share_is_read_but_not_kept() {
    let options = CacheOptions { max_bytes: 8192, ..CacheOptions::default() };
    let store = with_cache(HotCache::with_shards(options, 16));
    let long = "x".repeat(250);
    commit(&store, vec![put("large", &long), put("small", "x")]).await;
    assert_eq!(name(&store, "large").await, Some(long));
    assert_eq!(store.figures().entries, 0);
    assert!(!is_cached(&store, "large"));
    warm(&store, "small").await;
}

#[tokio::test]
async fn the_bound_in_bytes_holds_over_all_shards() {
    let options = CacheOptions { max_bytes: 64 << 10, ..CacheOptions::default() };
    let store = with_cache(HotCache::with_shards(options, 4));
    commit(&store, (0..1000).map(|number| put(&format!("user-{number}"), "x")).collect()).await;
    for number in 0..1000 {
        warm(&store, &format!("user-{number}")).await;
        assert!(store.figures().bytes <= 64 << 10);
    }
    let figures = store.figures();
    assert!(figures.evictions > 0 && figures.entries > 100, "{figures:?}");
    assert_eq!(figures.entries + figures.evictions, 1000);
}

#[tokio::test(start_paused = true)]
async fn the_figures_tell_hits_misses_and_ages() {
    let store = store(CacheOptions::default());
    commit(&store, vec![put("a", "1")]).await;
    let ids = [id("a"), id("b")];
    store.get(&ids[0]).await.unwrap();
    store.get_many(&ids).await.unwrap();
    tokio::time::advance(Duration::from_secs(4)).await;
    store.get_many(&ids).await.unwrap();
    let figures = store.figures();
    assert_eq!((figures.misses, figures.hits, figures.negative_hits), (2, 2, 1));
    assert_eq!((figures.entries, figures.negative_entries), (1, 1));
    assert_eq!(figures.mean_age_at_hit, Duration::from_secs(2));
    assert_eq!(figures.oldest_next_victim_age, Duration::from_secs(4));
    assert!(figures.bytes > 0 && figures.bytes < figures.capacity_bytes);
}

#[tokio::test]
async fn a_closed_store_answers_nothing_from_its_cache() {
    let store = store(CacheOptions::default());
    commit(&store, vec![put("a", "1")]).await;
    warm(&store, "a").await;
    store.close().await.unwrap();
    assert_eq!(store.get(&id("a")).await, Err(StoreError::Closed));
    assert_eq!(store.get_many(&[id("a")]).await, Err(StoreError::Closed));
    assert_eq!(store.get_many(&[]).await, Err(StoreError::Closed));
    assert_eq!(store.cache().lookup("a"), Lookup::Miss);
    assert_eq!(store.figures().entries, 0);
}

#[test]
fn ids_that_are_there_twice_are_found_whatever_their_hashes() {
    let ids: Vec<_> = (0..300).map(|number| number.to_string()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).chain(["7", "299"]).collect();
    for spread in [0, 1, 7, u64::MAX / 3] {
        let mut seen = super::hot_cache::Distinct::new(&ids);
        let new: Vec<_> = (0..ids.len())
            .map(|place| seen.is_new(place, ids[place].parse::<u64>().unwrap().wrapping_mul(spread)))
            .collect();
        assert!(new[..300].iter().all(|new| *new) && new[300..].iter().all(|new| !new));
    }
}

/// A change that removes a profile, as an engine announces it.
fn removal(key: &str) -> Change {
    Change {
        revision: Revision(7),
        id: id(key),
        record: None,
        previous_bytes: Some(1),
        previous_revision: Some(Revision(1)),
        previous_index_key: None,
        trace: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_beside_a_change_waits_until_it_is_visible() {
    let store = store(CacheOptions::default());
    commit(&store, vec![put("a", "old")]).await;
    warm(&store, "a").await;
    let change = removal("a");
    store.cache().before_apply(std::slice::from_ref(&change));
    let misses = store.figures().misses;
    let mut gets = Vec::new();
    for _ in 0..3 {
        let mut get = Box::pin(name(&store, "a"));
        assert!(futures_util::poll!(&mut get).is_pending(), "the store inside is not asked");
        gets.push(get);
    }
    store.cache().after_apply(&[change]);
    for get in gets {
        assert_eq!(get.now_or_never(), Some(None), "it is answered from the cache");
    }
    assert_eq!(store.figures().misses, misses);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_never_becomes_visible_is_waited_for_once_and_not_for_long() {
    let store = store(CacheOptions::default());
    commit(&store, vec![put("a", "old")]).await;
    warm(&store, "a").await;
    let change = removal("a");
    store.cache().before_apply(&[change]);
    let begun = tokio::time::Instant::now();
    assert_eq!(name(&store, "a").await.as_deref(), Some("old"), "the store inside is asked in the end");
    assert_eq!(begun.elapsed().as_millis(), 100);
    assert_eq!(name(&store, "a").now_or_never().flatten().as_deref(), Some("old"));
}
