//! Builds a data directory from a backup file.
//!
//! Everything is built in `restoring/` inside the new directory and moved up when it was found whole, `FORMAT` last. A
//! directory that holds `restoring` and no `FORMAT` does not open, so whatever interrupts a restore, no half of it is
//! ever served.
//!
//! The store gets a new incarnation. Its changes go on after the backup's, and an old store that also went on has made
//! other ones with the same numbers; with another incarnation nobody takes the etags of one for the other's. The etag
//! that each record ends with is written anew.
//!
//! With a kept commit log (`restore_log.rs`) the store is as of a later point than the backup.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::data_dir::DataDir;
use super::offline;
use super::open::{OpenError, SledOptions};
use super::rebuild::{self, Built, Reason};
use super::restore_log::{KeptLog, begin_log};
use super::state::Trouble;
use crate::engine::commit_log::LogReach;
use crate::engine::durable_file;
use crate::engine::snapshot::{
    SnapshotEnd, SnapshotError, SnapshotHeader, SnapshotReader, SnapshotRow, SnapshotWriter,
};
use crate::model::{CommitTime, Etag, Incarnation};

/// Where the new store is built. A data directory does not open while it is there without `FORMAT`.
const RESTORING: &str = "restoring";

/// Why a backup was not restored. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is not a whole backup.
    #[error("{file} is not a backup that can be restored: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: SnapshotError,
    },
    /// The point lies before the backup.
    #[error("the backup is as of change {sequence}, committed at {}, which is after that point; use an older backup", .time.to_timestamp())]
    BeforeBackup {
        /// As of which change the backup is.
        sequence: u64,
        /// When that was committed.
        time: CommitTime,
    },
    /// The kept commit log does not lead from the backup to the point.
    #[error("the commit log in {dir} does not lead from the backup to that point: {what}")]
    Log {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it, in a sentence.
        what: String,
    },
    /// Something is there already.
    #[error("{dir} is not empty: it holds {found}; restore into a directory that is empty or does not exist")]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// The name of one of its entries.
        found: String,
    },
    /// The operating system refuses something.
    #[error("{dir} cannot be written: {source}")]
    Write {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The store that was built is not whole.
    #[error("the store that was built is not whole: {0}")]
    Built(String),
    /// The store that was built does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What a backup file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupFile {
    /// As of which change it holds every profile.
    pub sequence: u64,
    /// When that change was committed.
    pub time: CommitTime,
    /// How many profiles it holds.
    pub profiles: u64,
}

/// What a restore came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The new store.
    pub store: BackupFile,
    /// How many changes of the kept commit log it has beyond the backup.
    pub replayed_changes: u64,
    /// The log ended in half a group, which was left out.
    pub log_was_torn: bool,
}

/// Reads a backup file through with all its checksums.
pub fn inspect(file: &Path) -> Result<BackupFile, SnapshotError> {
    let (_, end) = read_through(file)?;
    Ok(BackupFile { sequence: end.sequence, time: end.time, profiles: end.totals.profiles })
}

fn read_through(file: &Path) -> Result<(SnapshotHeader, SnapshotEnd), SnapshotError> {
    let mut reader = SnapshotReader::open(file)?;
    while reader.next_block()?.is_some() {}
    let end = reader.end().ok_or_else(|| SnapshotError::Damaged("it has no end mark".into()))?;
    Ok((*reader.header(), end))
}

/// Builds a data directory at `options.path`, which must be absent or empty, from a backup file, with a new
/// incarnation, and checks it. Blocks.
pub fn restore(file: &Path, options: &SledOptions) -> Result<BackupFile, RestoreError> {
    restore_with_log(file, None, options).map(|restored| restored.store)
}

/// The same, and then the changes of a kept commit log up to a point. The log must be of the store that the backup is of,
/// and lead on from the backup without a gap.
pub fn restore_with_log(file: &Path, log: Option<&KeptLog>, options: &SledOptions) -> Result<Restored, RestoreError> {
    let of_file = |source| RestoreError::File { file: file.to_owned(), source };
    // Nothing is written before the whole file was found good.
    let (header, _) = read_through(file).map_err(of_file)?;
    let dir = &options.path;
    let write = |source| RestoreError::Write { dir: dir.clone(), source };
    let was_there = dir.exists();
    ensure_empty(dir, false)?;
    durable_file::create_dir(dir).map_err(write)?;
    let staging =
        SledOptions { path: dir.join(RESTORING), canonicalization: header.canonicalization, ..options.clone() };
    take_staging(dir, &staging.path)?;
    let built = build(file, log, &staging);
    if built.is_err() {
        // Whatever stays has a name under which it does not open.
        let _ = fs::remove_dir_all(&staging.path);
        if !was_there {
            let _ = fs::remove_dir(dir);
        }
    }
    let built = built?;
    move_up(&staging.path, dir).map_err(write)?;
    Ok(built)
}

/// Refuses a directory in which something is, but for the staging directory that this restore has made.
fn ensure_empty(dir: &Path, but_staging: bool) -> Result<(), RestoreError> {
    let write = |source| RestoreError::Write { dir: dir.to_owned(), source };
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(write)? {
        let name = entry.map_err(write)?.file_name();
        if !(but_staging && name == RESTORING) {
            return Err(RestoreError::NotEmpty { dir: dir.to_owned(), found: name.to_string_lossy().into_owned() });
        }
    }
    Ok(())
}

/// Makes the staging directory, which only one of several restores into one directory can do. What is in the directory is
/// looked at once more: a restore that has ended meanwhile has taken its own away again.
fn take_staging(dir: &Path, staging: &Path) -> Result<(), RestoreError> {
    match fs::DirBuilder::new().mode(0o700).create(staging) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(RestoreError::NotEmpty { dir: dir.to_owned(), found: RESTORING.to_owned() });
        }
        Err(source) => return Err(RestoreError::Write { dir: dir.to_owned(), source }),
    }
    let others = ensure_empty(dir, true);
    if others.is_err() {
        let _ = fs::remove_dir(staging);
    }
    others
}

fn build(file: &Path, log: Option<&KeptLog>, options: &SledOptions) -> Result<Restored, RestoreError> {
    let of_file = |source| RestoreError::File { file: file.to_owned(), source };
    let write = |source| RestoreError::Write { dir: options.path.clone(), source };
    let mut data_dir = DataDir::open(&options.path, options.canonicalization, false).map_err(OpenError::from)?;
    data_dir.snapshots().prepare().map_err(write)?;
    let (header, end) = copy(file, &data_dir).map_err(of_file)?;
    let reached = begin_log(log, (&header, &end), &data_dir, options)?;
    let Built { applied, .. } = match rebuild::build(&data_dir, options, Some(end.sequence), LogReach::default()) {
        Ok(built) => built,
        Err(Trouble::Damaged(what)) => return Err(RestoreError::Built(what)),
        Err(Trouble::Refused(error)) => return Err(error.into()),
    };
    data_dir.replace_state(Reason::Asked).map_err(write)?;
    data_dir.finish_creation().map_err(OpenError::from)?;
    drop(data_dir);
    let report = offline::verify(options)?;
    if let Some(problem) = report.problems.first() {
        return Err(RestoreError::Built(problem.description.clone()));
    }
    if report.profiles != applied.totals.profiles || applied.sequence != reached.sequence {
        return Err(RestoreError::Built("it does not hold what was restored into it".into()));
    }
    let time = reached.time.unwrap_or(end.time);
    let store = BackupFile { sequence: reached.sequence, time, profiles: report.profiles };
    Ok(Restored { store, replayed_changes: reached.changes, log_was_torn: reached.torn })
}

/// Writes the backup as a snapshot of the new store: the same records with etags of the new incarnation.
fn copy(file: &Path, data_dir: &DataDir) -> Result<(SnapshotHeader, SnapshotEnd), SnapshotError> {
    let mut reader = SnapshotReader::open(file)?;
    let backup = *reader.header();
    let header = SnapshotHeader { incarnation: data_dir.incarnation(), ..backup };
    let snapshots = data_dir.snapshots();
    let mut writer = SnapshotWriter::create(&snapshots.temporary(), &header)?;
    while let Some(rows) = reader.next_block()? {
        for row in rows {
            writer.push(&with_incarnation(row, backup.incarnation, header.incarnation)?)?;
        }
    }
    let end = reader.end().ok_or_else(|| SnapshotError::Damaged("it has no end mark".into()))?;
    writer.finish(&end)?;
    snapshots.publish(end.sequence)?;
    Ok((backup, end))
}

/// A row with the etag of another incarnation.
pub(super) fn with_incarnation(
    row: SnapshotRow,
    old: Incarnation,
    new: Incarnation,
) -> Result<SnapshotRow, SnapshotError> {
    let Some(record) = &row.record else { return Ok(row) };
    let (old, new) = (Etag::new(old, row.revision), Etag::new(new, row.revision));
    let record = record.with_etag(&old, &new);
    let record = record.ok_or_else(|| SnapshotError::Damaged("a record has another etag than its own".into()))?;
    Ok(SnapshotRow { record: Some(record), ..row })
}

/// Moves everything up, `FORMAT` last.
fn move_up(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(from)? {
        names.push(entry?.file_name());
    }
    names.sort_by_key(|name| name == "FORMAT");
    for name in &names {
        if name == "FORMAT" {
            durable_file::sync_dir(to)?;
        }
        fs::rename(from.join(name), to.join(name))?;
    }
    fs::remove_dir(from)?;
    durable_file::sync_dir(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_moved_up_only_after_everything_else() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join(RESTORING);
        fs::create_dir(&from).unwrap();
        for name in ["FORMAT", "LOCK", "sled"] {
            fs::write(from.join(name), name).unwrap();
        }
        // Something is in the way of one of them.
        fs::create_dir(dir.path().join("sled")).unwrap();
        assert!(move_up(&from, dir.path()).is_err());
        assert!(from.join("FORMAT").exists() && !dir.path().join("FORMAT").exists());
        fs::remove_dir(dir.path().join("sled")).unwrap();
        move_up(&from, dir.path()).unwrap();
        assert!(dir.path().join("FORMAT").exists() && !from.exists());
    }
}
