//! Room on the disk: writes are refused while there is little, and a ballast file makes sure that a store whose disk
//! is full can still be opened.
//!
//! sled cannot be opened on a full disk, and recovery writes a segment of the log anew. So writes are refused
//! long before, and the ballast is given up to open when it is needed all the same.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use super::figures::SledFigures;
use crate::engine::disk::Disk;
use crate::engine::durable_file;

/// Before a group the disk is asked when its last answer is older than this.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The same while writes are refused.
const ASK_EVERY_WHEN_LOW: Duration = Duration::from_millis(200);

/// How much room there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceBounds {
    /// With fewer free bytes, the ballast's not counted, writes are refused. They are taken again when there is a tenth more. 0: never refused.
    pub min_free_bytes: u64,
    /// The size of the ballast. 0: none.
    pub ballast_bytes: u64,
}

/// Decides whether there is room for writes. The committer asks the disk when it flushes, at the latest every 64 groups or
/// 8 MiB, and before a group when the last answer is old; the maintenance thread asks at each look, so that who looks at
/// the figures learns of a disk that others fill, and of room, without a write.
#[derive(Debug)]
pub struct SpaceWatch {
    ballast: Ballast,
    low: AtomicBool,
    began: Instant,
    /// Milliseconds after `began`.
    asked: AtomicU64,
    figures: Arc<SledFigures>,
}

impl SpaceWatch {
    /// For a data directory with its ballast; asks at once.
    pub fn new(ballast: Ballast, figures: Arc<SledFigures>) -> Self {
        let this =
            Self { ballast, low: AtomicBool::new(false), began: Instant::now(), asked: AtomicU64::new(0), figures };
        this.ask();
        this
    }

    /// Whether writes may be made.
    pub fn has_room(&self) -> bool {
        let asked = Duration::from_millis(self.asked.load(Ordering::Relaxed));
        let old = if self.is_low() { ASK_EVERY_WHEN_LOW } else { ASK_EVERY };
        if self.began.elapsed().saturating_sub(asked) >= old {
            self.ask();
        }
        !self.is_low()
    }

    /// Whether writes are refused, as of the last answer.
    pub fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// Asks the disk.
    pub fn ask(&self) {
        self.asked.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        let min_free_bytes = self.ballast.bounds.min_free_bytes;
        let free_bytes = match self.ballast.free_bytes_beside() {
            Ok(free_bytes) => free_bytes,
            Err(error) => {
                // No answer is not bad news about room; a write that finds none fails loudly.
                tracing::warn!(%error, "the disk does not say how much room it has");
                return;
            }
        };
        let enough = if self.is_low() { min_free_bytes.saturating_add(min_free_bytes / 10) } else { min_free_bytes };
        let low = free_bytes < enough;
        let was_low = self.low.swap(low, Ordering::Relaxed);
        if low && !was_low {
            tracing::error!(
                free_bytes,
                min_free_bytes,
                "the disk is nearly full: writes are refused until there is room"
            );
        } else if was_low && !low {
            tracing::info!(free_bytes, "there is room on the disk again: writes are taken");
        }
        self.figures.room(free_bytes, low);
    }
}

/// A file that does nothing but take room, until the room is needed.
#[derive(Debug, Clone)]
pub struct Ballast {
    path: PathBuf,
    disk: Disk,
    bounds: SpaceBounds,
}

impl Ballast {
    /// The ballast of a data directory.
    pub fn new(dir: &Path, disk: Disk, bounds: SpaceBounds) -> Self {
        Self { path: dir.join("ballast"), disk, bounds }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes(self.path.parent().unwrap_or(Path::new(".")))
    }

    /// The free bytes when the ballast has its room: what it gave up is not there to be written.
    fn free_bytes_beside(&self) -> io::Result<u64> {
        let given_up = if self.path.exists() { 0 } else { self.bounds.ballast_bytes };
        Ok(self.free_bytes()?.saturating_sub(given_up))
    }

    /// Gives the room up if there is less than the ballast's left without it.
    pub fn release_if_needed(&self) -> io::Result<()> {
        let free_bytes = self.free_bytes()?;
        if self.path.exists() && free_bytes < self.bounds.ballast_bytes {
            fs::remove_file(&self.path)?;
            tracing::warn!(free_bytes, "the disk is nearly full: the ballast was given up to open the store");
        }
        Ok(())
    }

    /// Takes the room, if none is taken yet and there is enough besides.
    pub fn take(&self) -> io::Result<()> {
        let SpaceBounds { min_free_bytes, ballast_bytes } = self.bounds;
        let taken = fs::metadata(&self.path).map_or(0, |file| file.len());
        if taken == ballast_bytes {
            return Ok(());
        }
        if taken > 0 {
            fs::remove_file(&self.path)?;
        }
        // Not the last room that there is: what was accepted still has to be flushed.
        if ballast_bytes == 0 || self.free_bytes_beside()? < min_free_bytes / 2 {
            return Ok(());
        }
        let filled = self.fill(ballast_bytes);
        if filled.is_err() {
            durable_file::remove_if_there(&self.path)?;
        }
        filled
    }

    /// Whether so many bytes more can be written before writes are refused.
    pub fn leaves_room_for(&self, bytes: u64) -> io::Result<bool> {
        Ok(self.free_bytes_beside()? >= bytes.saturating_add(self.bounds.min_free_bytes))
    }

    fn fill(&self, bytes: u64) -> io::Result<()> {
        let file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        file.sync_all()
    }
}
