//! Stores that misbehave, each in one way.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use profilestore::engine::memory::MemoryStore;
use profilestore::model::{Domain, ProfileId, Record, Revision};
use profilestore::store::*;
use tokio::sync::Semaphore;

use crate::common::server::memory_store;

/// What is wrong with a store.
pub enum Fault {
    /// It never answers.
    Hangs,
    /// It fails every call.
    Fails(StoreError),
    /// Its records pass their checks and are not profiles.
    HoldsGarbage,
    /// So many of its next reads of changes panic.
    PanicsOverChanges(AtomicUsize),
    /// Its reads of changes wait, each for one permit.
    WaitsForChanges(Semaphore),
}

/// A store in memory with a fault.
pub struct FaultyStore {
    inner: MemoryStore,
    pub fault: Fault,
}

impl FaultyStore {
    pub fn new(fault: Fault) -> Self {
        Self { inner: memory_store(), fault }
    }

    async fn strike(&self) -> Result<(), StoreError> {
        match &self.fault {
            Fault::Hangs => pending().await,
            Fault::Fails(error) => Err(error.clone()),
            Fault::HoldsGarbage | Fault::PanicsOverChanges(_) | Fault::WaitsForChanges(_) => Ok(()),
        }
    }
}

fn garbage() -> Record {
    Record::from_stored(Bytes::from_static(b"\xff\xff"), 0, Revision(1)).unwrap()
}

impl Store for FaultyStore {
    async fn get(&self, _: &ProfileId) -> Result<Option<Record>, StoreError> {
        self.strike().await?;
        Ok(Some(garbage()))
    }

    async fn get_many(&self, ids: &[ProfileId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.strike().await?;
        Ok(vec![Some(garbage()); ids.len()])
    }

    async fn commit(&self, commit: Commit) -> Result<Outcomes, StoreError> {
        self.strike().await?;
        self.inner.commit(commit).await
    }

    async fn list(&self, _: &Scope, _: Option<&Cursor>, _: PageBounds) -> Result<Page, StoreError> {
        self.strike().await?;
        Ok(Page { records: vec![garbage()], next: None })
    }

    async fn list_domains(
        &self,
        parent: Option<&Domain>,
        order: DomainOrder,
        after: Option<&Cursor>,
        max_domains: usize,
    ) -> Result<DomainPage, StoreError> {
        self.strike().await?;
        self.inner.list_domains(parent, order, after, max_domains).await
    }

    async fn count(&self, scope: &Scope) -> Result<u64, StoreError> {
        self.strike().await?;
        self.inner.count(scope).await
    }

    async fn changes_after(&self, after: &Position, bounds: ChangeBounds) -> Result<ChangePage, StoreError> {
        self.strike().await?;
        if let Fault::PanicsOverChanges(left) = &self.fault {
            let planned = left.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            assert!(planned.is_err(), "as planned");
        }
        if let Fault::WaitsForChanges(permits) = &self.fault {
            permits.acquire().await.unwrap().forget();
        }
        self.inner.changes_after(after, bounds).await
    }

    crate::common::forward::forward_log_and_state_to!(inner);
}
