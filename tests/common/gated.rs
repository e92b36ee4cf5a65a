//! An engine that can be held at the points where coherence is decided.
//!
//! A memory store decides the writes; what reads see is a second map, changed in steps with a gate between
//! each two. Other than in the memory engine, reads go on while a commit is held, and several commits can be
//! under way and finish in any order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use profilestore::cache::CachedStore;
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::model::{Change, Domain, ProfileId, Record, Revision};
use profilestore::store::{
    ChangeBounds, ChangePage, Commit, CommitObserver, Cursor, DomainOrder, DomainPage, Outcomes, Page, PageBounds,
    Position, Scope, Store, StoreError,
};
use tokio::sync::oneshot;

use super::soon;
use super::stacks::cache;

/// Where a call can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A read has begun and has not looked yet.
    BeforeRead,
    /// A read has looked and has not returned yet.
    AfterRead,
    /// A commit was announced to the observer and is not visible yet.
    Announced,
    /// A commit is visible and the observer does not know yet.
    Applied,
    /// A commit is made and the observer knows; the writer does not.
    Settled,
}

/// A gate that holds the first call to come to its point.
pub struct Hold {
    reached: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

impl Hold {
    /// Waits until a call stands at the gate.
    pub async fn reached(&mut self) {
        soon(&mut self.reached).await.unwrap();
    }

    /// Lets it go on.
    pub fn release(self) {
        // Nobody may be there any more.
        let _ = self.release.send(());
    }
}

struct ClosedGate {
    point: Point,
    reached: oneshot::Sender<()>,
    release: oneshot::Receiver<()>,
}

/// The engine.
pub struct GatedStore {
    decider: MemoryStore,
    decided: Arc<Decided>,
    /// Keeps a decision and the taking of its changes together.
    deciding: tokio::sync::Mutex<()>,
    visible: Mutex<BTreeMap<ProfileId, Visible>>,
    observer: Arc<dyn CommitObserver>,
    gates: Mutex<VecDeque<ClosedGate>>,
    failures: Mutex<VecDeque<StoreError>>,
    loads: AtomicU64,
    /// Give way to others at every point.
    restless: bool,
}

/// The newest change of a profile that was made visible; deletes are kept for their revision.
struct Visible {
    revision: Revision,
    record: Option<Record>,
}

/// Takes the changes that the memory store decided.
#[derive(Default)]
struct Decided(Mutex<Vec<Change>>);

impl CommitObserver for Decided {
    fn before_apply(&self, _: &[Change]) {}

    fn after_apply(&self, changes: &[Change]) {
        self.0.lock().extend_from_slice(changes);
    }
}

/// A gated engine behind a cache.
pub fn gated_and_cached(restless: bool) -> Arc<CachedStore<GatedStore>> {
    let cache = cache();
    Arc::new(CachedStore::new(GatedStore::new(cache.clone(), restless), cache))
}

impl GatedStore {
    pub fn new(observer: Arc<dyn CommitObserver>, restless: bool) -> Self {
        let decided = Arc::new(Decided::default());
        Self {
            decider: MemoryStore::new(EngineRules::default(), decided.clone()),
            decided,
            deciding: tokio::sync::Mutex::default(),
            visible: Mutex::default(),
            observer,
            gates: Mutex::default(),
            failures: Mutex::default(),
            loads: AtomicU64::new(0),
            restless,
        }
    }

    /// Holds the next call that comes to a point and that no earlier gate holds.
    pub fn hold(&self, point: Point) -> Hold {
        let (reached, was_reached) = oneshot::channel();
        let (release, released) = oneshot::channel();
        self.gates.lock().push_back(ClosedGate { point, reached, release: released });
        Hold { reached: was_reached, release }
    }

    /// Lets the next read fail.
    pub fn fail_next_read(&self, error: StoreError) {
        self.failures.lock().push_back(error);
    }

    /// The number of calls of get and get_many that came this far.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    async fn pass(&self, point: Point) {
        if self.restless {
            for _ in 0..rand::random_range(0..3) {
                tokio::task::yield_now().await;
            }
        }
        let gate = {
            let mut gates = self.gates.lock();
            let first = gates.iter().position(|gate| gate.point == point);
            first.and_then(|index| gates.remove(index))
        };
        if let Some(gate) = gate {
            let _ = gate.reached.send(());
            // A hold that was dropped holds no longer.
            let _ = gate.release.await;
        }
    }

    fn apply(&self, changes: &[Change]) {
        let mut visible = self.visible.lock();
        for change in changes {
            let (revision, record) = (change.revision, change.record.clone());
            let newest = visible.entry(change.id.clone()).or_insert(Visible { revision, record: None });
            if revision >= newest.revision {
                *newest = Visible { revision, record };
            }
        }
    }

    fn all(&self, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        let visible = self.visible.lock();
        visible.values().filter_map(|newest| newest.record.clone()).filter(wanted).collect()
    }

    fn look(&self, id: &ProfileId) -> Option<Record> {
        self.visible.lock().get(id).and_then(|newest| newest.record.clone())
    }
}

impl Store for GatedStore {
    async fn get(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        Ok(self.get_many(std::slice::from_ref(id)).await?.pop().flatten())
    }

    async fn get_many(&self, ids: &[ProfileId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.pass(Point::BeforeRead).await;
        let records = ids.iter().map(|id| self.look(id)).collect();
        self.pass(Point::AfterRead).await;
        let failure = self.failures.lock().pop_front();
        failure.map_or(Ok(records), Err)
    }

    async fn commit(&self, commit: Commit) -> Result<Outcomes, StoreError> {
        let deciding = self.deciding.lock().await;
        let outcomes = self.decider.commit(commit).await?;
        let changes = std::mem::take(&mut *self.decided.0.lock());
        if changes.is_empty() {
            return Ok(outcomes);
        }
        // Changes are announced in the order of their revisions.
        self.observer.before_apply(&changes);
        drop(deciding);
        self.pass(Point::Announced).await;
        self.apply(&changes);
        self.pass(Point::Applied).await;
        self.observer.after_apply(&changes);
        self.pass(Point::Settled).await;
        Ok(outcomes)
    }

    /// Everything of a scope at once. Reads of domains come by the gates of reads.
    async fn list(&self, scope: &Scope, after: Option<&Cursor>, _: PageBounds) -> Result<Page, StoreError> {
        assert!(after.is_none(), "a gated store lists everything at once");
        if *scope == Scope::All {
            return Ok(Page { records: self.all(|_| true), next: None });
        }
        let prefix = scope.key_prefix();
        self.pass(Point::BeforeRead).await;
        let mut records = self.all(|record| record.index_key_bytes().starts_with(&prefix));
        records.sort_by(|one, other| one.index_key_bytes().cmp(other.index_key_bytes()));
        self.pass(Point::AfterRead).await;
        Ok(Page { records, next: None })
    }

    async fn list_domains(
        &self,
        parent: Option<&Domain>,
        order: DomainOrder,
        after: Option<&Cursor>,
        max_domains: usize,
    ) -> Result<DomainPage, StoreError> {
        self.decider.list_domains(parent, order, after, max_domains).await
    }

    async fn count(&self, scope: &Scope) -> Result<u64, StoreError> {
        self.decider.count(scope).await
    }

    async fn changes_after(&self, after: &Position, bounds: ChangeBounds) -> Result<ChangePage, StoreError> {
        self.decider.changes_after(after, bounds).await
    }

    super::forward::forward_log_and_state_to!(decider);
}
