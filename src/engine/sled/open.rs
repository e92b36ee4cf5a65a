//! Opening a data directory: lock, recovery, checks.
//!
//! The order is the recovery: take the lock; remove what a crash during sled's own start leaves, which would
//! make sled refuse; open sled; check that its syncs are real; replay the log from where sled stopped.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::committer::{Committer, CommitterParts, QueueBounds};
use super::data_dir::{DataDir, DataDirError};
use super::head::Head;
use super::keys::{self, Applied};
use super::sync_hook;
use super::tree::Tree;
use crate::engine::EngineRules;
use crate::engine::commit_log::{CommitLog, LogError, LogReader, LoggedGroup};
use crate::engine::decision::CurrentState;
use crate::engine::request_memory::{MAX_REMEMBERED, REMEMBERED_FOR, RequestMemory};
use crate::model::{Canonicalization, Change, ProfileId, Record, Revision};
use crate::store::{CommitObserver, StoreError};

/// Part of the stored format: sled refuses to open a directory with another one. With profiles of up to
/// 16 KiB no item reaches a quarter of it, the size at which sled moves an item to a file it never syncs.
const SLED_SEGMENT_BYTES: usize = 2 * 1024 * 1024;
/// sled reclaims space only in its flusher thread.
const SLED_FLUSH_EVERY_MS: u64 = 500;
/// After a kill sled's own lock can still be held for a moment.
const SLED_LOCK_PATIENCE: Duration = Duration::from_secs(3);
const SLED_LOCK_POLL: Duration = Duration::from_millis(50);

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
    /// Open although the index was built with other settings, in order to rebuild it.
    pub reindex: bool,
}

impl SledOptions {
    /// The defaults for a data directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            canonicalization: Canonicalization::default(),
            rules: EngineRules::default(),
            sled_cache_bytes: 256 * 1024 * 1024,
            queue: QueueBounds { commits: 4096, bytes: 64 * 1024 * 1024 },
            running_scans: 4,
            waiting_scans: 1024,
            reindex: false,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// sled cannot be opened.
    #[error("the state in {dir} cannot be opened: {cause}")]
    Sled {
        /// sled's directory.
        dir: PathBuf,
        /// What it said.
        cause: String,
    },
    /// sled's syncs do not reach the disk in this program.
    #[error(
        "sled's syncs do not go through profilestore's hook, so writes would not survive a power cut; this build must not be used"
    )]
    SyncHookMissing,
    /// The commit log cannot be opened.
    #[error(transparent)]
    Log(LogError<StoreError>),
    /// The commit log cannot be read for the requests to remember.
    #[error(transparent)]
    RecentRequests(LogError),
    /// The state cannot be read or brought up to the log.
    #[error("the state cannot be brought up to date: {0}")]
    Store(#[from] StoreError),
    /// A thread cannot be started.
    #[error("the committer cannot be started: {0}")]
    Thread(io::Error),
}

/// An open data directory in its parts.
pub(super) struct Opened {
    pub data_dir: DataDir,
    pub tree: Arc<Tree>,
    pub committer: Committer,
    pub head: Arc<Head>,
    pub log_reader: LogReader,
}

/// Opens a data directory. Blocks for as long as recovery takes.
pub(super) fn open(options: &SledOptions, observer: Arc<dyn CommitObserver>) -> Result<Opened, OpenError> {
    let started = Instant::now();
    let mut data_dir = DataDir::open(&options.path, options.canonicalization, options.reindex)?;
    data_dir.set_suspect_state_aside()?;
    let tree = open_tree(&data_dir.sled(), options.sled_cache_bytes)?;
    check_sync_hook(&tree)?;
    let mut applied = tree.applied()?;
    let (applied_before, mut replayed_groups) = (applied.sequence, 0);
    let log = CommitLog::open(&data_dir.commit_log(), data_dir.incarnation(), applied.sequence, |group| {
        replayed_groups += 1;
        replay(&tree, &mut applied, group)
    })
    .map_err(OpenError::Log)?;
    if replayed_groups > 0 {
        tree.flush()?;
    }
    data_dir.finish_creation()?;
    let mut requests = RequestMemory::default();
    let since = options.rules.clock.now().max(applied.time).saturating_sub(REMEMBERED_FOR);
    for (request, time) in log.recent_requests(since, MAX_REMEMBERED).map_err(OpenError::RecentRequests)? {
        requests.remember(request, time);
    }
    tracing::info!(
        profiles = applied.totals.profiles,
        sequence = applied.sequence,
        replayed_changes = applied.sequence - applied_before,
        replayed_groups,
        elapsed_ms = started.elapsed().as_millis() as u64,
        "opened the store"
    );
    let head = Arc::new(Head::new(data_dir.incarnation(), applied.sequence));
    let log_reader = LogReader::new(data_dir.commit_log(), data_dir.incarnation());
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
    };
    let committer = Committer::start(parts, options.queue).map_err(OpenError::Thread)?;
    Ok(Opened { data_dir, tree, committer, head, log_reader })
}

fn open_tree(dir: &Path, cache_bytes: u64) -> Result<Arc<Tree>, OpenError> {
    let failed = |cause: String| OpenError::Sled { dir: dir.to_owned(), cause };
    remove_half_made_snapshots(dir).map_err(|error| failed(error.to_string()))?;
    let config = ::sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        .segment_size(SLED_SEGMENT_BYTES)
        .flush_every_ms(Some(SLED_FLUSH_EVERY_MS));
    let deadline = Instant::now() + SLED_LOCK_PATIENCE;
    let db = loop {
        // sled panics on some damaged files.
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => break db,
            Ok(Err(::sled::Error::Io(error))) if is_lock_conflict(&error) && Instant::now() < deadline => {
                std::thread::sleep(SLED_LOCK_POLL);
            }
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("sled panicked while it opened its files".into())),
        }
    };
    // sled syncs neither its configuration nor its directory.
    sync_files(dir).map_err(|error| failed(error.to_string()))?;
    Ok(Arc::new(Tree::new(db)))
}

fn is_lock_conflict(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// A crash while sled opens can leave such a file, and sled then refuses to open ever again.
fn remove_half_made_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!("removed a snapshot that sled had not finished when it was stopped");
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn sync_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file() {
            File::open(path)?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

fn check_sync_hook(tree: &Tree) -> Result<(), OpenError> {
    let before = sync_hook::sync_count();
    let mark: u64 = rand::random();
    tree.db().insert(keys::SYNC_CHECK, &mark.to_le_bytes()).map_err(super::tree::sled_error)?;
    tree.flush()?;
    if sync_hook::sync_count() > before { Ok(()) } else { Err(OpenError::SyncHookMissing) }
}

/// Applies a group of the log that the tree has not seen.
fn replay(tree: &Tree, applied: &mut Applied, group: LoggedGroup) -> Result<(), StoreError> {
    // What the group itself has changed so far, by id.
    let mut pending: HashMap<ProfileId, Option<Record>> = HashMap::new();
    let sequence = group.last_sequence();
    let mut changes = Vec::with_capacity(group.changes.len());
    for (logged, sequence) in group.changes.into_iter().zip(group.first_sequence..) {
        let current = match pending.get(&logged.id) {
            Some(record) => record.clone(),
            None => tree.record(&logged.id)?,
        };
        pending.insert(logged.id.clone(), logged.record.clone());
        changes.push(Change {
            revision: Revision(sequence),
            id: logged.id,
            record: logged.record,
            previous_bytes: current.as_ref().map(Record::profile_len),
            previous_index_key: current.as_ref().and_then(Record::index_key),
        });
    }
    *applied = tree.apply(tree.prepare(*applied, &changes, sequence, group.time)?)?;
    Ok(())
}
