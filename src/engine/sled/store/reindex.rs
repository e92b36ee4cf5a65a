//! Making the index anew, after a setting that its keys depend on has changed.

use super::SledStore;
use crate::engine::sled::open::OpenError;
use crate::model::{Canonicalization, Draft, Outcome, Precondition, ProfileId, UpdateFn, Write, limits};
use crate::store::{Commit, Corruption, PageBounds, Scope, Store, StoreError};

/// How many profiles a rebuild of the index handles in one commit, so that the largest stay under a commit's bound.
const REINDEX_PAGE: usize = 50;

impl SledStore {
    /// Rebuilds every index key by other settings and records them in the data directory. The store must have
    /// been opened with `SledOptions::reindex`. An interrupted run is finished by another one; until then
    /// the directory opens for nothing else. Returns how many profiles changed.
    pub async fn reindex(&self, settings: Canonicalization) -> Result<u64, OpenError> {
        self.set_canonicalization(settings, true)?;
        let bounds = PageBounds { max_records: REINDEX_PAGE, max_bytes: limits::MAX_PAGE_BYTES };
        let (mut after, mut changed) = (None, 0);
        loop {
            let page = self.list(&Scope::All, after.as_ref(), bounds).await?;
            let mut writes = Vec::with_capacity(page.records.len());
            for record in &page.records {
                let profile =
                    record.decode().map_err(|_| StoreError::Corrupt(Corruption("a record is damaged".into())))?;
                let id = ProfileId::parse(&profile.id, "id")
                    .map_err(|_| StoreError::Corrupt(Corruption("a record has no id".into())))?;
                let recompute: UpdateFn =
                    Box::new(move |current| Draft::from_profile(current.unwrap_or_default(), settings, "profile"));
                writes.push(Write::update(id, recompute, Precondition::MustExist, record.profile_len()));
            }
            for outcome in self.commit(Commit::each(writes)).await? {
                match outcome {
                    Ok(Outcome::Stored(_)) => changed += 1,
                    Ok(_) => {}
                    Err(rejection) => {
                        let what = format!("a stored profile is no longer valid: {rejection}");
                        return Err(StoreError::Corrupt(Corruption(what)).into());
                    }
                }
            }
            after = page.next;
            if after.is_none() {
                self.set_canonicalization(settings, false)?;
                return Ok(changed);
            }
        }
    }

    fn set_canonicalization(&self, settings: Canonicalization, reindexing: bool) -> Result<(), OpenError> {
        match self.data_dir.lock().as_mut() {
            Some(data_dir) => Ok(data_dir.set_canonicalization(settings, reindexing)?),
            None => Err(StoreError::Closed.into()),
        }
    }
}
