//! Looks for what sled keeps in files of its own.
//!
//! sled moves an item that is larger than a quarter of its segment to a file in `blobs/`, which it never syncs: after a
//! power cut it may be gone. The segments are so large that no page of profiles gets there (`state.rs`). A file there means
//! that this reckoning has failed, and that sled's files alone do not hold the store over a power cut any more.

use std::fs;
use std::io;
use std::path::Path;

/// How many such files there are below sled's directory.
pub fn count(sled: &Path) -> io::Result<u64> {
    match fs::read_dir(sled.join("blobs")) {
        Ok(entries) => Ok(entries.filter_map(Result::ok).count() as u64),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}
