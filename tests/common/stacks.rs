//! The stacks that the suites run against.
//!
//! A new engine adds its [`Stack`] here and one line per suite (`contract!`, `model!`).

use std::future::Future;
use std::sync::Arc;

use profilestore::cache::{CacheOptions, CachedStore, HotCache};
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::store::{CommitObserver, NoObserver, Store};
use tempfile::TempDir;

/// A store with what it takes to open it again.
pub trait Stack: Sized + Send + Sync + 'static {
    /// The outermost store.
    type Store: Store;

    /// Whether the data outlives the store. A stack that is not durable keeps its store when it is reopened.
    const DURABLE: bool;

    /// A stack with an empty store.
    fn open(rules: EngineRules) -> impl Future<Output = Self> + Send;

    /// The store.
    fn store(&self) -> &Self::Store;

    /// Closes the store and opens its data again.
    fn reopen(self) -> impl Future<Output = Self> + Send;
}

/// The memory engine alone.
pub struct Memory(MemoryStore);

impl Stack for Memory {
    type Store = MemoryStore;
    const DURABLE: bool = false;

    async fn open(rules: EngineRules) -> Self {
        Self(MemoryStore::new(rules, Arc::new(NoObserver)))
    }

    fn store(&self) -> &MemoryStore {
        &self.0
    }

    async fn reopen(self) -> Self {
        self
    }
}

/// The memory engine behind a cache.
pub struct CachedMemory(CachedStore<MemoryStore>);

impl Stack for CachedMemory {
    type Store = CachedStore<MemoryStore>;
    const DURABLE: bool = false;

    async fn open(rules: EngineRules) -> Self {
        let cache = cache();
        Self(CachedStore::new(MemoryStore::new(rules, cache.clone()), cache))
    }

    fn store(&self) -> &CachedStore<MemoryStore> {
        &self.0
    }

    async fn reopen(self) -> Self {
        self
    }
}

/// A cache with several shards however small the tests' data are.
pub fn cache() -> Arc<HotCache> {
    Arc::new(HotCache::with_shards(CacheOptions::default(), 4))
}

/// The sled engine alone.
pub struct Sled {
    store: SledStore,
    rules: EngineRules,
    dir: TempDir,
}

impl Stack for Sled {
    type Store = SledStore;
    const DURABLE: bool = true;

    async fn open(rules: EngineRules) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open_sled(&dir, &rules, Arc::new(NoObserver)).await;
        Self { store, rules, dir }
    }

    fn store(&self) -> &SledStore {
        &self.store
    }

    async fn reopen(self) -> Self {
        self.store.close().await.unwrap();
        let store = open_sled(&self.dir, &self.rules, Arc::new(NoObserver)).await;
        Self { store, ..self }
    }
}

/// The sled engine behind a cache: what the server serves.
pub struct CachedSled {
    store: CachedStore<SledStore>,
    rules: EngineRules,
    dir: TempDir,
}

impl Stack for CachedSled {
    type Store = CachedStore<SledStore>;
    const DURABLE: bool = true;

    async fn open(rules: EngineRules) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache();
        let store = CachedStore::new(open_sled(&dir, &rules, cache.clone()).await, cache);
        Self { store, rules, dir }
    }

    fn store(&self) -> &CachedStore<SledStore> {
        &self.store
    }

    async fn reopen(self) -> Self {
        self.store.close().await.unwrap();
        let cache = cache();
        let store = CachedStore::new(open_sled(&self.dir, &self.rules, cache.clone()).await, cache);
        Self { store, ..self }
    }
}

async fn open_sled(dir: &TempDir, rules: &EngineRules, observer: Arc<dyn CommitObserver>) -> SledStore {
    let options = SledOptions { rules: rules.clone(), ..SledOptions::new(dir.path()) };
    SledStore::open(options, observer).await.unwrap()
}
