//! A disk on which the committer can be stopped at a step, as a kill would find it, and that knows what a power cut would
//! leave of the log.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use profilestore::engine::{Disk, Point};

use super::files::with_ending;

#[derive(Default)]
pub struct MortalDisk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stop: Mutex<Stop>,
    released: Condvar,
    /// The synced length of each file of the log, by its inode.
    synced: Mutex<HashMap<u64, u64>>,
    lies: AtomicBool,
}

#[derive(Default)]
struct Stop {
    /// The point, and how often it is still passed before.
    planned: Option<(Point, usize)>,
    stands: bool,
}

/// Releases the committer when it is dropped.
pub struct Released<'a>(&'a MortalDisk);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl MortalDisk {
    /// As a store takes it.
    pub fn disk(&self) -> Disk {
        let (passing, syncing) = (self.0.clone(), self.0.clone());
        let disk = Disk::system().with_faults(move |point| {
            passing.pass(point);
            Ok(())
        });
        disk.with_sync(move |file| {
            if !syncing.lies.load(Ordering::SeqCst) {
                file.sync_data()?;
                let metadata = file.metadata()?;
                syncing.synced.lock().insert(metadata.ino(), metadata.len());
            }
            Ok(())
        })
    }

    /// The committer will stop at a point when it has passed it so often.
    pub fn stop_at(&self, point: Point, passed_before: usize) {
        self.0.stop.lock().planned = Some((point, passed_before));
    }

    /// Whether it has stopped.
    pub fn stands(&self) -> bool {
        self.0.stop.lock().stands
    }

    /// Lets it go on, and no longer stop.
    pub fn release(&self) {
        *self.0.stop.lock() = Stop::default();
        self.0.released.notify_all();
    }

    /// Also when a check fails: a committer that is never released keeps its store from closing.
    pub fn released_in_the_end(&self) -> Released<'_> {
        Released(self)
    }

    /// From now on syncs do nothing and say that they did.
    pub fn lie(&self) {
        self.0.lies.store(true, Ordering::SeqCst);
    }

    pub fn lies(&self) -> bool {
        self.0.lies.load(Ordering::SeqCst)
    }

    /// What stands in the log of a directory now is on disk.
    pub fn all_is_synced(&self, dir: &Path) {
        for segment in with_ending(&dir.join("commit-log"), ".log") {
            let metadata = fs::metadata(segment).unwrap();
            self.0.synced.lock().insert(metadata.ino(), metadata.len());
        }
    }

    /// Takes out of a copy what was not synced in the original, from a part of it on; or what was not written back is zeros.
    pub fn cut_power(&self, original: &Path, copy: &Path, part_that_came: f64, zeros: bool) {
        let segments = with_ending(&original.join("commit-log"), ".log");
        let last = segments.last().unwrap();
        let synced = self.synced_bytes(last);
        let in_copy = copy.join("commit-log").join(last.file_name().unwrap());
        let file = fs::OpenOptions::new().write(true).open(&in_copy).unwrap();
        let length = file.metadata().unwrap().len();
        let unsynced = length.saturating_sub(synced);
        file.set_len(length - unsynced + (unsynced as f64 * part_that_came) as u64).unwrap();
        if zeros {
            // The file had grown, but its last bytes never came to the disk.
            file.set_len(length).unwrap();
        }
    }

    fn synced_bytes(&self, segment: &Path) -> u64 {
        // A segment is synced with its header before it is used.
        self.0.synced.lock().get(&fs::metadata(segment).unwrap().ino()).copied().unwrap_or(40)
    }
}

impl Inner {
    fn pass(&self, point: Point) {
        let mut stop = self.stop.lock();
        match &mut stop.planned {
            Some((planned, 0)) if *planned == point => stop.stands = true,
            Some((planned, left)) if *planned == point => {
                *left -= 1;
                return;
            }
            _ => return,
        }
        self.released.wait_while(&mut stop, |stop| stop.stands);
    }
}
