//! The data directory: who owns it, and what format it has.
//!
//! `LOCK` is held by the process that serves the directory. `FORMAT` says what is in it and is written last
//! when a directory is made, so a directory without it was never served from.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::format_file::{self, Format, FormatFile};
use super::log_check::Files;
use super::rebuild::Reason;
use crate::engine::commit_log::CommitLog;
use crate::engine::durable_file;
use crate::engine::sequence::new_incarnation;
use crate::engine::snapshot::SnapshotDir;
use crate::model::{Canonicalization, Incarnation};

pub use super::format_file::FORMAT_VERSION;

/// A lock may still be held for a moment after its holder was killed.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// How the states that were set aside are called, with a number behind.
const SET_ASIDE: &str = "sled-set-aside-";
/// How many of them are kept.
const MAX_SET_ASIDE: usize = 2;
/// Where a new state is built.
const REBUILT: &str = "sled-rebuilt";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The operating system refuses access.
    #[error("the data directory {dir} cannot be {action}: {source}; check that it exists and belongs to this user")]
    Access {
        /// The directory.
        dir: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Another process serves it.
    #[error("the data directory {dir} is in use by another process; stop that one or choose another --data-dir")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It was written by a later version.
    #[error(
        "the data directory {dir} has format {found}, but this version reads up to {FORMAT_VERSION}; use the version that wrote it, or a later one"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its index was built with other settings.
    #[error(
        "the data directory {dir} was made with email.fold_local_part = {stored}, but the setting is now {wanted}; set it back, or rebuild the index with `profilestore reindex --data-dir {dir}`"
    )]
    OtherCanonicalization {
        /// The directory.
        dir: PathBuf,
        /// What the index was built with.
        stored: bool,
        /// What is configured.
        wanted: bool,
    },
    /// A rebuild of its index was interrupted.
    #[error(
        "the index of the data directory {dir} is half rebuilt; finish with `profilestore reindex --data-dir {dir}`"
    )]
    ReindexUnfinished {
        /// The directory.
        dir: PathBuf,
    },
    /// It holds something else, or has lost its `FORMAT` file.
    #[error("the data directory {dir} is not one of profilestore's, or damaged: {what}")]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// What was found.
        what: String,
    },
}

/// A data directory that this process owns until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Whose index settings the directory's `FORMAT` names.
    canonicalization: Canonicalization,
    reindexing: bool,
    incarnation: Incarnation,
    /// `FORMAT` was there when the directory was taken.
    was_made: bool,
    /// `FORMAT` is there, of this version and with its checksum.
    is_current: bool,
    /// Unlocked by the operating system when it is closed.
    _lock: File,
}

impl DataDir {
    /// Takes a directory, making it if it is missing.
    ///
    /// `wanted` must be the settings that the directory was made with, unless `reindex` is set.
    pub fn open(path: &Path, wanted: Canonicalization, reindex: bool) -> Result<Self, DataDirError> {
        let access = |action| move |source| DataDirError::Access { dir: path.to_owned(), action, source };
        durable_file::create_dir(path).map_err(access("created"))?;
        let lock = lock(path)?;
        let format = match fs::read(path.join("FORMAT")) {
            Ok(bytes) => Some(format_file::parse(path, &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(access("read")(error)),
        };
        // Kept also when `FORMAT` is raised in the middle of a rebuild of the index.
        let reindexing = format.as_ref().is_some_and(|FormatFile { format, .. }| format.reindexing);
        let was_made = format.is_some();
        let is_current = format.as_ref().is_some_and(FormatFile::is_current);
        let (incarnation, canonicalization) = match format {
            Some(FormatFile { incarnation, format, .. }) if reindex => (incarnation, format.canonicalization),
            Some(FormatFile { format, .. }) if format.reindexing => {
                return Err(DataDirError::ReindexUnfinished { dir: path.to_owned() });
            }
            Some(FormatFile { incarnation, format, .. }) if format.canonicalization == wanted => {
                (incarnation, wanted)
            }
            Some(FormatFile { format: Format { canonicalization: stored, .. }, .. }) => {
                return Err(DataDirError::OtherCanonicalization {
                    dir: path.to_owned(),
                    stored: stored.fold_local_part,
                    wanted: wanted.fold_local_part,
                });
            }
            None => {
                remove_unfinished(path)?;
                (new_incarnation(), wanted)
            }
        };
        let this = Self {
            path: path.to_owned(),
            canonicalization,
            reindexing,
            incarnation,
            was_made,
            is_current,
            _lock: lock,
        };
        durable_file::create_dir(&this.commit_log()).map_err(access("written"))?;
        if this.rebuilt_sled().exists() && !this.sled().exists() {
            // A crash came between the two renames of a rebuild: the new state is whole.
            fs::rename(this.rebuilt_sled(), this.sled()).map_err(access("written"))?;
        }
        durable_file::create_dir(&this.sled()).map_err(access("written"))?;
        // A kill may have come between the creation of a directory and the sync of its entry.
        durable_file::sync_dir(path).map_err(access("written"))?;
        Ok(this)
    }

    /// Declares a new directory fit for use, or one of an earlier format raised. Called when everything else in it
    /// exists.
    pub fn finish_creation(&mut self) -> Result<(), DataDirError> {
        if std::mem::replace(&mut self.is_current, true) { Ok(()) } else { self.write_format() }
    }

    /// Records durably that the index is being rebuilt for these settings, or that it now follows them.
    pub fn set_canonicalization(&mut self, settings: Canonicalization, reindexing: bool) -> Result<(), DataDirError> {
        self.canonicalization = settings;
        self.reindexing = reindexing;
        self.write_format()
    }

    fn write_format(&self) -> Result<(), DataDirError> {
        format_file::encode(self.incarnation, self.canonicalization, self.reindexing)
            .and_then(|bytes| durable_file::replace(&self.path.join("FORMAT"), &bytes))
            .map_err(|source| DataDirError::Access { dir: self.path.clone(), action: "written", source })
    }

    /// Whether a store was made here before this process took the directory.
    pub fn was_made(&self) -> bool {
        self.was_made
    }

    /// The life of the store.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The directory of the commit log.
    pub fn commit_log(&self) -> PathBuf {
        self.path.join("commit-log")
    }

    /// The file that says who holds which part of the commit log.
    pub fn holds(&self) -> PathBuf {
        self.path.join("holds")
    }

    /// The files beside sled's state.
    pub fn files(&self) -> Files {
        Files {
            commit_log: self.commit_log(),
            snapshots: self.snapshots(),
            sled: self.sled(),
            incarnation: self.incarnation,
        }
    }

    /// The mark that sled's state may hold half a group.
    pub fn suspect_mark(&self) -> PathBuf {
        self.path.join("sled-suspect")
    }

    /// The mark that a read has met damage in sled's state.
    pub fn doubt_mark(&self) -> PathBuf {
        self.path.join("sled-doubtful")
    }

    /// What the mark says of sled's state, if there is one.
    pub fn suspicion(&self) -> Result<Option<String>, DataDirError> {
        match fs::read(self.suspect_mark()) {
            Ok(reason) if reason.is_empty() => Ok(Some("a write had failed halfway".into())),
            Ok(reason) => Ok(Some(String::from_utf8_lossy(&reason).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Access { dir: self.path.clone(), action: "read", source }),
        }
    }

    /// Puts a state that was built anew, and is whole and durable, into the place of the present one, and sets that
    /// aside; returns where. Of those set aside the newest two stay.
    pub fn replace_state(&self, reason: Reason<'_>) -> io::Result<Option<PathBuf>> {
        let mut numbers = self.set_aside_numbers()?;
        let was_there = fs::read_dir(self.sled())?.next().is_some();
        let number = numbers.last().copied().unwrap_or(0) + 1;
        let aside = self.set_aside(number);
        if was_there {
            fs::rename(self.sled(), &aside)?;
            numbers.push(number);
        } else {
            fs::remove_dir(self.sled())?;
        }
        durable_file::sync_dir(&self.path)?;
        fs::rename(self.rebuilt_sled(), self.sled())?;
        durable_file::sync_dir(&self.path)?;
        durable_file::remove_if_there(&self.suspect_mark())?;
        durable_file::remove_if_there(&self.doubt_mark())?;
        durable_file::sync_dir(&self.path)?;
        for number in numbers.iter().rev().skip(MAX_SET_ASIDE) {
            let oldest = self.set_aside(*number);
            match reason {
                Reason::Damage(_) => tracing::error!(
                    dir = %oldest.display(),
                    "sled's state was damaged again and again: the oldest that was set aside is removed; check this machine's disk and memory"
                ),
                Reason::Asked => {
                    tracing::info!(dir = %oldest.display(), "the oldest state that was set aside is removed");
                }
            }
            fs::remove_dir_all(oldest)?;
        }
        Ok(was_there.then_some(aside))
    }

    fn set_aside(&self, number: u64) -> PathBuf {
        self.path.join(format!("{SET_ASIDE}{number}"))
    }

    /// The numbers of the states that were set aside, ascending.
    fn set_aside_numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(SET_ASIDE));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Where a new state is built.
    pub fn rebuilt_sled(&self) -> PathBuf {
        self.path.join(REBUILT)
    }

    /// The directory of snapshots.
    pub fn snapshots(&self) -> SnapshotDir {
        SnapshotDir::new(self.path.join("snapshots"))
    }

    /// An error of the operating system about the directory; `action` is what was tried.
    pub fn access(&self, action: &'static str, source: io::Error) -> DataDirError {
        DataDirError::Access { dir: self.path.clone(), action, source }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// sled's directory.
    pub fn sled(&self) -> PathBuf {
        self.path.join("sled")
    }
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let access = |source| DataDirError::Access { dir: dir.to_owned(), action: "locked", source };
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(dir.join("LOCK")).map_err(access)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(access(error)),
        }
    }
}

/// Removes what an interrupted creation left, after making sure that no store was ever there.
fn remove_unfinished(dir: &Path) -> Result<(), DataDirError> {
    let not_ours = |what: String| DataDirError::NotOurs { dir: dir.to_owned(), what };
    let access = |source| DataDirError::Access { dir: dir.to_owned(), action: "read", source };
    for entry in fs::read_dir(dir).map_err(access)? {
        let name = entry.map_err(access)?.file_name();
        if !["LOCK", "FORMAT.tmp", "commit-log", "sled", "snapshots", "ballast"].iter().any(|known| name == *known) {
            return Err(not_ours(format!("it has no FORMAT file but holds {}", name.to_string_lossy())));
        }
    }
    if CommitLog::has_frames(&dir.join("commit-log")).map_err(access)? {
        return Err(not_ours("it holds commits but has lost its FORMAT file".into()));
    }
    // A restored store has one before its first commit.
    if !SnapshotDir::new(dir.join("snapshots")).list().map_err(access)?.is_empty() {
        return Err(not_ours("it holds a snapshot but has lost its FORMAT file".into()));
    }
    for unfinished in ["commit-log", "sled", "snapshots"] {
        match fs::remove_dir_all(dir.join(unfinished)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(access(error)),
            _ => {}
        }
    }
    Ok(())
}
