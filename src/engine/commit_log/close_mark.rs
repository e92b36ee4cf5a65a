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
const ASIDE: &str = "clean-close.damaged";
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

/// What is there of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseMark {
    /// Who wrote the log last did not close it.
    Missing,
    /// The log was closed when this was its last sequence number.
    At(u64),
    /// There is one, and what it says is not known.
    Damaged,
}

impl CloseMark {
    /// The last sequence number, where it is known.
    pub fn sequence(self) -> Option<u64> {
        if let Self::At(sequence) = self { Some(sequence) } else { None }
    }
}

/// Reads the mark.
pub fn read(dir: &Path) -> io::Result<CloseMark> {
    let bytes = match fs::read(path(dir)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(CloseMark::Missing),
        Err(error) => return Err(error),
    };
    let parts =
        bytes.split_first_chunk::<8>().and_then(|(magic, rest)| Some((magic, rest.split_first_chunk::<8>()?)));
    Ok(match parts {
        Some((magic, (sequence, crc))) if magic == MAGIC && crc == crc32c::crc32c(&bytes[..16]).to_le_bytes() => {
            CloseMark::At(u64::from_le_bytes(*sequence))
        }
        _ => CloseMark::Damaged,
    })
}

/// Takes a damaged mark out of the way, durably, and keeps it.
pub fn set_aside(dir: &Path) -> io::Result<()> {
    fs::rename(path(dir), dir.join(ASIDE))?;
    durable_file::sync_dir(dir)
}

/// Removes the mark, durably.
pub fn remove(dir: &Path) -> io::Result<()> {
    fs::remove_file(path(dir))?;
    durable_file::sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_and_any_cut_is_damage_and_no_other_number() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), CloseMark::Missing);
        write(dir.path(), 4711).unwrap();
        assert_eq!(read(dir.path()).unwrap(), CloseMark::At(4711));
        let good = fs::read(path(dir.path())).unwrap();
        for bit in 0..8 * good.len() {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(path(dir.path()), bytes).unwrap();
            assert_eq!(read(dir.path()).unwrap(), CloseMark::Damaged, "bit {bit}");
        }
        for cut in 0..good.len() {
            fs::write(path(dir.path()), &good[..cut]).unwrap();
            assert_eq!(read(dir.path()).unwrap(), CloseMark::Damaged, "cut at {cut}");
        }
        set_aside(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), CloseMark::Missing);
        assert!(dir.path().join(ASIDE).exists(), "it is kept");
    }
}
