//! Notices that sled's own thread has ended.
//!
//! It writes what was applied and, what only it does, reclaims the space of what was replaced. On an error it ends with a line
//! in the log and nothing else: sled goes on, and grows until the disk is full. sled has no way to ask for it, so it is
//! looked for among the threads of this process by its name.
//!
//! A thread of the same name that came later may be that of another store in this process. So with several stores the end of
//! one may be missed, but a thread that goes on is never taken for one that has ended.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

/// What sled calls it.
const NAME: &str = "log flusher";
/// It gives itself its name, which may take a moment: it has ended when it is not found so many looks in a row.
const LOOKS: u32 = 2;

/// The flusher of one open sled.
#[derive(Debug)]
pub struct SledFlusher {
    /// The threads of that name before it was begun; `None` where threads cannot be looked at.
    before: Option<BTreeSet<u32>>,
    missed: AtomicU32,
}

impl SledFlusher {
    /// Before sled is opened.
    pub fn before_open() -> Self {
        Self { before: threads(), missed: AtomicU32::new(0) }
    }

    /// Looks for it. Asked from time to time.
    pub fn has_ended(&self) -> bool {
        let (Some(before), Some(now)) = (&self.before, threads()) else { return false };
        if now.difference(before).next().is_some() {
            self.missed.store(0, Ordering::Relaxed);
            return false;
        }
        self.missed.fetch_add(1, Ordering::Relaxed) + 1 >= LOOKS
    }
}

/// The threads of this process that have the name.
fn threads() -> Option<BTreeSet<u32>> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let has_name = |task: &fs::DirEntry| {
        // A thread that has ended meanwhile has none.
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim_end() == NAME)
    };
    let named = tasks.filter_map(Result::ok).filter(has_name);
    Some(named.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect())
}
