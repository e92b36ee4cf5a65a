//! `profilestore backup`, `restore` and `repair`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use futures_util::TryStreamExt;
use humantime_serde::re::humantime::parse_rfc3339_weak;
use serde_json::json;

use super::connection::ConnectionArgs;
use super::log;
use super::output::OutputArgs;
use crate::engine::commit_log::Until;
use crate::engine::sled::{BackupFile, KeptLog, Repaired, SledOptions, inspect, repair, restore_with_log};
use crate::model::CommitTime;
use crate::server::Settings;

/// A backup is personal data.
const MODE: u32 = 0o600;

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write. Until it is complete, checked and on disk it is FILE.partial.
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup.
    file: PathBuf,
    /// The new data directory; it must be empty, or not exist.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Go on from the backup with the changes of a kept commit log: a data directory of the same store, or a copy of its
    /// `commit-log`. It is only read; a server may be using it.
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Go on with the log up to a change (the number in `restored ... as of change N` and in a snapshot's name), or up to
    /// a time in UTC (2026-01-31T12:00:00Z). Requests committed together come whole or not at all. Without it all of the
    /// log is taken.
    #[arg(long, value_name = "CHANGE|TIME", requires = "log", value_parser = parse_until)]
    until: Option<Until>,
    #[command(flatten)]
    output: OutputArgs,
}

fn parse_until(until: &str) -> Result<Until, String> {
    if let Ok(sequence) = until.parse() {
        return Ok(Until::Sequence(sequence));
    }
    match parse_rfc3339_weak(until) {
        Ok(time) => Ok(Until::Time(CommitTime::from_system_time(time))),
        Err(_) => Err("must be the number of a change, or a time in UTC such as 2026-01-31T12:00:00Z".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The data directory, which no server may hold.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run_backup(args: &BackupArgs) -> anyhow::Result<()> {
    let mut partial_path = args.file.clone().into_os_string();
    partial_path.push(".partial");
    let partial_path = PathBuf::from(partial_path);
    let failed = || format!("{} cannot be written", partial_path.display());
    let Some(mut partial) = take_partial(&partial_path, || {}).with_context(failed)? else {
        bail!("another backup writes to {}", args.file.display());
    };
    let made = args.connection.run(async |client| {
        let mut chunks = client.backup();
        while let Some(chunk) = chunks.try_next().await.map_err(|error| args.connection.explain(error))? {
            partial.write_all(&chunk).with_context(failed)?;
        }
        partial.sync_all().with_context(failed)
    });
    let finished = made.and_then(|()| {
        let backup = inspect(&partial_path).context("what the server sent is not a whole backup")?;
        fs::rename(&partial_path, &args.file)
            .and_then(|()| sync_folder_of(&args.file))
            .with_context(|| format!("{} cannot be written", args.file.display()))?;
        Ok(backup)
    });
    let BackupFile { sequence, profiles, .. } = finished.inspect_err(|_| {
        // What stays has a name that says what it is.
        let _ = fs::remove_file(&partial_path);
    })?;
    let file = args.file.display();
    let sentence = format!("backed up {profiles} profiles as of change {sequence} to {file}");
    Ok(args
        .output
        .done(&sentence, &json!({ "profileCount": profiles, "change": sequence, "file": file.to_string() }))?)
}

/// Opens an empty file that nobody else writes to; `None` when somebody does. `opened` is for tests.
fn take_partial(path: &Path, mut opened: impl FnMut()) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path)?;
        opened();
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            // Where files cannot be locked at all nobody has locked it.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        // Between the two another backup may have given the file its name: then it is that backup, and not ours to empty.
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let there = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            there => there?,
        };
        if identity(there) == identity(file.metadata()?) {
            file.set_len(0)?;
            return Ok(Some(file));
        }
    }
}

pub fn run_restore(args: &RestoreArgs) -> anyhow::Result<()> {
    quiet_log()?;
    let until = args.until.unwrap_or(Until::End);
    let log = args.log.clone().map(|dir| KeptLog { dir, until });
    let restored = restore_with_log(&args.file, log.as_ref(), &SledOptions::new(&args.data_dir))?;
    let BackupFile { sequence, time, profiles } = restored.store;
    let (dir, changes, time) = (args.data_dir.display(), restored.replayed_changes, time.to_timestamp().to_string());
    let mut sentences =
        format!("restored {profiles} profiles as of change {sequence} to {dir}, and found it whole\n");
    if log.is_some() {
        sentences += &format!("{changes} changes of the log follow the backup's; the last was committed at {time}\n");
    }
    if restored.log_was_torn {
        sentences += "the log ends with half a commit, which was never acknowledged and is left out\n";
    }
    sentences += "etags and watches from before the restore match nothing any more";
    let object = json!({
        "profileCount": profiles,
        "change": sequence,
        "commitTime": time,
        "dataDir": dir.to_string(),
        "replayedCount": changes,
        "logWasTorn": restored.log_was_torn,
    });
    Ok(args.output.done(&sentences, &object)?)
}

pub fn run_repair(args: &RepairArgs) -> anyhow::Result<()> {
    quiet_log()?;
    match repair(&SledOptions::new(&args.data_dir))? {
        Repaired::Whole { profiles, end_was_compared: false } => {
            let sentence = format!(
                "built the state anew with {profiles} profiles, from all that the commit log holds; the old state could not be asked whether the log has lost its end; it was set aside"
            );
            let object = json!({ "profileCount": profiles, "isWhole": true, "endWasCompared": false });
            Ok(args.output.done(&sentence, &object)?)
        }
        Repaired::Whole { profiles, end_was_compared: true } => {
            let sentence = format!(
                "built the state anew with {profiles} profiles; nothing was lost; the old state was set aside"
            );
            let object = json!({ "profileCount": profiles, "isWhole": true, "endWasCompared": true });
            Ok(args.output.done(&sentence, &object)?)
        }
        Repaired::Salvaged { profiles, unreadable, because } => {
            let sentence =
                format!("built the state from what could be read: {profiles} profiles; the old state was set aside");
            let object = json!({ "profileCount": profiles, "isWhole": false, "unreadableCount": unreadable });
            args.output.done(&sentence, &object)?;
            bail!(
                "the state could not be built whole ({because}): {unreadable} rows could not be read, and changes that only these held are lost; restore a backup if that is better"
            )
        }
    }
}

fn sync_folder_of(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// sled's panics quote keys; the program's log does not show them.
fn quiet_log() -> anyhow::Result<()> {
    log::init(&Settings::load(None, &[])?.log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_was_finished_meanwhile_is_not_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (partial, done) = (dir.path().join("a.partial"), dir.path().join("a"));
        fs::write(&partial, "all of it").unwrap();
        let mut rounds = 0;
        let taken = take_partial(&partial, || {
            rounds += 1;
            if rounds == 1 {
                fs::rename(&partial, &done).unwrap();
            }
        });
        taken.unwrap().expect("nobody writes to it").write_all(b"new").unwrap();
        assert_eq!(rounds, 2);
        assert_eq!((fs::read(&done).unwrap(), fs::read(&partial).unwrap()), (b"all of it".to_vec(), b"new".to_vec()));
    }

    #[test]
    fn who_writes_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.partial");
        let mut first = take_partial(&path, || {}).unwrap().expect("nobody writes to it");
        first.write_all(b"half").unwrap();
        assert!(take_partial(&path, || {}).unwrap().is_none());
        assert_eq!(fs::read(&path).unwrap(), b"half");
        drop(first);
        assert!(take_partial(&path, || {}).unwrap().is_some());
    }
}
