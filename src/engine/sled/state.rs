//! Opening sled and bringing it up to the log, or finding out that it must be built anew.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::check;
use super::data_dir::DataDir;
use super::flusher::SledFlusher;
use super::group_effect::GroupEffect;
use super::keys::{self, Applied};
use super::open::{CheckAtOpen, OpenError, SledOptions};
use super::proven;
use super::rebuild;
use super::scan_pool::Cancelled;
use super::sync_hook;
use super::tree::{Tree, is_damage, sled_error};
use crate::engine::Point;
use crate::engine::commit_log::{CommitLog, LogError, LogReach};
use crate::engine::decision::CurrentState;
use crate::engine::durable_file;
use crate::engine::snapshot::SnapshotRow;
use crate::model::{Change, CommitTime, ProfileId, Record};
use crate::store::{Corruption, StoreError};

/// Part of the stored format: sled refuses to open a directory with another one. With profiles of up to
/// 16 KiB no item reaches a quarter of it, the size at which sled moves an item to a file it never syncs.
const SLED_SEGMENT_BYTES: usize = 2 * 1024 * 1024;
/// sled reclaims space only in its flusher thread.
const SLED_FLUSH_EVERY_MS: u64 = 500;
/// After a kill sled's own lock can still be held for a moment.
const SLED_LOCK_PATIENCE: Duration = Duration::from_secs(3);
const SLED_LOCK_POLL: Duration = Duration::from_millis(50);

/// The state and the log, at the same sequence.
pub(super) struct State {
    pub tree: Arc<Tree>,
    pub log: CommitLog,
    pub applied: Applied,
    pub replayed_groups: u64,
    /// How long the check of the whole state took, if it was made.
    pub check_took: Option<Duration>,
    /// The state was damaged and was built anew.
    pub healed: bool,
}

/// Why the state is not up to the log.
pub(super) enum Trouble {
    /// It is damaged: a snapshot and the log, which are not, can replace it.
    Damaged(String),
    /// Building it anew would not help.
    Refused(OpenError),
}

impl<E: Into<OpenError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        match error.into() {
            OpenError::Store(StoreError::Corrupt(Corruption(what)))
            | OpenError::Log(LogError::Replay(StoreError::Corrupt(Corruption(what)))) => Self::Damaged(what),
            OpenError::Log(error @ LogError::BeginsLater { .. }) => Self::Damaged(error.to_string()),
            other => Self::Refused(other),
        }
    }
}

/// Opens the state; builds it anew from a snapshot and the log if it is damaged.
pub(super) fn open(data_dir: &DataDir, options: &SledOptions) -> Result<State, OpenError> {
    let dir = data_dir.sled();
    let reach = proven::by_files(data_dir).map_err(|source| data_dir.access("read", source))?;
    let damage = match data_dir.suspicion()? {
        Some(suspicion) => suspicion,
        None => match bring_up(data_dir, &dir, options, reach) {
            Ok(state) => return Ok(state),
            Err(Trouble::Refused(error)) => return Err(error),
            Err(Trouble::Damaged(damage)) => damage,
        },
    };
    let reason = rebuild::Reason::Damage(&damage);
    rebuild::rebuild(data_dir, options, reason, proven::with_state(reach, data_dir, options))?;
    let healed = bring_up(data_dir, &dir, options, reach).map(|state| State { healed: true, ..state });
    healed.map_err(|trouble| match trouble {
        Trouble::Refused(error) => error,
        Trouble::Damaged(cause) => OpenError::Sled { dir, cause },
    })
}

/// One attempt at what is in sled's directory `dir`. Nothing of it stays open after an error.
fn bring_up(data_dir: &DataDir, dir: &Path, options: &SledOptions, reach: LogReach) -> Result<State, Trouble> {
    let is_new = fs::read_dir(dir).map_err(|source| data_dir.access("read", source))?.next().is_none();
    let tree = open_tree(dir, options.sled_cache_bytes)?;
    let attempt = guarded(|| bring_up_tree(data_dir, &tree, is_new, options, reach));
    match attempt {
        Ok((log, applied, replayed_groups, check_took)) => {
            Ok(State { tree, log, applied, replayed_groups, check_took, healed: false })
        }
        Err(trouble) => {
            // A damaged sled may panic once more when it is let go.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(tree)));
            Err(trouble)
        }
    }
}

type BroughtUp = (CommitLog, Applied, u64, Option<Duration>);

fn bring_up_tree(
    data_dir: &DataDir,
    tree: &Tree,
    is_new: bool,
    options: &SledOptions,
    reach: LogReach,
) -> Result<BroughtUp, Trouble> {
    let pass = |point| options.disk.pass(point).map_err(|source| data_dir.access("opened", source));
    pass(Point::SledOpened)?;
    check_sync_hook(tree, sync_hook::sync_count)?;
    let mut applied = tree.applied()?;
    if applied.sequence == 0 && !tree.is_empty()? {
        return Err(Trouble::Damaged("it holds profiles but not how far it has come".into()));
    }
    let mut replayed_groups = 0;
    let log = open_log(data_dir, options, reach, tree, &mut applied, &mut replayed_groups)?;
    pass(Point::Replayed)?;
    if replayed_groups > 0 {
        if log.was_closed_cleanly() && !is_new {
            return Err(Trouble::Damaged("it is behind the log although the store was closed in good order".into()));
        }
        tree.flush()?;
        pass(Point::ReplayFlushed)?;
    }
    let check_due = match options.check_at_open {
        CheckAtOpen::Always => true,
        CheckAtOpen::AfterCrash => !log.was_closed_cleanly() || data_dir.doubt_mark().exists(),
        CheckAtOpen::Never => false,
    };
    let mut check_took = None;
    if check_due || applied.digest.is_none() {
        let started = Instant::now();
        let found = check::check(tree, &applied)?;
        check_took = Some(started.elapsed());
        applied.digest = Some(found);
        durable_file::remove_if_there(&data_dir.doubt_mark()).map_err(|source| data_dir.access("written", source))?;
    }
    pass(Point::StateChecked)?;
    Ok((log, applied, replayed_groups, check_took))
}

/// Opens the log, which must reach what is known of it, and replays what the tree has not seen.
pub(super) fn open_log(
    data_dir: &DataDir,
    options: &SledOptions,
    reach: LogReach,
    tree: &Tree,
    applied: &mut Applied,
    replayed_groups: &mut u64,
) -> Result<CommitLog, OpenError> {
    let log_options = options.log_options();
    let opened = CommitLog::open_to(
        &data_dir.commit_log(),
        data_dir.incarnation(),
        log_options,
        applied.sequence,
        reach,
        |group| {
            *replayed_groups += 1;
            let stopped = |error: io::Error| StoreError::Failed { cause: error.to_string() };
            options.disk.pass(Point::ReplayGroup).map_err(stopped)?;
            apply_rows(tree, applied, group.rows(), group.last_sequence(), group.time)
        },
    );
    opened.map_err(OpenError::Log)
}

/// Applies changes that were committed before, as one batch.
pub(super) fn apply_rows(
    tree: &Tree,
    applied: &mut Applied,
    rows: impl Iterator<Item = SnapshotRow>,
    sequence: u64,
    time: CommitTime,
) -> Result<(), StoreError> {
    // What the batch itself has changed so far, by id.
    let mut pending: HashMap<ProfileId, Option<Record>> = HashMap::new();
    let mut changes = Vec::new();
    for SnapshotRow { id, revision, record } in rows {
        let current = match pending.get(&id) {
            Some(record) => record.clone(),
            None => tree.record(&id)?,
        };
        pending.insert(id.clone(), record.clone());
        changes.push(Change {
            revision,
            id,
            record,
            previous_bytes: current.as_ref().map(Record::profile_len),
            previous_revision: current.as_ref().map(Record::revision),
            previous_index_key: current.as_ref().and_then(Record::index_key),
            trace: None,
        });
    }
    let mut effect = GroupEffect::new(*applied);
    effect.add(tree, &changes)?;
    *applied = tree.apply(tree.prepare(&effect, &changes, sequence, time))?;
    Ok(())
}

/// Runs what may panic inside sled.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Trouble::Damaged("sled panicked on it".into())))
}

/// Opens sled in a directory.
pub(super) fn open_tree(dir: &Path, cache_bytes: u64) -> Result<Arc<Tree>, Trouble> {
    let refused =
        |error: io::Error| Trouble::Refused(OpenError::Sled { dir: dir.to_owned(), cause: error.to_string() });
    remove_half_made_snapshots(dir).map_err(refused)?;
    let config = ::sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        .segment_size(SLED_SEGMENT_BYTES)
        .flush_every_ms(Some(SLED_FLUSH_EVERY_MS));
    let deadline = Instant::now() + SLED_LOCK_PATIENCE;
    let flusher = SledFlusher::before_open();
    let db = loop {
        // sled panics on some damaged files.
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => break db,
            Ok(Err(::sled::Error::Io(error))) if is_lock_conflict(&error) => {
                if Instant::now() >= deadline {
                    return Err(refused(error));
                }
                std::thread::sleep(SLED_LOCK_POLL);
            }
            Ok(Err(error)) if is_damage(&error) => {
                return Err(Trouble::Damaged(format!("sled cannot open it: {}", without_content(&error))));
            }
            Ok(Err(error)) => {
                let cause = error.to_string();
                return Err(Trouble::Refused(OpenError::Sled { dir: dir.to_owned(), cause }));
            }
            Err(_) => return Err(Trouble::Damaged("sled panicked while it opened it".into())),
        }
    };
    // sled syncs neither its configuration nor its directory.
    durable_file::sync_dir_and_files(dir).map_err(refused)?;
    Ok(Arc::new(Tree::new(db, flusher)))
}

/// What an error of sled says, without what might be a key.
fn without_content(error: &::sled::Error) -> String {
    match error {
        ::sled::Error::CollectionNotFound(_) => "a collection is missing".into(),
        ::sled::Error::Corruption { .. } => "a page is damaged".into(),
        other => other.to_string(),
    }
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

/// `sync_count` counts the syncs that came through the hook.
fn check_sync_hook(tree: &Tree, sync_count: impl Fn() -> u64) -> Result<(), OpenError> {
    let before = sync_count();
    let mark: u64 = rand::random();
    tree.db().insert(keys::SYNC_CHECK, &mark.to_le_bytes()).map_err(sled_error)?;
    tree.flush()?;
    if sync_count() > before { Ok(()) } else { Err(OpenError::SyncHookMissing) }
}

impl Tree {
    /// Whether there is no id, no index entry and no counter in it.
    fn is_empty(&self) -> Result<bool, StoreError> {
        let never = Cancelled::default();
        for kind in [keys::ID, keys::ENTRY, keys::DOMAIN] {
            if self.range(kind, &Bound::Included(Vec::new()), Vec::new(), &never).next().transpose()?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE_BYTES: u64 = 1024 * 1024;

    fn opened(dir: &Path) -> Arc<Tree> {
        open_tree(dir, CACHE_BYTES).unwrap_or_else(|_| panic!("it was refused"))
    }

    #[test]
    fn a_program_in_which_sleds_syncs_miss_the_hook_does_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let tree = opened(dir.path());
        check_sync_hook(&tree, sync_hook::sync_count).unwrap();
        // The hook is not linked: nobody counts.
        let refused = check_sync_hook(&tree, || 7).unwrap_err();
        assert!(matches!(refused, OpenError::SyncHookMissing), "{refused}");
        assert!(refused.to_string().contains("would not survive a power cut"));
    }

    #[test]
    fn what_sled_leaves_of_a_snapshot_when_it_is_killed_while_it_opens_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = opened(dir.path());
        tree.db().insert("key", "value").unwrap();
        tree.flush().unwrap();
        drop(tree);
        let left = dir.path().join("snap.000000000000002A.generating");
        fs::write(&left, "half of it").unwrap();
        // The control: sled alone never opens again.
        for _ in 0..2 {
            let alone = ::sled::Config::new().path(dir.path()).segment_size(SLED_SEGMENT_BYTES);
            let opened = catch_unwind(AssertUnwindSafe(|| alone.open().map(|_| ())));
            assert!(!matches!(opened, Ok(Ok(()))), "sled opens with it");
            assert!(left.exists());
        }
        let tree = opened(dir.path());
        assert!(!left.exists());
        assert_eq!(tree.db().get("key").unwrap().unwrap(), "value");
    }
}
