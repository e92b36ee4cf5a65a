//! The kept commit log of the old store, replayed over a backup up to a point.
//!
//! Its groups are written anew as the log of the new store, behind the snapshot that the backup becomes, with the etags of
//! the new incarnation; the state is then built from the two, as self-healing does. So the new store has the snapshot and
//! the log that every store has, and the request ids of the last groups are remembered.

use std::path::PathBuf;

use super::data_dir::DataDir;
use super::open::SledOptions;
use super::restore::{RestoreError, with_incarnation};
use crate::engine::commit_log::{CommitLog, KeptEnd, LogError, LogOptions, LoggedGroup, Until, read_kept};
use crate::engine::decision::Decided;
use crate::engine::durable_file;
use crate::engine::snapshot::{SnapshotEnd, SnapshotHeader, SnapshotRow};
use crate::model::{Canonicalization, Change, Email, Incarnation, IndexKey, Record, Revision};

/// A kept commit log, and how much of it is to be replayed.
#[derive(Debug, Clone)]
pub struct KeptLog {
    /// A data directory, or what was its `commit-log` directory. It is only read; a server may be using it.
    pub dir: PathBuf,
    /// Up to where.
    pub until: Until,
}

impl KeptLog {
    fn segments(&self) -> PathBuf {
        let below = self.dir.join("commit-log");
        if below.is_dir() { below } else { self.dir.clone() }
    }

    /// Refuses a point that lies before the backup.
    fn check_until(&self, backup: &SnapshotEnd) -> Result<(), RestoreError> {
        let lies_before = match self.until {
            Until::End => false,
            Until::Sequence(sequence) => sequence < backup.sequence,
            Until::Time(time) => time < backup.time,
        };
        if lies_before {
            return Err(RestoreError::BeforeBackup { sequence: backup.sequence, time: backup.time });
        }
        Ok(())
    }
}

/// Begins the log of the new store behind the backup and fills it from the kept one. Returns how far that led.
pub(super) fn begin_log(
    kept: Option<&KeptLog>,
    backup: (&SnapshotHeader, &SnapshotEnd),
    data_dir: &DataDir,
    options: &SledOptions,
) -> Result<KeptEnd, RestoreError> {
    let (header, end) = backup;
    let dir = data_dir.commit_log();
    let write = |source| RestoreError::Write { dir: dir.clone(), source };
    CommitLog::begin(&dir, data_dir.incarnation(), end.sequence + 1).map_err(write)?;
    let Some(kept) = kept else {
        return Ok(KeptEnd { sequence: end.sequence, time: None, changes: 0, torn: false });
    };
    kept.check_until(end)?;
    let segments = kept.segments();
    let of_log = |what: String| RestoreError::Log { dir: segments.clone(), what };
    // Nothing counts before the end, where all of it is synced.
    let disk = options.disk.clone().with_sync(|_| Ok(()));
    let log_options = LogOptions { segment_bytes: options.log_segment_bytes, disk };
    let failed = |error: LogError| of_log(error.to_string());
    let replay = |_| Ok::<(), std::convert::Infallible>(());
    let mut log = CommitLog::open(&dir, data_dir.incarnation(), log_options, end.sequence, replay).map_err(failed)?;
    let rewriter =
        Rewriter { old: header.incarnation, new: data_dir.incarnation(), settings: header.canonicalization };
    let reached = read_kept(&segments, header.incarnation, end.sequence, kept.until, |group| {
        log.append(&rewriter.rewrite(group)?).map(|_| ()).map_err(|error| error.to_string())
    });
    let reached = reached.map_err(|error| of_log(error.to_string()))?;
    drop(log);
    durable_file::sync_dir_and_files(&dir).map_err(write)?;
    Ok(reached)
}

/// Makes the groups of one incarnation those of another.
struct Rewriter {
    old: Incarnation,
    new: Incarnation,
    /// What the index of the backup follows.
    settings: Canonicalization,
}

impl Rewriter {
    fn rewrite(&self, group: LoggedGroup) -> Result<Decided, String> {
        let LoggedGroup { first_sequence, time, changes, requests } = group;
        let rows = (first_sequence..).zip(changes).map(|(sequence, change)| {
            let row = SnapshotRow { id: change.id, revision: Revision(sequence), record: change.record };
            let row = with_incarnation(row, self.old, self.new).map_err(|error| error.to_string())?;
            if let Some(record) = &row.record {
                self.check_index_key(record, sequence)?;
            }
            Ok(Change {
                revision: row.revision,
                id: row.id,
                record: row.record,
                previous_bytes: None,
                previous_revision: None,
                previous_index_key: change.previous_index_key,
                trace: change.trace,
            })
        });
        Ok(Decided { changes: rows.collect::<Result<_, String>>()?, requests, time })
    }

    /// A log goes on over a change of the settings; a backup, and a store, follow one.
    fn check_index_key(&self, record: &Record, sequence: u64) -> Result<(), String> {
        let profile = record.decode().map_err(|_| format!("the record of change {sequence} is damaged"))?;
        let expected = match profile.email.as_str() {
            "" => None,
            email => Email::parse(email, self.settings, "email").ok().map(|email| email.index_key()),
        };
        if expected.as_ref().map_or(&[][..], IndexKey::as_bytes) == record.index_key_bytes() {
            return Ok(());
        }
        Err(format!(
            "change {sequence} follows another email.fold_local_part than the backup; restore to a point before it, or from a backup that was made after the reindex"
        ))
    }
}
