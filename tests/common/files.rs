//! Data directories as files: copied, and looked into.

// Each test file compiles its own copy and none uses all of it.
#![allow(dead_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Copies a directory as it is at this moment, as a kill would leave it.
pub fn copy_dir(from: &Path, to: &Path) {
    let is_new = !to.exists();
    loop {
        match try_copy_dir(from, to) {
            // Something went while it was copied, as a part of the log does that is needed no more: that was no one moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_new && from.exists() => {
                fs::remove_dir_all(to).unwrap();
            }
            copied => return copied.unwrap(),
        }
    }
}

fn try_copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            try_copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The paths in a directory with this ending, in order.
pub fn with_ending(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    paths.sort();
    paths
}
