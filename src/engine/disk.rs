//! What is asked of the disk besides reading and writing: syncs of the commit log, and free space.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

type SyncFn = dyn Fn(&File) -> io::Result<()> + Send + Sync;
type FreeBytesFn = dyn Fn(&Path) -> io::Result<u64> + Send + Sync;

/// The operating system's answers, or a test's.
#[derive(Clone)]
pub struct Disk {
    sync: Arc<SyncFn>,
    free_bytes: Arc<FreeBytesFn>,
}

impl Disk {
    /// The operating system.
    pub fn system() -> Self {
        Self { sync: Arc::new(File::sync_data), free_bytes: Arc::new(free_bytes) }
    }

    /// The same with other syncs of the commit log.
    pub fn with_sync(self, sync: impl Fn(&File) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { sync: Arc::new(sync), ..self }
    }

    /// The same with another idea of free space.
    pub fn with_free_bytes(self, free_bytes: impl Fn(&Path) -> io::Result<u64> + Send + Sync + 'static) -> Self {
        Self { free_bytes: Arc::new(free_bytes), ..self }
    }

    /// Makes what was written to a file durable.
    pub fn sync(&self, file: &File) -> io::Result<()> {
        (self.sync)(file)
    }

    /// How many bytes this process may still write on the filesystem of a path.
    pub fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        (self.free_bytes)(path)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let filesystem = rustix::fs::statvfs(path)?;
    Ok(filesystem.f_bavail.saturating_mul(filesystem.f_frsize))
}
