//! Checks the files beside sled's state: the commit log without a gap, the newest snapshot whole, no blobs.
//!
//! Both may be trimmed and replaced while they are read, so a failure counts only when the file that failed is still there.

use std::path::PathBuf;

use super::blobs;
use super::pacer::{Pacer, Stopped};
use super::scan_pool::Cancelled;
use crate::engine::commit_log::{DamageAt, LogError, LogProblem, LogReach, check_log, first_sequence, read_range};
use crate::engine::snapshot::{SnapshotDir, SnapshotError, SnapshotReader};
use crate::model::Incarnation;
use crate::store::{StoreError, VerifyProgress};

const BACK_UP: &str = "make a backup now with `profilestore backup`, and restore it into a new data directory when the server is stopped: until then damage to sled cannot be healed";
const LOST: &str =
    "restore a backup into a new data directory; the log is the truth, and what it has lost nothing else has";
const REPAIR_MARK: &str =
    "stop the server and run `profilestore repair`, which sets the mark aside if the commit log is whole";
const NEXT_SNAPSHOT: &str = "make a backup now with `profilestore backup`, which also makes a new snapshot";

/// While a file is replaced it is looked at again, so many times.
const ATTEMPTS: usize = 10;

/// Where the files are, and whose they are.
#[derive(Clone)]
pub struct Files {
    pub commit_log: PathBuf,
    pub snapshots: SnapshotDir,
    pub sled: PathBuf,
    pub incarnation: Incarnation,
}

/// Checks everything beside a state that nobody serves, whatever the state is worth: the whole log, which must reach what is
/// known of it, and the newest snapshot.
pub fn check_offline(
    files: &Files,
    reach: LogReach,
    progress: &VerifyProgress,
    pacer: &mut Pacer,
) -> Result<(), StoreError> {
    check_blobs(files, progress)?;
    let newest = check_snapshot(files, progress, &Cancelled::default(), pacer)?;
    if let Some(LogProblem { what, at }) = check_log(&files.commit_log, files.incarnation, reach) {
        let remedy = match at {
            DamageAt::Middle => BACK_UP,
            DamageAt::End => LOST,
            DamageAt::CloseMark => REPAIR_MARK,
        };
        progress.add(what, remedy);
    }
    if let Some(first) = first_sequence(&files.commit_log).map_err(io)? {
        check_begin(first, newest, progress);
    }
    Ok(())
}

/// sled's files must hold everything but what the log completes.
fn check_blobs(files: &Files, progress: &VerifyProgress) -> Result<(), StoreError> {
    let count = blobs::count(&files.sled, &|| ()).map_err(io)?;
    if count > 0 {
        progress
            .add(format!("sled keeps {count} items in files of their own, which it does not sync"), NEXT_SNAPSHOT);
    }
    Ok(())
}

fn check_begin(first: u64, newest: Option<u64>, progress: &VerifyProgress) {
    if first > 1 && newest.is_none_or(|newest| newest + 1 < first) {
        progress.add(format!("the commit log begins at {first}, and no whole snapshot reaches so far"), BACK_UP);
    }
}

/// Checks the log up to `applied`, and the newest snapshot, while the store goes on.
pub fn check(
    files: &Files,
    applied: u64,
    progress: &VerifyProgress,
    cancelled: &Cancelled,
    pacer: &mut Pacer,
) -> Result<(), StoreError> {
    check_blobs(files, progress)?;
    let newest = check_snapshot(files, progress, cancelled, pacer)?;
    for _ in 0..ATTEMPTS {
        let first = first_sequence(&files.commit_log).map_err(io)?;
        let Some(first) = first else {
            if applied > 0 {
                progress.add("the commit log has no segments", BACK_UP);
            }
            return Ok(());
        };
        let read = read_range(&files.commit_log, files.incarnation, first - 1, applied.max(first - 1), |_| {
            pacer.pause().map_err(|Stopped| StoreError::Closed)?;
            cancelled.check()
        });
        match read {
            Ok(()) => {}
            Err(LogError::Replay(error)) => return Err(error),
            // It was trimmed meanwhile.
            Err(_) if first_sequence(&files.commit_log).map_err(io)? != Some(first) => continue,
            Err(error) => progress.add(error.to_string(), BACK_UP),
        }
        check_begin(first, newest, progress);
        return Ok(());
    }
    Ok(())
}

/// The sequence of the newest snapshot, if it is whole.
fn check_snapshot(
    files: &Files,
    progress: &VerifyProgress,
    cancelled: &Cancelled,
    pacer: &mut Pacer,
) -> Result<Option<u64>, StoreError> {
    for _ in 0..ATTEMPTS {
        let Some(newest) = files.snapshots.list().map_err(io)?.pop() else { return Ok(None) };
        match read_snapshot(files, newest, cancelled, pacer)? {
            Ok(()) => return Ok(Some(newest)),
            // A newer one has replaced it.
            Err(_) if files.snapshots.list().map_err(io)?.last() != Some(&newest) => {}
            Err(error) => {
                progress.add(format!("the snapshot of {newest} cannot be used: {error}"), NEXT_SNAPSHOT);
                return Ok(None);
            }
        }
    }
    Ok(None)
}

fn read_snapshot(
    files: &Files,
    sequence: u64,
    cancelled: &Cancelled,
    pacer: &mut Pacer,
) -> Result<Result<(), SnapshotError>, StoreError> {
    let mut reader = match SnapshotReader::open(&files.snapshots.snapshot(sequence)) {
        Ok(reader) => reader,
        Err(error) => return Ok(Err(error)),
    };
    if reader.header().incarnation != files.incarnation {
        return Ok(Err(SnapshotError::Damaged("it belongs to another store".into())));
    }
    loop {
        cancelled.check()?;
        match reader.next_block() {
            Ok(Some(_)) => {
                pacer.pause().map_err(|Stopped| StoreError::Closed)?;
            }
            Ok(None) => break,
            Err(error) => return Ok(Err(error)),
        }
    }
    if reader.end().is_some_and(|end| end.sequence == sequence) {
        return Ok(Ok(()));
    }
    Ok(Err(SnapshotError::Damaged("its name is not its sequence".into())))
}

fn io(error: std::io::Error) -> StoreError {
    StoreError::Failed { cause: format!("the data directory cannot be read: {error}") }
}
