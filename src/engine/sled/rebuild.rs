//! Builds sled's state anew from the newest snapshot that is whole and the log behind it.
//!
//! The new state is built beside the old one, flushed, and compared with the totals and the digest of the snapshot;
//! only then it takes the old one's place, and the old one is set aside. If no snapshot with the log behind it, nor the
//! log alone, gives a whole state, nothing has been changed and the store is refused. What the machine does not let be tried, for
//! want of room or because the disk does not answer, may go well another time, and is not taken for damage. A state is whole only if it reaches what
//! the newest snapshot, the mark of the last clean close and the old state prove (`proven.rs`).

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::data_dir::{DataDir, DataDirError};
use super::keys::Applied;
use super::open::{OpenError, SledOptions};
use super::state::{Trouble, apply_rows, guarded, open_log, open_tree};
use super::tree::Tree;
use crate::engine::Point;
use crate::engine::commit_log::LogReach;
use crate::engine::durable_file;
use crate::engine::snapshot::{SnapshotError, SnapshotReader, SnapshotRow};
use crate::store::{Corruption, StoreError};

/// How many records and bytes are applied at once; larger batches break sled's reclaim of memory and space.
const BATCH_RECORDS: usize = 100;
const BATCH_BYTES: usize = 128 * 1024;

/// What was built.
pub(super) struct Built {
    pub applied: Applied,
    pub replayed_groups: u64,
}

/// Why a state is built anew.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reason<'a> {
    /// What is wrong with the present one.
    Damage(&'a str),
    /// Somebody wants it; nothing is known to be wrong.
    Asked,
}

impl Reason<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Damage(damage) => damage,
            Self::Asked => "a repair was asked for",
        }
    }

    fn tell_begin(&self) {
        match self {
            Self::Damage(damage) => tracing::error!(
                damage,
                "sled's state cannot be used; it is built anew from a snapshot and the commit log"
            ),
            Self::Asked => tracing::info!(
                "a repair was asked for: sled's state is built anew from a snapshot and the commit log"
            ),
        }
    }
}

/// Replaces the state in the data directory; returns how many profiles it holds. `reach` says what the log must reach.
pub(super) fn rebuild(
    data_dir: &DataDir,
    options: &SledOptions,
    reason: Reason<'_>,
    reach: LogReach,
) -> Result<u64, OpenError> {
    let started = Instant::now();
    reason.tell_begin();
    let access = |source| DataDirError::Access { dir: data_dir.path().to_owned(), action: "written", source };
    let snapshots = data_dir.snapshots();
    let newest_first = snapshots.list().map_err(access)?.into_iter().rev().map(Some);
    let (mut tried, mut machine_failed) = (Vec::new(), false);
    for sequence in newest_first.chain([None]) {
        let from = sequence.map_or("the log alone".to_owned(), |sequence| format!("the snapshot of {sequence}"));
        match build(data_dir, options, sequence, reach) {
            Ok(Built { applied, replayed_groups }) => {
                let aside = data_dir.replace_state(reason).map_err(access)?;
                options.disk.pass(Point::StateReplaced).map_err(access)?;
                let (sequence, profiles) = (applied.sequence, applied.totals.profiles);
                let set_aside = aside.map(|aside| aside.display().to_string());
                let elapsed_ms = started.elapsed().as_millis() as u64;
                match reason {
                    Reason::Damage(damage) => tracing::warn!(
                        damage,
                        from,
                        replayed_groups,
                        sequence,
                        profiles,
                        set_aside,
                        elapsed_ms,
                        "sled's state was built anew, whole, and the damaged one was set aside"
                    ),
                    Reason::Asked => tracing::info!(
                        from,
                        replayed_groups,
                        sequence,
                        profiles,
                        set_aside,
                        elapsed_ms,
                        "sled's state was built anew, whole, as was asked, and the one before was set aside"
                    ),
                }
                return Ok(profiles);
            }
            Err(Trouble::Damaged(why)) => tried.push(format!("{from}: {why}")),
            Err(Trouble::Refused(error)) => {
                machine_failed |= error.is_of_machine();
                tried.push(format!("{from}: {error}"));
            }
        }
    }
    // Worth nothing; if it stays, the next attempt removes it.
    let _ = fs::remove_dir_all(data_dir.rebuilt_sled());
    let (dir, damage, tried) = (data_dir.path().to_owned(), reason.text().to_owned(), tried.join("; "));
    Err(if machine_failed {
        OpenError::RebuildFailed { dir, damage, tried }
    } else {
        OpenError::CannotRebuild { dir, damage, tried }
    })
}

/// Builds the state from a snapshot and the log behind it, which must reach what is known of it.
pub(super) fn build(
    data_dir: &DataDir,
    options: &SledOptions,
    snapshot: Option<u64>,
    reach: LogReach,
) -> Result<Built, Trouble> {
    build_with(data_dir, options, |tree| {
        let mut applied = nothing_applied();
        if let Some(sequence) = snapshot {
            applied = load(data_dir, tree, sequence)?;
            options.disk.pass(Point::SnapshotLoaded).map_err(|source| data_dir.access("written", source))?;
        }
        let mut replayed_groups = 0;
        drop(open_log(data_dir, options, reach, tree, &mut applied, &mut replayed_groups)?);
        Ok(Built { applied, replayed_groups })
    })
}

/// An empty state.
pub(super) fn nothing_applied() -> Applied {
    Applied { digest: Some(Default::default()), ..Applied::default() }
}

/// Builds a state beside the present one, durably, and lets go of it.
pub(super) fn build_with(
    data_dir: &DataDir,
    options: &SledOptions,
    fill: impl FnOnce(&Arc<Tree>) -> Result<Built, Trouble>,
) -> Result<Built, Trouble> {
    let dir = data_dir.rebuilt_sled();
    let access = |source| DataDirError::Access { dir: dir.clone(), action: "written", source };
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(access)?;
    }
    durable_file::create_dir(&dir).map_err(access)?;
    options.disk.pass(Point::RebuildBegun).map_err(access)?;
    let tree = open_tree(&dir, options.sled_cache_bytes)?;
    let built = guarded(|| {
        let built = fill(&tree)?;
        tree.flush()?;
        options.disk.pass(Point::RebuildFlushed).map_err(access)?;
        Ok(built)
    });
    let closed = catch_unwind(AssertUnwindSafe(|| drop(tree)));
    let built = built?;
    if closed.is_err() {
        return Err(Trouble::Damaged("sled panicked when it closed it".into()));
    }
    durable_file::sync_dir_and_files(&dir).map_err(access)?;
    options.disk.pass(Point::RebuildSynced).map_err(access)?;
    Ok(built)
}

/// Loads a snapshot into an empty tree.
fn load(data_dir: &DataDir, tree: &Arc<Tree>, sequence: u64) -> Result<Applied, Trouble> {
    let of_snapshot = |error: SnapshotError| match error {
        SnapshotError::Io(source) if source.kind() != io::ErrorKind::NotFound => {
            Trouble::Refused(data_dir.access("read", source).into())
        }
        other => Trouble::Damaged(other.to_string()),
    };
    let path: &Path = &data_dir.snapshots().snapshot(sequence);
    let mut reader = SnapshotReader::open(path).map_err(of_snapshot)?;
    if reader.header().incarnation != data_dir.incarnation() {
        return Err(Trouble::Damaged("it belongs to another store".into()));
    }
    let mut applied = nothing_applied();
    let mut batch: Vec<SnapshotRow> = Vec::new();
    let mut batch_bytes = 0;
    while let Some(rows) = reader.next_block().map_err(of_snapshot)? {
        for row in rows {
            batch_bytes += row.record.as_ref().map_or(0, |record| record.stored_bytes().len());
            batch.push(row);
            if batch.len() >= BATCH_RECORDS || batch_bytes >= BATCH_BYTES {
                // Not the snapshot's sequence yet, which would call an interrupted load whole.
                apply_rows(tree, &mut applied, batch.drain(..), 0, Default::default())?;
                batch_bytes = 0;
            }
        }
    }
    let Some(end) = reader.end().filter(|end| end.sequence == sequence) else {
        return Err(Trouble::Damaged("its name is not its sequence".into()));
    };
    apply_rows(tree, &mut applied, batch.drain(..), end.sequence, end.time)?;
    if applied.totals != end.totals || applied.digest != Some(end.digest) {
        return Err(StoreError::Corrupt(Corruption("it does not hold what it says it holds".into())).into());
    }
    tree.flush()?;
    Ok(applied)
}
