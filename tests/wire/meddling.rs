//! A store in memory that is written to around every page that is read of it, so that what is a rare race elsewhere
//! happens each time.

use parking_lot::Mutex;
use profilestore::engine::memory::MemoryStore;
use profilestore::model::{Domain, ProfileId, Record, Write};
use profilestore::store::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::common::profiles::{delete, put};
use crate::common::server::memory_store;

/// Each profile that is met is written so often at once.
const VERSIONS: usize = 3;

/// The store. Its profiles are `u0000` and so on; a display name is a version and grows with every write.
pub struct MeddlingStore {
    pub inner: MemoryStore,
    ids: usize,
    random: Mutex<(SmallRng, u64)>,
}

impl MeddlingStore {
    pub fn new(ids: usize, seed: u64) -> Self {
        Self { inner: memory_store(), ids, random: Mutex::new((SmallRng::seed_from_u64(seed), 0)) }
    }

    /// Writes some profiles anywhere, each several times.
    pub async fn meddle(&self, profiles: usize) {
        for _ in 0..profiles {
            let commit = Commit::each(self.writes());
            self.inner.commit(commit).await.unwrap().into_iter().for_each(|outcome| drop(outcome.unwrap()));
        }
    }

    fn writes(&self) -> Vec<Write> {
        let mut guard = self.random.lock();
        let (random, version) = &mut *guard;
        let id = format!("u{:04}", random.random_range(0..self.ids));
        let mut writes = Vec::new();
        for _ in 0..VERSIONS {
            *version += 1;
            let email = ["a@x.example", "b@mail.x.example", "c@y.example", ""][random.random_range(0..4)];
            let deleted = random.random_bool(0.2);
            writes.push(if deleted { delete(&id) } else { put(&id, email, &version.to_string()) });
        }
        writes
    }
}

impl Store for MeddlingStore {
    async fn get(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        self.inner.get(id).await
    }

    async fn get_many(&self, ids: &[ProfileId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.inner.get_many(ids).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcomes, StoreError> {
        self.inner.commit(commit).await
    }

    async fn list(&self, scope: &Scope, after: Option<&Cursor>, bounds: PageBounds) -> Result<Page, StoreError> {
        self.meddle(100).await;
        let page = self.inner.list(scope, after, bounds).await;
        self.meddle(100).await;
        page
    }

    async fn list_domains(
        &self,
        parent: Option<&Domain>,
        order: DomainOrder,
        after: Option<&Cursor>,
        max_domains: usize,
    ) -> Result<DomainPage, StoreError> {
        self.inner.list_domains(parent, order, after, max_domains).await
    }

    async fn count(&self, scope: &Scope) -> Result<u64, StoreError> {
        self.inner.count(scope).await
    }

    async fn changes_after(&self, after: &Position, bounds: ChangeBounds) -> Result<ChangePage, StoreError> {
        self.inner.changes_after(after, bounds).await
    }

    crate::common::forward::forward_log_and_state_to!(inner);
}
