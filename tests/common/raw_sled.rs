//! sled's own directory, opened behind the store's back.

use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for the lock of a sled that was let go of: the threads that it shares with all others of the process
/// may hold on to it for a moment longer. The store waits for the same reason.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// Opens sled's directory as the store does.
pub fn open_sled(dir: &Path) -> sled::Db {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match sled::Config::new().path(dir).segment_size(2 * 1024 * 1024).open() {
            Ok(db) => return db,
            Err(sled::Error::Io(error)) if Instant::now() < deadline && is_lock_conflict(&error) => {
                std::thread::sleep(LOCK_POLL);
            }
            Err(error) => panic!("sled does not open: {error}"),
        }
    }
}

fn is_lock_conflict(error: &std::io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}
