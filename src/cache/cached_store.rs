//! The store around a store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::figures::CacheFigures;
use super::hot_cache::{Begun, HotCache};
use super::shard::Loaded;
use crate::model::{Domain, ProfileId, Record};
use crate::store::{
    AnswerSource, Backup, ChangeBounds, ChangePage, Commit, Cursor, DomainOrder, DomainPage, Hold, HoldName,
    Outcomes, Page, PageBounds, Position, Scope, Store, StoreError, StoreState, StoreStatus, VerifyProgress,
    VerifyReport, source,
};
use crate::trace::{self, Within};

/// The span of a look-up in the cache.
pub const LOOK_UP: &str = "cache.get";
/// What the span says came of it.
pub const OUTCOME: &str = "profilestore.cache";

/// How long a caller waits for another's load before it loads by itself. A load that takes so long is not
/// getting on, perhaps because nobody polls its future.
pub const JOIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a caller waits for changes under way to become visible before it asks the store all the same. They take some
/// milliseconds, unless the engine has failed between.
const SETTLE_PATIENCE: Duration = Duration::from_millis(100);

/// A store that answers reads of single profiles from a cache where it can.
///
/// It relies on the store inside having been given the same cache as its observer: else it would be stale.
pub struct CachedStore<S> {
    inner: S,
    cache: Arc<HotCache>,
}

impl<S: Store> CachedStore<S> {
    /// Puts a cache before a store. The cache must be the store's observer.
    pub fn new(inner: S, cache: Arc<HotCache>) -> Self {
        Self { inner, cache }
    }

    /// The store inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The cache, for those who ask it without going through the store.
    pub fn cache(&self) -> &Arc<HotCache> {
        &self.cache
    }

    /// What the cache holds and has done.
    pub fn figures(&self) -> CacheFigures {
        self.cache.figures()
    }
}

impl<S: Store> Store for CachedStore<S> {
    async fn get(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        let mut may_wait = true;
        loop {
            let look_up = trace::step(LOOK_UP);
            let begun = self.cache.begin(id, may_wait);
            let (source, word) = match &begun {
                Begun::Known(Some(_)) => (AnswerSource::Cache, "hit"),
                Begun::Known(None) => (AnswerSource::Negative, "negative"),
                Begun::Bypass | Begun::Lead(_) => (AnswerSource::Store, "miss"),
                Begun::Join(_) => (AnswerSource::Store, "joined"),
                Begun::Settling(_) => (AnswerSource::Store, "settling"),
            };
            look_up.end(OUTCOME, word);
            source::note(source);
            match begun {
                Begun::Known(record) => return Ok(record),
                Begun::Settling(settled) => {
                    // The store inside would let this thread sleep until its batch is applied, and everybody on it.
                    // Once: what is changed again and again must not be waited for again and again.
                    may_wait = false;
                    if tokio::time::timeout(SETTLE_PATIENCE, settled).await.is_err() {
                        self.cache.give_settling_up(id);
                    }
                }
                Begun::Bypass => return within("store.get", self.inner.get(id)).await,
                Begun::Lead(leader) => {
                    let loaded = within("store.get", self.inner.get(id)).await;
                    return leader.finish(loaded);
                }
                Begun::Join(result) => match joined(result).await {
                    Joined::Loaded(loaded) => return loaded,
                    Joined::Abandoned => {}
                    Joined::Stalled => return within("store.get", self.inner.get(id)).await,
                },
            }
        }
    }

    async fn get_many(&self, ids: &[ProfileId]) -> Result<Vec<Option<Record>>, StoreError> {
        let look_up = trace::step(LOOK_UP);
        let mut records = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            records.push(match self.cache.begin_one_of_many(id) {
                Ok(known) => known,
                Err(token) => {
                    missing.push((index, token));
                    None
                }
            });
        }
        look_up.end(OUTCOME, if missing.is_empty() { "hit" } else { "miss" });
        // Without ids the store inside is asked all the same: only it knows whether it is closed.
        if missing.is_empty() && !ids.is_empty() {
            source::note(AnswerSource::Cache);
            return Ok(records);
        }
        source::note(AnswerSource::Store);
        let missing_ids: Vec<_> = missing.iter().map(|(index, _)| ids[*index].clone()).collect();
        let loaded = within("store.get_many", self.inner.get_many(&missing_ids)).await?;
        for ((index, token), record) in missing.into_iter().zip(loaded) {
            if let Some(token) = token {
                self.cache.fill(&ids[index], record.as_ref(), token);
            }
            records[index] = record;
        }
        Ok(records)
    }

    async fn commit(&self, commit: Commit) -> Result<Outcomes, StoreError> {
        within("store.commit", self.inner.commit(commit)).await
    }

    async fn list(&self, scope: &Scope, after: Option<&Cursor>, bounds: PageBounds) -> Result<Page, StoreError> {
        source::note(AnswerSource::Store);
        within("store.list", self.inner.list(scope, after, bounds)).await
    }

    async fn list_domains(
        &self,
        parent: Option<&Domain>,
        order: DomainOrder,
        after: Option<&Cursor>,
        max_domains: usize,
    ) -> Result<DomainPage, StoreError> {
        within("store.list_domains", self.inner.list_domains(parent, order, after, max_domains)).await
    }

    async fn count(&self, scope: &Scope) -> Result<u64, StoreError> {
        within("store.count", self.inner.count(scope)).await
    }

    async fn changes_after(&self, after: &Position, bounds: ChangeBounds) -> Result<ChangePage, StoreError> {
        within("store.changes_after", self.inner.changes_after(after, bounds)).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.inner.head().await
    }

    async fn oldest_position(&self) -> Result<Position, StoreError> {
        self.inner.oldest_position().await
    }

    async fn hold(&self, name: &HoldName, position: &Position) -> Result<(), StoreError> {
        self.inner.hold(name, position).await
    }

    async fn release_hold(&self, name: &HoldName) -> Result<bool, StoreError> {
        self.inner.release_hold(name).await
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        self.inner.holds().await
    }

    fn has_lost_holds(&self) -> bool {
        self.inner.has_lost_holds()
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.inner.watch_head()
    }

    fn position_of(&self, record: &Record) -> Position {
        self.inner.position_of(record)
    }

    fn changes_before(&self, position: &Position) -> Option<u64> {
        self.inner.changes_before(position)
    }

    fn status(&self) -> StoreStatus {
        self.inner.status()
    }

    async fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.inner.disk_bytes().await
    }

    fn watch_state(&self) -> watch::Receiver<StoreState> {
        self.inner.watch_state()
    }

    async fn verify_with(&self, progress: VerifyProgress) -> Result<VerifyReport, StoreError> {
        within("store.verify", self.inner.verify_with(progress)).await
    }

    async fn backup(&self) -> Result<Backup, StoreError> {
        within("store.backup", self.inner.backup()).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        // First, so that a close whose future is dropped halfway leaves no record to be met here.
        self.cache.close();
        self.inner.close().await
    }
}

/// The span of what the store inside does, where the call's trace is recorded.
fn within<T, F: Future<Output = Result<T, StoreError>>>(name: &'static str, work: F) -> Within<F> {
    // What else a store may answer is the caller's doing, or passes.
    trace::within(name, work, |result| matches!(result, Err(StoreError::Failed { .. } | StoreError::Corrupt(_))))
}

/// What came of waiting for another caller's load.
enum Joined {
    /// Its result.
    Loaded(Loaded),
    /// It went away without one.
    Abandoned,
    /// It takes too long.
    Stalled,
}

async fn joined(mut result: watch::Receiver<Option<Loaded>>) -> Joined {
    match tokio::time::timeout(JOIN_PATIENCE, result.wait_for(Option::is_some)).await {
        Err(_) => Joined::Stalled,
        Ok(Err(_)) => Joined::Abandoned,
        Ok(Ok(loaded)) => loaded.clone().map_or(Joined::Abandoned, Joined::Loaded),
    }
}
