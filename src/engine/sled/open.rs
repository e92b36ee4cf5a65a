//! Opening a data directory: lock, recovery, checks.
//!
//! The order is the recovery: take the lock; give up the ballast if the disk is full; then `state.rs`: remove what a
//! crash during sled's own start leaves, which would make sled refuse; open sled; check that its syncs are real;
//! replay the log from where sled stopped; check the whole state if it may be damaged; if it is, `rebuild.rs`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::committer::{Committer, CommitterParts, QueueBounds};
use super::data_dir::{DataDir, DataDirError};
use super::doubt::Doubt;
use super::figures::{OpenFigures, SledFigures};
use super::group_effect::GroupEffect;
use super::head::Head;
use super::holds::Holds;
use super::maintenance::{Maintenance, MaintenanceParts, SnapshotPolicy};
use super::space::{Ballast, SpaceBounds, SpaceWatch};
use super::state::{self, State};
use super::tree::Tree;
use crate::engine::commit_log::{LogError, LogOptions, LogReader, Retention, was_left_open};
use crate::engine::request_memory::{MAX_REMEMBERED, REMEMBERED_FOR, RequestMemory};
use crate::engine::{Disk, EngineRules, Point};
use crate::model::Canonicalization;
use crate::store::{CommitObserver, StoreError};

const GIB: u64 = 1024 * 1024 * 1024;

/// When the whole state is checked while the store opens. It costs about as long as reading all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckAtOpen {
    /// Always.
    Always,
    /// After the store was not closed in good order: sled can lose a damaged message at recovery without a word.
    AfterCrash,
    /// Never; only to get at what is left of a store.
    Never,
}

/// How to open a store on disk.
#[derive(Debug, Clone)]
pub struct SledOptions {
    /// The data directory.
    pub path: PathBuf,
    /// The settings that decide what the index holds.
    pub canonicalization: Canonicalization,
    /// The rules of decisions.
    pub rules: EngineRules,
    /// sled's own page cache, counted in bytes on disk; the memory is several times more.
    pub sled_cache_bytes: u64,
    /// The bounds of the commit queue.
    pub queue: QueueBounds,
    /// How many scans run at a time.
    pub running_scans: u32,
    /// How many scans may wait.
    pub waiting_scans: usize,
    /// How long a sync or a flush may take until the store fails for a restart.
    pub sync_timeout: Duration,
    /// When the whole state is checked at open.
    pub check_at_open: CheckAtOpen,
    /// When snapshots are made and how much of the log is kept.
    pub snapshots: SnapshotPolicy,
    /// How much of the log is kept for those who hold it, in bytes; with more the oldest of it goes all the same.
    pub held_log_bytes: u64,
    /// The room there should be on the disk.
    pub space: SpaceBounds,
    /// The length of a segment of the commit log.
    pub log_segment_bytes: u64,
    /// What syncs the log and says how much room there is.
    pub disk: Disk,
    /// Open although the index was built with other settings, in order to rebuild it.
    pub reindex: bool,
}

impl SledOptions {
    /// The defaults for a data directory, without bounds on the disk's room.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            canonicalization: Canonicalization::default(),
            rules: EngineRules::default(),
            sled_cache_bytes: 192 * 1024 * 1024,
            queue: QueueBounds { commits: 4096, bytes: 64 * 1024 * 1024 },
            running_scans: 4,
            waiting_scans: 1024,
            sync_timeout: Duration::from_secs(30),
            check_at_open: CheckAtOpen::Always,
            snapshots: SnapshotPolicy {
                after_log_bytes: GIB,
                retention: Retention { age: Duration::from_secs(24 * 3600), bytes: GIB },
            },
            held_log_bytes: 4 * GIB,
            space: SpaceBounds::default(),
            log_segment_bytes: 64 * 1024 * 1024,
            disk: Disk::system(),
            reindex: false,
        }
    }

    pub(super) fn log_options(&self) -> LogOptions {
        LogOptions { segment_bytes: self.log_segment_bytes, disk: self.disk.clone() }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// sled cannot be opened.
    #[error(
        "the state in {dir} cannot be opened: {cause}; if the disk is sound and this stays, `profilestore repair` builds the state anew"
    )]
    Sled {
        /// sled's directory.
        dir: PathBuf,
        /// What it said.
        cause: String,
    },
    /// sled's state is damaged, and nothing else gives a whole one.
    #[error(
        "the state in {dir} is damaged ({damage}) and cannot be built anew ({tried}); nothing was changed; restore the directory from a backup"
    )]
    CannotRebuild {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong with the state.
        damage: String,
        /// What was tried and why it did not work.
        tried: String,
    },
    /// sled's state is damaged or a repair was asked for, and the machine did not let another one be built: what is stored
    /// may give a whole one.
    #[error(
        "the state in {dir} has to be built anew ({damage}), and the machine did not let it be ({tried}); nothing was changed; make room or see to the disk, and try again, or move the unreadable snapshot out of the directory and run `profilestore repair`"
    )]
    RebuildFailed {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong with the state, or that a repair was asked for.
        damage: String,
        /// What was tried and why it did not work.
        tried: String,
    },
    /// sled's syncs do not reach the disk in this program.
    #[error(
        "sled's syncs do not go through profilestore's hook, so writes would not survive a power cut; this build must not be used"
    )]
    SyncHookMissing,
    /// The commit log cannot be opened.
    #[error("{0}{remedy}", remedy = log_remedy(.0))]
    Log(#[source] LogError<StoreError>),
    /// The commit log cannot be read for the requests to remember.
    #[error("{0}{remedy}", remedy = log_remedy(.0))]
    RecentRequests(#[source] LogError),
    /// The state cannot be read or brought up to the log.
    #[error("the state cannot be brought up to date: {0}")]
    Store(#[from] StoreError),
    /// A thread cannot be started.
    #[error("the store's threads cannot be started: {0}")]
    Thread(io::Error),
}

/// What to do about a log that cannot be opened.
fn log_remedy<E>(error: &LogError<E>) -> &'static str {
    if let LogError::Corrupt(_) = error {
        "; the log is the truth, and what it has lost nothing else has: put its files back as they were, or restore a backup into a new data directory"
    } else {
        ""
    }
}

impl OpenError {
    /// Whether the machine failed, and not what is stored: another time, or with more room, the same may go well.
    pub(super) fn is_of_machine(&self) -> bool {
        matches!(
            self,
            Self::DataDir(DataDirError::Access { .. })
                | Self::Sled { .. }
                | Self::Thread(_)
                | Self::Log(LogError::Io { .. } | LogError::Replay(StoreError::Failed { .. }))
                | Self::RecentRequests(LogError::Io { .. })
                | Self::Store(StoreError::Failed { .. })
        )
    }
}

/// An open data directory in its parts.
pub(super) struct Opened {
    pub data_dir: DataDir,
    pub tree: Arc<Tree>,
    pub committer: Committer,
    pub maintenance: Maintenance,
    pub head: Arc<Head>,
    pub log_reader: Arc<LogReader>,
    pub holds: Arc<Holds>,
    pub figures: Arc<SledFigures>,
}

/// Opens a data directory. Blocks for as long as recovery takes.
pub(super) fn open(options: &SledOptions, observer: Arc<dyn CommitObserver>) -> Result<Opened, OpenError> {
    let started = Instant::now();
    let mut data_dir = DataDir::open(&options.path, options.canonicalization, options.reindex)?;
    let access = |source| DataDirError::Access { dir: options.path.clone(), action: "opened", source };
    let pass = |point| options.disk.pass(point).map_err(access);
    pass(Point::DirLocked)?;
    let ballast = Ballast::new(data_dir.path(), options.disk.clone(), options.space);
    ballast.release_if_needed().map_err(|source| data_dir.access("read", source))?;
    data_dir.snapshots().prepare().map_err(|source| data_dir.access("written", source))?;
    let left_open = was_left_open(&data_dir.commit_log()).map_err(OpenError::Log)?;
    let State { tree, log, applied, replayed_groups, check_took, healed } = state::open(&data_dir, options)?;
    pass(Point::StateOpened)?;
    data_dir.finish_creation()?;
    if tree.applied()?.digest.is_none() {
        // From here on versions of format 1 cannot read it.
        tree.apply(tree.prepare(&GroupEffect::new(applied), &[], applied.sequence, applied.time))?;
    }
    let mut requests = RequestMemory::default();
    let since = options.rules.clock.now().max(applied.time).saturating_sub(REMEMBERED_FOR);
    for (request, time) in log.recent_requests(since, MAX_REMEMBERED).map_err(OpenError::RecentRequests)? {
        requests.remember(request, time);
    }
    pass(Point::RequestsRead)?;
    if let Err(error) = ballast.take() {
        tracing::warn!(%error, "there is no ballast: a full disk could keep the store from opening");
    }
    tracing::info!(
        profiles = applied.totals.profiles,
        sequence = applied.sequence,
        replayed_groups,
        check_ms = check_took.map(|took| took.as_millis() as u64),
        elapsed_ms = started.elapsed().as_millis() as u64,
        "opened the store"
    );
    let figures = OpenFigures { took: started.elapsed(), replayed_groups, check_took, healed, left_open };
    let figures = Arc::new(SledFigures::new(figures));
    figures.look_for_blobs(&data_dir.sled(), &|| ()).map_err(|source| data_dir.access("read", source))?;
    let checkpoint = Arc::new(AtomicU64::new(applied.sequence));
    let head = Arc::new(Head::new(data_dir.incarnation(), applied.sequence));
    let log_reader = Arc::new(LogReader::new(data_dir.commit_log(), data_dir.incarnation()));
    let holds = Holds::open(data_dir.holds(), data_dir.incarnation(), head.clone(), log_reader.clone());
    let holds = Arc::new(holds.map_err(|source| data_dir.access("read", source))?);
    let space = Arc::new(SpaceWatch::new(ballast.clone(), figures.clone()));
    let parts = CommitterParts {
        log,
        tree: tree.clone(),
        applied,
        head: head.clone(),
        requests,
        incarnation: data_dir.incarnation(),
        rules: options.rules.clone(),
        observer,
        suspect_mark: data_dir.suspect_mark(),
        doubt: Doubt::new(data_dir.doubt_mark()),
        checkpoint: checkpoint.clone(),
        space: space.clone(),
        figures: figures.clone(),
        disk: options.disk.clone(),
    };
    let committer = Committer::start(parts, options.queue, options.sync_timeout).map_err(OpenError::Thread)?;
    let maintenance = Maintenance::start(MaintenanceParts {
        tree: tree.clone(),
        commit_log: data_dir.commit_log(),
        snapshots: data_dir.snapshots(),
        suspect_mark: data_dir.suspect_mark(),
        doubt: Doubt::new(data_dir.doubt_mark()),
        incarnation: data_dir.incarnation(),
        canonicalization: options.canonicalization,
        // While the index is being rebuilt a snapshot would be of two settings.
        snapshots_due: !options.reindex,
        policy: options.snapshots,
        holds: holds.clone(),
        held_log_bytes: options.held_log_bytes,
        clock: options.rules.clock.clone(),
        ballast,
        space,
        checkpoint,
        sync_timeout: options.sync_timeout,
        state: committer.state().clone(),
        figures: figures.clone(),
    })
    .map_err(OpenError::Thread)?;
    Ok(Opened { data_dir, tree, committer, maintenance, head, log_reader, holds, figures })
}
