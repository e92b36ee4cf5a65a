//! What is asked of the disk besides reading and writing: syncs of the commit log, and free space; and the points at
//! which a test can let the disk or the program fail.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

type SyncFn = dyn Fn(&File) -> io::Result<()> + Send + Sync;
type FreeBytesFn = dyn Fn(&Path) -> io::Result<u64> + Send + Sync;
type FaultFn = dyn Fn(Point) -> io::Result<()> + Send + Sync;

/// Where something can go wrong. [`Disk::with_faults`] is asked at each of them, every time it is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Point {
    // The commit log. An error in `LogWrite` leaves half of the frame in the file, one in `SegmentCreated` a segment that nobody uses.
    LogWrite,
    LogSync,
    SegmentCreate,
    SegmentCreated,
    LogRewrite,
    CloseMark,
    // The committer: before it waits for requests, and in the course of a group.
    Waiting,
    Decided,
    Appended,
    Announced,
    BatchBegun,
    Applied,
    Published,
    SuspectMark,
    SledFlush,
    SledFlushed,
    // Opening.
    DirLocked,
    SledOpened,
    ReplayGroup,
    Replayed,
    ReplayFlushed,
    StateChecked,
    StateOpened,
    RequestsRead,
    // Building the state anew.
    RebuildBegun,
    SnapshotLoaded,
    RebuildFlushed,
    RebuildSynced,
    StateReplaced,
}

/// The operating system's answers, or a test's.
#[derive(Clone)]
pub struct Disk {
    sync: Arc<SyncFn>,
    free_bytes: Arc<FreeBytesFn>,
    faults: Option<Arc<FaultFn>>,
}

impl Disk {
    /// The operating system.
    pub fn system() -> Self {
        Self { sync: Arc::new(File::sync_data), free_bytes: Arc::new(free_bytes), faults: None }
    }

    /// The same with other syncs of the commit log.
    pub fn with_sync(self, sync: impl Fn(&File) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { sync: Arc::new(sync), ..self }
    }

    /// The same with another idea of free space.
    pub fn with_free_bytes(self, free_bytes: impl Fn(&Path) -> io::Result<u64> + Send + Sync + 'static) -> Self {
        Self { free_bytes: Arc::new(free_bytes), ..self }
    }

    /// The same, failing at the points where `faults` returns an error or panics. For tests.
    pub fn with_faults(self, faults: impl Fn(Point) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { faults: Some(Arc::new(faults)), ..self }
    }

    /// Passes a point.
    pub fn pass(&self, point: Point) -> io::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults(point))
    }

    /// Makes what was written to a file durable.
    pub fn sync(&self, file: &File) -> io::Result<()> {
        self.pass(Point::LogSync)?;
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
