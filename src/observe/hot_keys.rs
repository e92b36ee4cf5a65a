//! The profiles and domains that are read most, over the last minute: always on, in bounded memory.
//!
//! Each thread that serves has counts of its own (`window`), so threads do not wait for each other; they are put
//! together when somebody asks. What most reads cost is a thread-local number and a counter that goes down; of many
//! reads one in up to 64 is counted, under a lock that only those who ask ever contend for.
//!
//! Invariants: a read is noted once, by whoever answers it. What is reported as a bound of the error covers what
//! bounded memory can have added, and three standard deviations of the sample.

mod counters;
mod window;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::counters::Count;
use self::window::{Part, SLICE, SLICES, Window};

/// A slice of a thread is exact for so many ids.
const IDS: usize = 1024;
/// The same for domains.
const DOMAINS: usize = 256;

/// Counts of the ids that are read and of the domains that are queried.
#[derive(Debug)]
pub struct HotKeys {
    ids: Stream,
    domains: Stream,
    began: Instant,
}

/// The keys that were read most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hottest {
    /// Profiles by id, the most read first.
    pub ids: Vec<HotKey>,
    /// Domains, the most queried first.
    pub domains: Vec<HotKey>,
    /// How far back the figures go: up to a minute.
    pub window: Duration,
}

/// A key and how often it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotKey {
    /// The id or the domain.
    pub key: String,
    /// Estimated reads in the window.
    pub reads: u64,
    /// By how much the estimate is too high at most.
    pub error: u64,
}

impl HotKeys {
    /// Counts for so many threads that serve; with more they share.
    pub fn new(threads: usize) -> Self {
        Self::with_seed(threads, rand::random())
    }

    fn with_seed(threads: usize, seed: u64) -> Self {
        Self {
            ids: Stream::new(threads, IDS, seed),
            domains: Stream::new(threads, DOMAINS, !seed),
            began: Instant::now(),
        }
    }

    /// Notes that a profile was read, or was asked for and is absent.
    #[inline]
    pub fn note_id(&self, id: &str) {
        self.ids.cell().note(id, || self.slice());
    }

    /// Notes that several profiles were.
    #[inline]
    pub fn note_ids<'a>(&self, ids: impl ExactSizeIterator<Item = &'a str>) {
        self.ids.cell().note_all(ids, || self.slice());
    }

    /// Notes that a domain was queried.
    #[inline]
    pub fn note_domain(&self, domain: &str) {
        self.domains.cell().note(domain, || self.slice());
    }

    /// The keys that were read most in the last minute, at most so many of each kind.
    pub fn hottest(&self, limit: usize) -> Hottest {
        let slice = self.slice();
        let oldest = SLICE.as_millis() as u64 * (slice + 1).saturating_sub(SLICES);
        Hottest {
            ids: self.ids.hottest(slice, limit),
            domains: self.domains.hottest(slice, limit),
            window: self.began.elapsed().saturating_sub(Duration::from_millis(oldest)),
        }
    }

    /// The number of the slice of time that is now.
    fn slice(&self) -> u64 {
        self.began.elapsed().as_secs() / SLICE.as_secs()
    }
}

/// The counts of one kind of keys.
#[derive(Debug)]
struct Stream {
    cells: Box<[Cell]>,
}

/// One thread's counts, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
struct Cell {
    /// How many keys are to be left out before the next is counted. Written by its thread, and set to nothing by who
    /// asks; threads that share it can lose a step of it, which changes nothing but which key is counted.
    left_out: AtomicU32,
    window: Mutex<Window>,
}

impl Stream {
    fn new(threads: usize, capacity: usize, seed: u64) -> Self {
        let cell = |number: u64| Cell {
            left_out: AtomicU32::new(0),
            window: Mutex::new(Window::new(capacity, seed.wrapping_add(number))),
        };
        Self { cells: (0..threads.max(1).next_power_of_two() as u64).map(cell).collect() }
    }

    /// The counts of this thread.
    #[inline]
    fn cell(&self) -> &Cell {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        // Threads that serve come one after another, so each gets counts of its own.
        let number = NUMBER.with(|number| *number);
        &self.cells[number & (self.cells.len() - 1)]
    }

    fn hottest(&self, slice: u64, limit: usize) -> Vec<HotKey> {
        let parts: Vec<_> = self.cells.iter().flat_map(|cell| cell.parts(slice)).collect();
        hottest(&parts, limit)
    }
}

impl Cell {
    #[inline]
    fn note(&self, key: &str, slice: impl FnOnce() -> u64) {
        match self.left_out.load(Ordering::Relaxed) {
            0 => self.count(slice(), key),
            left => self.left_out.store(left - 1, Ordering::Relaxed),
        }
    }

    #[inline]
    fn note_all<'a>(&self, mut keys: impl ExactSizeIterator<Item = &'a str>, slice: impl Fn() -> u64) {
        while keys.len() > 0 {
            let left = self.left_out.load(Ordering::Relaxed);
            let passed = keys.len().min(left as usize);
            self.left_out.store(left - passed as u32, Ordering::Relaxed);
            if let Some(key) = keys.nth(passed) {
                self.count(slice(), key);
            }
        }
    }

    #[cold]
    fn count(&self, slice: u64, key: &str) {
        let left_out = self.window.lock().add(slice, key);
        self.left_out.store(left_out, Ordering::Relaxed);
    }

    fn parts(&self, slice: u64) -> Vec<Arc<Part>> {
        let mut window = self.window.lock();
        let parts = window.parts(slice);
        // A thread that has become idle leaves out no key of those that come now and then.
        if window.counts_all() {
            self.left_out.store(0, Ordering::Relaxed);
        }
        parts
    }
}

/// Puts together what slices of several threads know of the same keys.
///
/// A part that does not count a key adds the most that the key can have there, as an error.
fn hottest(parts: &[Arc<Part>], limit: usize) -> Vec<HotKey> {
    let floors: u64 = parts.iter().map(|part| part.leaders.floor).sum();
    let mut sums: HashMap<&str, (Count, f64)> = HashMap::new();
    for part in parts {
        let floor = part.leaders.floor;
        for (key, count) in &part.leaders.keys {
            let unknown = Count { estimate: floors, error: floors };
            let (sum, variance) = sums.entry(key).or_insert((unknown, 0.0));
            // The error of a count is at most its part's floor, and the floor is in the sum.
            sum.estimate += count.estimate - floor;
            sum.error -= floor - count.error;
            *variance += (count.estimate * (part.interval - 1)) as f64;
        }
    }
    let mut keys: Vec<_> = sums
        .into_iter()
        .map(|(key, (count, variance))| {
            let sampling = (3.0 * variance.sqrt()).ceil() as u64;
            let error = (count.error + sampling).min(count.estimate);
            HotKey { key: key.to_owned(), reads: count.estimate, error }
        })
        .collect();
    keys.sort_unstable_by(|a, b| b.reads.cmp(&a.reads).then_with(|| a.key.cmp(&b.key)));
    keys.truncate(limit);
    keys
}
