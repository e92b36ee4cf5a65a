//! Files and directories whose existence survives a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Only the owner may read what the store keeps.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// Makes the entries of a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory with all its parents, durably, unless it exists. The directory's own entry is made durable even
/// if it exists: whoever made it may have been stopped before that.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if dir.is_dir() {
        return match sync_dir(parent.unwrap_or(Path::new("."))) {
            // Then it was not this program that made it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        };
    }
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Creates a file that must not exist yet, with its first bytes, durably, and opens it for appending.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    Ok(file)
}

/// The bytes of all files below a directory. A file that goes away meanwhile counts nothing. `comes_on` is told of every entry.
pub fn bytes_below(dir: &Path, comes_on: &dyn Fn()) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        comes_on();
        let entry = entry?;
        let found = entry.metadata().and_then(|metadata| {
            if metadata.is_dir() { bytes_below(&entry.path(), comes_on) } else { Ok(metadata.len()) }
        });
        bytes += match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            found => found?,
        };
    }
    Ok(bytes)
}

/// Replaces a file as a whole, durably: after a crash it has the old content or the new.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    create(&temporary, bytes)?;
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Removes a file if it exists.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a directory and every file directly in it durable.
pub fn sync_dir_and_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file() {
            File::open(path)?.sync_all()?;
        }
    }
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn all_bytes_below_a_directory_are_counted_and_every_entry_is_told() {
        let dir = tempfile::tempdir().unwrap();
        create_dir(&dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("one"), "1").unwrap();
        fs::write(dir.path().join("a/two"), "22").unwrap();
        fs::write(dir.path().join("a/b/four"), "4444").unwrap();
        let told = Cell::new(0);
        let bytes = bytes_below(dir.path(), &|| told.set(told.get() + 1)).unwrap();
        assert_eq!((bytes, told.get()), (7, 5));
    }
}
