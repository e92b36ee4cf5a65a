//! The mark that a clean close leaves: the last sequence number of the log.
//!
//! It is a file of its own, because a mark at the end of the log would be lost together with the end.
//!
//! ```text
//! magic "PSCLOSED" | last sequence u64 | crc u32
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::engine::durable_file;

const FILE_NAME: &str = "clean-close";
const MAGIC: &[u8; 8] = b"PSCLOSED";

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

/// Leaves a mark, durably.
pub fn write(dir: &Path, last_sequence: u64) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&last_sequence.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    durable_file::replace(&path(dir), &bytes)
}

/// The mark's sequence number; `None` without a mark. A damaged mark is an error.
pub fn read(dir: &Path) -> io::Result<Option<u64>> {
    let bytes = match fs::read(path(dir)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let parts =
        bytes.split_first_chunk::<8>().and_then(|(magic, rest)| Some((magic, rest.split_first_chunk::<8>()?)));
    match parts {
        Some((magic, (sequence, crc))) if magic == MAGIC && crc == crc32c::crc32c(&bytes[..16]).to_le_bytes() => {
            Ok(Some(u64::from_le_bytes(*sequence)))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the mark of the last clean close is damaged")),
    }
}

/// Removes the mark, durably.
pub fn remove(dir: &Path) -> io::Result<()> {
    fs::remove_file(path(dir))?;
    durable_file::sync_dir(dir)
}
