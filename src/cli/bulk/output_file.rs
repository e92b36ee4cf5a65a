//! Where an export goes: standard output, or a file that is there as a whole or not at all.
//!
//! Invariant: the file has its name only when it is complete and on disk. Until then it is `FILE.partial`, which the next
//! export to the same file writes anew; a file that had the name before stays as it was. Whoever writes holds its lock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::beside;
use crate::cli::output::{Stdout, stdout};

/// What is exported is personal data.
const MODE: u32 = 0o600;

/// Where an export goes.
pub enum Output {
    Stdout(Stdout),
    /// A device or a pipe with a name, which cannot be replaced.
    Device(File, PathBuf),
    File {
        partial: File,
        partial_path: PathBuf,
        path: PathBuf,
    },
}

impl Output {
    /// Without a path, or for `-`, standard output.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else { return Ok(Self::Stdout(stdout())) };
        // Behind a link, the file and not the link is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let before = fs::metadata(&path).ok();
        if before.as_ref().is_some_and(|before| !before.is_file()) {
            let file = OpenOptions::new().write(true).open(&path);
            let file = file.with_context(|| format!("{} cannot be written", path.display()))?;
            return Ok(Self::Device(file, path));
        }
        let partial_path = beside(&path, ".partial");
        let partial = open_partial(&partial_path)?;
        let empty = || {
            partial.set_len(0)?;
            before.map_or(Ok(()), |before| partial.set_permissions(before.permissions()))
        };
        empty().with_context(|| format!("{} cannot be written", partial_path.display()))?;
        Ok(Self::File { partial, partial_path, path })
    }

    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            // Without more words: a pipe that was closed must be known as one.
            Self::Stdout(stdout) => Ok(stdout.write_all(bytes)?),
            Self::Device(file, path) => {
                file.write_all(bytes).with_context(|| format!("{} cannot be written", path.display()))
            }
            Self::File { partial, partial_path, .. } => {
                let failed = || format!("{} cannot be written", partial_path.display());
                partial.write_all(bytes).with_context(failed)
            }
        }
    }

    /// Whether it is a file of its own, so that standard output has room for something else.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// Everything was written: the file gets its name.
    pub fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Stdout(mut stdout) => Ok(stdout.flush()?),
            Self::Device(..) => Ok(()),
            Self::File { partial, partial_path, path } => {
                let finish = || {
                    partial.sync_all()?;
                    fs::rename(&partial_path, &path)?;
                    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
                };
                finish().with_context(|| format!("{} cannot be written", path.display()))
            }
        }
    }

    /// The export has failed: what there is of a file goes away.
    pub fn give_up(self) {
        if let Self::File { partial_path, .. } = self {
            // One that stays has a name that says what it is.
            let _ = fs::remove_file(partial_path);
        }
    }
}

/// Opens the file that is written first, for one export at a time.
fn open_partial(path: &Path) -> anyhow::Result<File> {
    let open = || {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Ok(None);
        }
        // Whoever held the lock may have given the file its final name.
        let is_still_there = fs::metadata(path).is_ok_and(|there| {
            file.metadata().is_ok_and(|opened| (opened.dev(), opened.ino()) == (there.dev(), there.ino()))
        });
        io::Result::Ok(is_still_there.then_some(file))
    };
    let opened = open().with_context(|| format!("{} cannot be written", path.display()))?;
    opened.with_context(|| format!("another export writes to {}", path.display()))
}
