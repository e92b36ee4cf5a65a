//! What the serving loop can tell about connections and its threads.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::runtime::RuntimeMetrics;

use super::connection::ConnectionError;

/// Why connections end, as names for figures.
const ENDS: [&str; 9] =
    ["closed", "io", "http2", "no_preface", "stalled", "silent", "too_old", "cut_at_shutdown", "panicked"];

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In good order.
    Closed,
    /// It did not drain in time.
    CutAtShutdown,
    /// Its task panicked.
    Panicked,
    /// With an error; its place among the names.
    Error(usize),
}

impl End {
    /// The end that an error makes.
    pub fn of_error(error: &ConnectionError) -> Self {
        Self::Error(match error {
            ConnectionError::Io(_) => 1,
            ConnectionError::Http2(_) | ConnectionError::Dead => 2,
            ConnectionError::NoPreface => 3,
            ConnectionError::Stalled => 4,
            ConnectionError::Silent => 5,
            ConnectionError::TooOld => 6,
        })
    }

    fn number(self) -> usize {
        match self {
            Self::Closed => 0,
            Self::Error(number) => number,
            Self::CutAtShutdown => 7,
            Self::Panicked => 8,
        }
    }
}

/// Counts of connections since the loop began, and the runtimes of its threads.
#[derive(Debug, Default)]
pub struct ServingFigures {
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    ended: [AtomicU64; ENDS.len()],
    runtimes: Mutex<Vec<RuntimeMetrics>>,
}

impl ServingFigures {
    pub(super) fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self, end: End, connections: usize) {
        self.ended[end.number()].fetch_add(connections as u64, Ordering::Relaxed);
    }

    pub(super) fn add_runtime(&self, runtime: RuntimeMetrics) {
        self.runtimes.lock().push(runtime);
    }

    /// The connections that were taken.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The connections that were closed at once because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How often accepting failed, for example for want of file descriptors.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// The connections that have ended, by the name of how.
    pub fn ended(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ENDS.iter().zip(&self.ended).map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
    }

    /// The connections that are open, within those that come and go while this is read.
    pub fn open(&self) -> u64 {
        let ended: u64 = self.ended().map(|(_, count)| count).sum();
        self.accepted().saturating_sub(ended)
    }

    /// The runtimes of the serving threads, in their order.
    pub fn runtimes(&self) -> Vec<RuntimeMetrics> {
        self.runtimes.lock().clone()
    }
}
