//! The stacks that the suites run against.
//!
//! A new engine adds its [`Stack`] here and one line per suite (`contract!`, `model!`).

use std::future::Future;
use std::sync::Arc;

use profilestore::cache::{CacheOptions, CachedStore, HotCache};
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::store::{NoObserver, Store};

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
