//! The seam over the tree and the committer.

mod pools;
mod reindex;

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};

use super::backed_up::BackedUp;
use super::committer::{Committer, QueueBounds};
use super::data_dir::DataDir;
use super::doubt::Doubt;
use super::figures::{Operation, SledFigures};
use super::head::Head;
use super::holds::Holds;
use super::maintenance::Maintenance;
use super::open::{self, OpenError, SledOptions};
use super::pacer::{Pacer, Stopper};
use super::scan_pool::{Cancelled, ScanPool};
use super::snapshotter::Snapshot;
use super::tree::Tree;
use super::verify::Verification;
use crate::engine::commit_log::{LogReader, ReadError};
use crate::engine::decision::CurrentState;
use crate::engine::durable_file;
use crate::model::{Domain, DomainKey, ProfileId, Record};
use crate::store::{
    Backup, ChangeBounds, ChangePage, Commit, CommitObserver, Corruption, Cursor, DomainOrder, DomainPage, Hold,
    HoldName, Outcomes, Page, PageBounds, Position, Scope, Store, StoreError, StoreState, StoreStatus, Totals,
    VerifyProgress, VerifyReport,
};

/// Up to this many ids are looked up where the caller runs; a look-up takes microseconds.
const IN_PLACE_IDS: usize = 16;
/// Up to this many rows of a page in index order are read where the caller runs: they lie in a few neighbouring leaves,
/// and to hand the page to another thread and back would cost more than to read it (78 us of CPU for a page of 100
/// with, 127 us without). Rows in the order of ids lie all over the tree and may each need the disk.
const IN_PLACE_ROWS: usize = 100;
/// How many look-ups of more ids, and counts of the directory's bytes, run at a time, beside the scans: a few slow scans must
/// not hold up those who know what they want.
const RUNNING_LOOK_UPS: u32 = 4;
/// Reads of the log that run at a time, each of one page: near its head, and as many elsewhere, so that those who
/// catch up do not hold up those who are there.
const RUNNING_LOG_READS: u32 = 2;
/// How many changes before the head are near.
const NEAR_HEAD: u64 = 65_536;
/// Reads of the log that wait. Each follower has one at most, and their number has a bound of its own.
const WAITING_LOG_READS: usize = 65_536;

/// A store on disk.
pub struct SledStore {
    /// Guards the tree against being closed during a look-up. `None` after the close.
    tree: RwLock<Option<Arc<Tree>>>,
    committer: Arc<Committer>,
    maintenance: Arc<Maintenance>,
    scans: ScanPool,
    head: Arc<Head>,
    log_reader: Arc<LogReader>,
    holds: Arc<Holds>,
    near_log_reads: ScanPool,
    far_log_reads: ScanPool,
    /// Looks at what the log's directory has: watchers may all ask at once, and do not stand in line with those who read.
    log_look_ups: ScanPool,
    look_ups: ScanPool,
    /// A check of everything takes long and must not keep scans waiting; there is one at a time.
    verifications: ScanPool,
    /// Ends the check at the close.
    closing: Stopper,
    backups: Arc<Semaphore>,
    doubt: Doubt,
    /// As of the last time that they could be read.
    last_totals: Mutex<Totals>,
    figures: Arc<SledFigures>,
    /// The lock on the directory; given up at the close.
    data_dir: Mutex<Option<DataDir>>,
}

impl SledStore {
    /// Opens a data directory, recovering what a crash left. `observer` is told of every commit.
    pub async fn open(options: SledOptions, observer: Arc<dyn CommitObserver>) -> Result<Self, OpenError> {
        let (running_scans, waiting_scans) = (options.running_scans, options.waiting_scans);
        let opened =
            tokio::task::spawn_blocking(move || open::open(&options, observer)).await.unwrap_or_else(|error| {
                Err(StoreError::Failed { cause: format!("opening ended early: {error}") }.into())
            })?;
        let pool = |running, waiting| ScanPool::new(running, waiting).watched(opened.committer.long_reads());
        let scans = pool(running_scans, waiting_scans);
        let look_ups = pool(RUNNING_LOOK_UPS, waiting_scans);
        let near_log_reads = pool(RUNNING_LOG_READS, WAITING_LOG_READS);
        let far_log_reads = pool(RUNNING_LOG_READS, WAITING_LOG_READS);
        let log_look_ups = pool(RUNNING_LOG_READS, WAITING_LOG_READS);
        Ok(Self {
            tree: RwLock::new(Some(opened.tree)),
            committer: Arc::new(opened.committer),
            maintenance: Arc::new(opened.maintenance),
            scans,
            head: opened.head,
            log_reader: opened.log_reader,
            holds: opened.holds,
            near_log_reads,
            far_log_reads,
            log_look_ups,
            look_ups,
            verifications: ScanPool::new(1, 0),
            closing: Stopper::default(),
            backups: Arc::new(Semaphore::new(1)),
            doubt: Doubt::new(opened.data_dir.doubt_mark()),
            last_totals: Mutex::default(),
            figures: opened.figures,
            data_dir: Mutex::new(Some(opened.data_dir)),
        })
    }

    /// What it has done since it was opened.
    pub fn figures(&self) -> &SledFigures {
        &self.figures
    }

    /// How many commits and bytes of commits wait, and their bounds.
    pub fn queue(&self) -> (QueueBounds, QueueBounds) {
        let waiting = QueueBounds { commits: self.committer.queued_commits(), bytes: self.committer.queued_bytes() };
        (waiting, self.committer.bounds())
    }

    /// Makes a snapshot now, however short the log is, and trims the log behind it.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.maintenance.snapshot().await
    }

    fn with_tree<T>(&self, read: impl FnOnce(&Tree) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let tree = self.tree.read();
        let Some(tree) = &*tree else { return Err(StoreError::Closed) };
        let _reading = self.committer.reading();
        // sled panics on some damaged pages; the caller should get an error and not a broken connection.
        let read = catch_unwind(AssertUnwindSafe(|| read(tree)))
            .unwrap_or_else(|_| Err(StoreError::Corrupt(Corruption("sled panicked while it read".into()))));
        self.doubt.note(read)
    }

    fn ensure_not_closed(&self) -> Result<(), StoreError> {
        if self.tree.read().is_some() { Ok(()) } else { Err(StoreError::Closed) }
    }

    async fn scan<T: Send + 'static>(
        &self,
        scan: impl FnOnce(&Tree, &Cancelled) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tree = self.tree.read().clone().ok_or(StoreError::Closed)?;
        self.doubt.note(self.scans.run(move |cancelled| scan(&tree, cancelled)).await)
    }

    async fn read_log<T: Send + 'static>(
        &self,
        pool: &ScanPool,
        read: impl FnOnce(&LogReader, &Cancelled) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = self.log_reader.clone();
        pool.run(move |cancelled| Ok(read(&reader, cancelled))).await?.map_err(|error| match error {
            ReadError::Truncated { oldest } => StoreError::Truncated { oldest: self.head.position(oldest) },
            ReadError::Corrupt(what) => StoreError::Corrupt(Corruption(what)),
            ReadError::Io(_) => StoreError::Failed { cause: error.to_string() },
        })
    }
}

impl Store for SledStore {
    async fn get(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        let _timer = self.figures.time(Operation::Get);
        self.with_tree(|tree| tree.record(id))
    }

    async fn get_many(&self, ids: &[ProfileId]) -> Result<Vec<Option<Record>>, StoreError> {
        let _timer = self.figures.time(Operation::GetMany);
        if ids.len() <= IN_PLACE_IDS {
            return self.with_tree(|tree| ids.iter().map(|id| tree.record(id)).collect());
        }
        let ids = ids.to_vec();
        let tree = self.tree.read().clone().ok_or(StoreError::Closed)?;
        let look_up = move |cancelled: &Cancelled| {
            ids.iter()
                .map(|id| {
                    cancelled.check()?;
                    tree.record(id)
                })
                .collect()
        };
        self.doubt.note(self.look_ups.run(look_up).await)
    }

    async fn commit(&self, commit: Commit) -> Result<Outcomes, StoreError> {
        let _timer = self.figures.time(Operation::Commit);
        self.committer.commit(commit).await
    }

    async fn list(&self, scope: &Scope, after: Option<&Cursor>, bounds: PageBounds) -> Result<Page, StoreError> {
        let _timer = self.figures.time(Operation::List);
        if bounds.max_records <= IN_PLACE_ROWS && *scope != Scope::All {
            let never = Cancelled::default();
            return self.with_tree(|tree| tree.list(scope, after, bounds, &never));
        }
        let (scope, after) = (scope.clone(), after.cloned());
        self.scan(move |tree, cancelled| tree.list(&scope, after.as_ref(), bounds, cancelled)).await
    }

    async fn list_domains(
        &self,
        parent: Option<&Domain>,
        order: DomainOrder,
        after: Option<&Cursor>,
        max_domains: usize,
    ) -> Result<DomainPage, StoreError> {
        let _timer = self.figures.time(Operation::ListDomains);
        let (parent, after) = (parent.map(DomainKey::new), after.cloned());
        self.scan(move |tree, cancelled| {
            tree.list_domains(parent.as_ref(), order, after.as_ref(), max_domains, cancelled)
        })
        .await
    }

    async fn count(&self, scope: &Scope) -> Result<u64, StoreError> {
        let _timer = self.figures.time(Operation::Count);
        match scope {
            Scope::All => self.with_tree(|tree| Ok(tree.applied()?.totals.profiles)),
            Scope::Domain(domain) => self.with_tree(|tree| Ok(tree.counters(domain)?.own)),
            Scope::Subtree(domain) => self.with_tree(|tree| Ok(tree.counters(domain)?.subtree)),
            Scope::Email(key) => {
                let key = key.clone();
                self.scan(move |tree, cancelled| tree.count_email(&key, cancelled)).await
            }
        }
    }

    async fn changes_after(&self, after: &Position, bounds: ChangeBounds) -> Result<ChangePage, StoreError> {
        self.ensure_not_closed()?;
        let head = self.head.sequence();
        let through = bounds.through.as_ref().map_or(Ok(head), |through| self.head.sequence_of(through))?;
        let sequence = self.head.sequence_of(after)?;
        if sequence >= through {
            return Ok(ChangePage { changes: Vec::new(), next: *after });
        }
        let _timer = self.figures.time(Operation::Changes);
        let pool = if head - sequence <= NEAR_HEAD { &self.near_log_reads } else { &self.far_log_reads };
        let read = move |reader: &LogReader, cancelled: &Cancelled| {
            reader.read_watched(sequence, through, bounds, &|| cancelled.comes_on())
        };
        let page = self.read_log(pool, read).await?;
        Ok(ChangePage { changes: page.changes, next: self.head.position(page.last_sequence) })
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.ensure_not_closed()?;
        self.head.settled(self.committer.state().subscribe()).await
    }

    async fn oldest_position(&self) -> Result<Position, StoreError> {
        self.ensure_not_closed()?;
        let oldest = self.read_log(&self.log_look_ups, |reader, _| Ok(reader.oldest()?)).await?;
        Ok(self.head.position(oldest))
    }

    async fn hold(&self, name: &HoldName, position: &Position) -> Result<(), StoreError> {
        self.ensure_not_closed()?;
        self.holds.hold(name, position).await
    }

    async fn release_hold(&self, name: &HoldName) -> Result<bool, StoreError> {
        self.holds.release(name).await
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        self.holds.list().await
    }

    fn has_lost_holds(&self) -> bool {
        self.holds.were_lost()
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.watch()
    }

    fn position_of(&self, record: &Record) -> Position {
        self.head.position(record.revision().0)
    }

    fn changes_before(&self, position: &Position) -> Option<u64> {
        self.head.sequence_of(position).ok()
    }

    fn status(&self) -> StoreStatus {
        let read = self.with_tree(|tree| Ok(tree.applied()?.totals));
        let mut last = self.last_totals.lock();
        let totals = read.unwrap_or(*last);
        *last = totals;
        StoreStatus {
            engine: "sled",
            totals,
            queued_commits: self.committer.queued_commits(),
            state: self.committer.state().borrow().clone(),
        }
    }

    async fn disk_bytes(&self) -> Result<u64, StoreError> {
        let dir = match &*self.data_dir.lock() {
            Some(data_dir) => data_dir.path().to_owned(),
            None => return Err(StoreError::Closed),
        };
        let figures = self.figures.clone();
        let count = move |cancelled: &Cancelled| {
            let comes_on = || cancelled.comes_on();
            let looked = figures.look_for_blobs(&dir.join("sled"), &comes_on);
            looked
                .and_then(|()| durable_file::bytes_below(&dir, &comes_on))
                .map_err(|error| StoreError::Failed { cause: format!("the data directory cannot be read: {error}") })
        };
        self.look_ups.run(count).await
    }

    fn watch_state(&self) -> watch::Receiver<StoreState> {
        self.committer.state().subscribe()
    }

    async fn verify_with(&self, progress: VerifyProgress) -> Result<VerifyReport, StoreError> {
        let tree = self.tree.read().clone().ok_or(StoreError::Closed)?;
        let files = match &*self.data_dir.lock() {
            Some(data_dir) => data_dir.files(),
            None => return Err(StoreError::Closed),
        };
        let pacer = Pacer::new(self.closing.clone(), false);
        let verify = move |cancelled: &Cancelled| Verification::new(&tree, files, progress, cancelled, pacer).run();
        self.verifications.try_run(verify).await
    }

    async fn backup(&self) -> Result<Backup, StoreError> {
        let permit = self.backups.clone().try_acquire_owned().map_err(|_| StoreError::Overloaded)?;
        let snapshots = match &*self.data_dir.lock() {
            Some(data_dir) => data_dir.snapshots(),
            None => return Err(StoreError::Closed),
        };
        let Snapshot { sequence, profiles, bytes, .. } = self.maintenance.snapshot().await?;
        // A newer snapshot may remove the file; whoever has it open goes on reading it.
        let opened = tokio::task::spawn_blocking(move || File::open(snapshots.snapshot(sequence))).await;
        let opened = opened.unwrap_or_else(|error| Err(io::Error::other(error)));
        let file = opened.map_err(|error| StoreError::Failed { cause: format!("the snapshot is gone: {error}") })?;
        Ok(Backup::new(sequence, profiles, bytes, BackedUp { file, _permit: permit }))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.closing.stop();
        let (committer, maintenance) = (self.committer.clone(), self.maintenance.clone());
        let closing = tokio::task::spawn_blocking(move || {
            let ended = maintenance.stop();
            committer.close() && ended
        })
        .await;
        self.scans.close().await;
        self.holds.close().await;
        self.near_log_reads.close().await;
        self.far_log_reads.close().await;
        self.log_look_ups.close().await;
        self.look_ups.close().await;
        self.verifications.close().await;
        let tree = self.tree.write().take();
        let data_dir = self.data_dir.lock().take();
        if !matches!(closing, Ok(true)) {
            // sled panics when it is dropped after a failed write. Its files stay as they are until the process
            // ends, and the directory's lock with them.
            std::mem::forget((tree, data_dir));
            let early = StoreError::Failed { cause: "closing the store ended early".into() };
            return Err(self
                .committer
                .ensure_open()
                .err()
                .filter(|error| *error != StoreError::Closed)
                .unwrap_or(early));
        }
        // sled ends its threads and lets go of its files when the last handle is dropped, which blocks.
        let _ = tokio::task::spawn_blocking(move || {
            drop(tree);
            drop(data_dir);
        })
        .await;
        Ok(())
    }
}

impl Drop for SledStore {
    /// A store that was not closed still makes what was accepted and lets go of its files.
    fn drop(&mut self) {
        let ended = self.maintenance.stop();
        if !(self.committer.close() && ended) {
            std::mem::forget(self.tree.get_mut().take());
        }
    }
}
