//! Writers and readers all at once: nobody ever sees a profile go back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use profilestore::cache::CachedStore;
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::model::Record;
use profilestore::store::{NoObserver, Scope, Store};

use crate::common::gated::gated_and_cached;
use crate::common::profiles::*;
use crate::common::stacks::cache;

const PROFILES: usize = 6;
const WRITES_PER_PROFILE: u64 = 600;
/// Every so many writes one is a delete.
const DELETE_EVERY: u64 = 5;
const READERS: usize = 6;

/// What is known of the versions of one profile. Version 0 and every fifth are absences.
#[derive(Default)]
struct Versions {
    /// The largest version that a writer has begun to write.
    issued: AtomicU64,
    /// The largest version that was acknowledged or that anybody has seen.
    floor: AtomicU64,
}

impl Versions {
    fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }

    /// Checks what a read showed that began when the floor was `floor`.
    fn check(&self, floor: u64, seen: Option<&Record>, how: &str) {
        match seen {
            Some(record) => {
                let version: u64 = profile(record).display_name.parse().unwrap();
                assert!(version >= floor, "{how} shows version {version} after {floor}");
                self.floor.fetch_max(version, Ordering::SeqCst);
            }
            None => {
                let deleted = floor.next_multiple_of(DELETE_EVERY);
                let issued = self.issued.load(Ordering::SeqCst);
                assert!(deleted <= issued, "{how} shows nothing after version {floor}; the latest is {issued}");
                self.floor.fetch_max(deleted, Ordering::SeqCst);
            }
        }
    }
}

struct Load<S> {
    store: Arc<S>,
    versions: Vec<Versions>,
}

fn key(number: usize) -> String {
    format!("user-{number}")
}

/// Every version has another address than the one before, now and then none: an engine may keep its record elsewhere.
fn email(number: usize, version: u64) -> String {
    match version % 3 {
        0 => String::new(),
        domain => format!("user-{number}@d{domain}.example"),
    }
}

impl<S: Store> Load<S> {
    /// Writes every version of two neighbours, together now and then.
    async fn write(&self, first: usize) {
        for version in 1..=WRITES_PER_PROFILE {
            let write = |number: usize| {
                self.versions[number].issued.store(version, Ordering::SeqCst);
                match version % DELETE_EVERY {
                    0 => delete(&key(number)),
                    _ => put(&key(number), &email(number, version), &version.to_string()),
                }
            };
            if version % 3 == 0 {
                commit(&*self.store, vec![write(first), write(first + 1)]).await;
            } else {
                commit(&*self.store, vec![write(first)]).await;
                commit(&*self.store, vec![write(first + 1)]).await;
            }
            for number in [first, first + 1] {
                self.versions[number].floor.fetch_max(version, Ordering::SeqCst);
            }
            tokio::task::yield_now().await;
        }
    }

    fn floors(&self) -> Vec<u64> {
        self.versions.iter().map(Versions::floor).collect()
    }

    /// Reads in every way until all versions were written.
    async fn read(&self) {
        let keys: Vec<_> = (0..PROFILES).map(|number| id(key(number))).collect();
        while self.versions.iter().any(|versions| versions.floor() < WRITES_PER_PROFILE) {
            for (number, key) in keys.iter().enumerate() {
                let floor = self.versions[number].floor();
                let record = self.store.get(key).await.unwrap();
                self.versions[number].check(floor, record.as_ref(), "get");
            }
            let floors = self.floors();
            let records = self.store.get_many(&keys).await.unwrap();
            for (number, record) in records.iter().enumerate() {
                self.versions[number].check(floors[number], record.as_ref(), "get_many");
            }
            let floors = self.floors();
            let page = self.store.list(&Scope::All, None, UNBOUNDED).await.unwrap();
            for (number, key) in keys.iter().enumerate() {
                let record = page.records.iter().find(|record| profile(record).id == key.as_str());
                self.versions[number].check(floors[number], record, "list");
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn nobody_sees_a_profile_go_back<S: Store>(store: Arc<S>) {
    let versions = (0..PROFILES).map(|_| Versions::default()).collect();
    let load = Arc::new(Load { store, versions });
    let mut tasks = tokio::task::JoinSet::new();
    for first in (0..PROFILES).step_by(2) {
        let load = load.clone();
        tasks.spawn(async move { load.write(first).await });
    }
    for _ in 0..READERS {
        let load = load.clone();
        tasks.spawn(async move { load.read().await });
    }
    while let Some(ended) = tasks.join_next().await {
        // The first failure ends the test; the others would wait for writers for ever.
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_a_profile_go_back_on_the_memory_engine() {
    let cache = cache();
    let store = Arc::new(CachedStore::new(MemoryStore::new(EngineRules::default(), cache.clone()), cache));
    nobody_sees_a_profile_go_back(store.clone()).await;
    let figures = store.figures();
    assert!(figures.hits > 0 && figures.negative_hits > 0 && figures.misses > 0, "{figures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_a_profile_go_back_on_an_engine_that_gives_way_everywhere() {
    let store = gated_and_cached(true);
    nobody_sees_a_profile_go_back(store.clone()).await;
    let figures = store.figures();
    assert!(figures.hits > 0 && figures.negative_hits > 0 && figures.misses > 0, "{figures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_a_profile_go_back_on_the_sled_engine() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledOptions::new(dir.path()), Arc::new(NoObserver)).await.unwrap();
    nobody_sees_a_profile_go_back(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_a_profile_go_back_on_the_sled_engine_behind_the_cache() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), cache());
    let engine = SledStore::open(SledOptions::new(dir.path()), cache.clone()).await.unwrap();
    let store = Arc::new(CachedStore::new(engine, cache));
    nobody_sees_a_profile_go_back(store.clone()).await;
    let figures = store.figures();
    assert!(figures.hits > 0 && figures.negative_hits > 0 && figures.misses > 0, "{figures:?}");
    store.close().await.unwrap();
}
