//! Notices that sled's own thread has ended.
//!
//! It writes what was applied and, what only it does, reclaims the space of what was replaced. On an error it ends with a line
//! in the log and nothing else: sled goes on, and grows until the disk is full. sled has no way to ask for it, so it is
//! looked for among the threads of this process by its name.
//!
//! A thread of the same name that came later may be that of another store in this process. So with several stores the end of
//! one may be missed, but a thread that goes on is never taken for one that has ended: a look that fails in any way, for want
//! of file descriptors for example, says nothing, and so does one that does not find the thread that looks.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

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

/// The threads of this process that have the name; `None` when that cannot be said.
fn threads() -> Option<BTreeSet<u32>> {
    let own = fs::read_link("/proc/thread-self").ok()?;
    threads_in(Path::new("/proc/self/task"), number(own.file_name()?)?).ok()?
}

/// The same by a folder of threads, in which that of `own` must be found, or the look is worth nothing.
fn threads_in(tasks: &Path, own: u32) -> io::Result<Option<BTreeSet<u32>>> {
    let (mut named, mut found_own) = (BTreeSet::new(), false);
    for task in fs::read_dir(tasks)? {
        let task = task?;
        let Some(number) = number(&task.file_name()) else { continue };
        let name = match fs::read_to_string(task.path().join("comm")) {
            Ok(name) => name,
            Err(error) if has_ended(&error) => continue,
            Err(error) => return Err(error),
        };
        found_own |= number == own;
        if name.trim_end() == NAME {
            named.insert(number);
        }
    }
    Ok(found_own.then_some(named))
}

fn number(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// Whether an error says that there is no such thread any more, and not that it could not be looked at.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of threads: this one, the flusher, and one that has ended since the folder was read.
    fn tasks() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (number, name) in [("1", "main\n"), ("2", "log flusher\n")] {
            fs::create_dir(dir.path().join(number)).unwrap();
            fs::write(dir.path().join(number).join("comm"), name).unwrap();
        }
        fs::create_dir(dir.path().join("3")).unwrap();
        dir
    }

    #[test]
    fn the_flusher_is_found_by_its_name_and_one_that_has_ended_is_not() {
        let dir = tasks();
        assert_eq!(threads_in(dir.path(), 1).unwrap(), Some(BTreeSet::from([2])));
        fs::remove_dir_all(dir.path().join("2")).unwrap();
        assert_eq!(threads_in(dir.path(), 1).unwrap(), Some(BTreeSet::new()));
        assert!(threads().is_some(), "this process can be looked at");
    }

    #[test]
    fn a_look_that_fails_or_does_not_find_who_looks_says_nothing() {
        let dir = tasks();
        assert_eq!(threads_in(dir.path(), 4).unwrap(), None, "the listing is not whole");
        // An error that is not that of a thread which has ended, as with too many open files.
        fs::remove_file(dir.path().join("2/comm")).unwrap();
        fs::create_dir(dir.path().join("2/comm")).unwrap();
        threads_in(dir.path(), 1).unwrap_err();
        threads_in(&dir.path().join("none"), 1).unwrap_err();
        assert!(
            has_ended(&Errno::SRCH.into()) && !has_ended(&Errno::MFILE.into()) && !has_ended(&Errno::NFILE.into())
        );
    }
}
