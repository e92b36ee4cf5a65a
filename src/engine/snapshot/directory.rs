//! The directory of snapshots: which there are, and how one comes in or goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::layout::VERSION;
use crate::engine::durable_file;

const SUFFIX: &str = ".snapshot";

/// Why a snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The operating system said so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The content is damaged, in a sentence.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It was written by a later version.
    #[error("it has format {found}; this version reads up to {VERSION}")]
    Newer {
        /// The version found.
        found: u32,
    },
}

/// The snapshots of a data directory.
#[derive(Debug, Clone)]
pub struct SnapshotDir(PathBuf);

impl SnapshotDir {
    /// Around a directory, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The sequences of the snapshots, ascending.
    pub fn list(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut sequences = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            sequences.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        sequences.sort_unstable();
        Ok(sequences)
    }

    /// The path of the snapshot as of a sequence.
    pub fn snapshot(&self, sequence: u64) -> PathBuf {
        self.0.join(format!("{sequence:020}{SUFFIX}"))
    }

    /// Where a snapshot is made.
    pub fn temporary(&self) -> PathBuf {
        self.0.join("snapshot.tmp")
    }

    /// Makes the directory, and removes what an interrupted run left in it.
    pub fn prepare(&self) -> io::Result<()> {
        durable_file::create_dir(&self.0)?;
        durable_file::remove_if_there(&self.temporary())
    }

    /// Gives the finished and checked temporary file its name, durably.
    pub fn publish(&self, sequence: u64) -> io::Result<()> {
        fs::rename(self.temporary(), self.snapshot(sequence))?;
        durable_file::sync_dir(&self.0)
    }

    /// Removes the snapshots older than `sequence`.
    pub fn remove_older(&self, sequence: u64) -> io::Result<()> {
        for older in self.list()?.into_iter().filter(|&older| older < sequence) {
            durable_file::remove_if_there(&self.snapshot(older))?;
        }
        durable_file::sync_dir(&self.0)
    }

    /// Takes a damaged snapshot out of the list, by another name, and the one before that went this way away. What
    /// is damaged counts for nothing but may be looked into.
    pub fn set_aside(&self, sequence: u64) -> io::Result<()> {
        fs::rename(self.snapshot(sequence), self.0.join("damaged"))?;
        durable_file::sync_dir(&self.0)
    }
}
