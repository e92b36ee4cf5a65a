//! The store inside: a map in which every step is a place where another thread may go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cache::HotCache;
use crate::model::{Change, Domain, ProfileId, Record, Revision};
use crate::store::{
    ChangeBounds, ChangePage, Commit, CommitObserver, Cursor, DomainOrder, DomainPage, Hold, HoldName, Outcomes,
    Page, PageBounds, Position, Scope, Store, StoreError, StoreState, StoreStatus, VerifyProgress, VerifyReport,
};

use super::world::Breach;

pub struct SteppedStore {
    /// The newest change of each id that reads may see; a delete stays for its revision.
    visible: shuttle::sync::Mutex<BTreeMap<ProfileId, (Revision, Option<Record>)>>,
    observer: Arc<HotCache>,
}

impl SteppedStore {
    pub fn new(observer: Arc<HotCache>, records: impl IntoIterator<Item = Change>) -> Self {
        let records = records.into_iter().map(|change| (change.id, (change.revision, change.record)));
        Self { visible: shuttle::sync::Mutex::new(records.collect()), observer }
    }

    /// Announces changes, as an engine does in the order of their revisions.
    pub fn announce(&self, changes: &[Change], breach: Option<Breach>) {
        if breach == Some(Breach::VisibleBeforeAnnounced) {
            self.apply(changes);
        }
        self.observer.before_apply(changes);
    }

    /// Makes announced changes visible.
    pub fn make(&self, changes: &[Change]) {
        self.apply(changes);
        self.observer.after_apply(changes);
    }

    fn apply(&self, changes: &[Change]) {
        let mut visible = self.visible.lock().unwrap();
        for change in changes {
            let newest = visible.entry(change.id.clone()).or_insert((change.revision, None));
            if change.revision >= newest.0 {
                *newest = (change.revision, change.record.clone());
            }
        }
    }

    pub fn look(&self, id: &ProfileId) -> Option<Record> {
        self.visible.lock().unwrap().get(id).and_then(|(_, record)| record.clone())
    }
}

impl Store for SteppedStore {
    async fn get(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        // A caller may go away here.
        shuttle::future::yield_now().await;
        let record = self.look(id);
        shuttle::future::yield_now().await;
        Ok(record)
    }

    async fn get_many(&self, ids: &[ProfileId]) -> Result<Vec<Option<Record>>, StoreError> {
        let mut records = Vec::new();
        for id in ids {
            records.push(self.get(id).await?);
        }
        Ok(records)
    }

    async fn commit(&self, _: Commit) -> Result<Outcomes, StoreError> {
        unreachable!("the threads commit by `make`")
    }

    async fn list(&self, _: &Scope, _: Option<&Cursor>, _: PageBounds) -> Result<Page, StoreError> {
        unreachable!("pages go past the cache")
    }

    async fn list_domains(
        &self,
        _: Option<&Domain>,
        _: DomainOrder,
        _: Option<&Cursor>,
        _: usize,
    ) -> Result<DomainPage, StoreError> {
        unreachable!("pages go past the cache")
    }

    async fn count(&self, _: &Scope) -> Result<u64, StoreError> {
        unreachable!("counts go past the cache")
    }

    async fn changes_after(&self, _: &Position, _: ChangeBounds) -> Result<ChangePage, StoreError> {
        unreachable!("nobody follows")
    }

    async fn head(&self) -> Result<Position, StoreError> {
        unreachable!("nobody follows")
    }

    async fn oldest_position(&self) -> Result<Position, StoreError> {
        unreachable!("nobody follows")
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        unreachable!("nobody follows")
    }

    fn position_of(&self, _: &Record) -> Position {
        unreachable!("nobody follows")
    }

    async fn hold(&self, _: &HoldName, _: &Position) -> Result<(), StoreError> {
        unreachable!("nobody follows")
    }

    async fn release_hold(&self, _: &HoldName) -> Result<bool, StoreError> {
        unreachable!("nobody follows")
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        unreachable!("nobody follows")
    }

    fn status(&self) -> StoreStatus {
        unreachable!("nobody asks")
    }

    async fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn watch_state(&self) -> watch::Receiver<StoreState> {
        unreachable!("nobody asks")
    }

    async fn verify_with(&self, _: VerifyProgress) -> Result<VerifyReport, StoreError> {
        unreachable!("nobody asks")
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
