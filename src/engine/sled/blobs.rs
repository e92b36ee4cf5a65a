//! Looks for what sled keeps in files of its own.
//!
//! sled moves an item that is larger than a quarter of its segment to a file in `blobs/`, which it never syncs: after a
//! power cut it may be gone. The segments are so large that no page of profiles gets there (`state.rs`). A file there means
//! that this reckoning has failed, and that sled's files alone do not hold the store over a power cut any more.

use std::fs;
use std::io;
use std::path::Path;

/// How many such files there are below sled's directory. `comes_on` is told of every one.
pub fn count(sled: &Path, comes_on: &dyn Fn()) -> io::Result<u64> {
    match fs::read_dir(sled.join("blobs")) {
        Ok(entries) => Ok(entries.inspect(|_| comes_on()).filter_map(Result::ok).count() as u64),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn every_file_that_is_found_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(count(dir.path(), &|| panic!("there is none")).unwrap(), 0);
        fs::create_dir(dir.path().join("blobs")).unwrap();
        for name in ["1", "2", "3"] {
            fs::write(dir.path().join("blobs").join(name), name).unwrap();
        }
        let told = Cell::new(0);
        assert_eq!(count(dir.path(), &|| told.set(told.get() + 1)).unwrap(), 3);
        assert_eq!(told.get(), 3);
    }
}
