//! What is counted while a load runs.
//!
//! Invariants: every measured request is counted once, as succeeded or under the code of its failure; memory does
//! not grow with the number of requests.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::call::{Answer, Failure};
use super::mix::Operation;
use crate::client::Code;

/// Times are kept in nanoseconds from this one, to three digits, up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_nanos(500);
/// Longer than any call may take and than any backlog lasts; what is longer counts as this.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// A request that began so much after its time is called late.
pub const LATE: Duration = Duration::from_millis(1);

/// A distribution of times.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Times {
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(nanos(SHORTEST), nanos(LONGEST), 3);
        Self(histogram.unwrap_or_else(|_| unreachable!("the bounds are constants and in order")))
    }

    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(nanos(time));
    }

    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// The time within which this share of all lie, from 0 to 1; zero when there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(share))
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What became of the calls of one kind, or of all.
#[derive(Debug, Clone)]
pub struct CallTally {
    /// How long those that succeeded took, in an open loop from when they were due.
    pub latencies: Times,
    /// The same of all calls, also of those that failed: one that runs into its time has taken all of it.
    pub with_failures: Times,
    /// How many profiles came back, or were written.
    pub profiles: u64,
    /// How many failed, by code.
    failed: [u64; CODES],
}

/// The codes of gRPC are 0 to 16.
const CODES: usize = 17;

impl CallTally {
    pub fn new() -> Self {
        Self { latencies: Times::new(), with_failures: Times::new(), profiles: 0, failed: [0; CODES] }
    }

    pub fn succeeded(&self) -> u64 {
        self.latencies.count()
    }

    pub fn failed(&self) -> u64 {
        self.failed.iter().sum()
    }

    /// The codes with which calls failed, with how many did.
    pub fn failures(&self) -> impl Iterator<Item = (Code, u64)> {
        (0..).map(Code::from_i32).zip(self.failed).filter(|(_, count)| *count > 0)
    }

    pub fn merge(&mut self, other: &Self) {
        self.latencies.merge(&other.latencies);
        self.with_failures.merge(&other.with_failures);
        self.profiles += other.profiles;
        self.failed.iter_mut().zip(other.failed).for_each(|(count, more)| *count += more);
    }
}

/// What an open loop did with its schedule.
#[derive(Debug, Clone)]
pub struct Punctuality {
    /// How long after their times requests began.
    pub lateness: Times,
    /// How many of them were [`LATE`].
    pub late: u64,
    /// How many were due and never began.
    pub not_begun: u64,
}

/// What one worker counts.
#[derive(Debug)]
pub struct Tally {
    pub calls: [CallTally; Operation::ALL.len()],
    pub punctuality: Punctuality,
    /// The first failure.
    pub first_failure: Option<Failure>,
    /// What the live display has not shown yet; `None` when there is none.
    recent: Option<Recent>,
}

/// What happened since the live display was last asked for.
#[derive(Debug, Clone)]
pub struct Recent {
    pub latencies: Times,
    pub failed: u64,
}

impl Recent {
    pub fn new() -> Self {
        Self { latencies: Times::new(), failed: 0 }
    }
}

impl Tally {
    pub fn new(live: bool) -> Self {
        Self {
            calls: std::array::from_fn(|_| CallTally::new()),
            punctuality: Punctuality { lateness: Times::new(), late: 0, not_begun: 0 },
            first_failure: None,
            recent: live.then(Recent::new),
        }
    }

    /// Counts an answer that took so long.
    pub fn count(&mut self, answer: Answer, took: Duration) {
        let call = &mut self.calls[answer.operation as usize];
        call.with_failures.add(took);
        match answer.result {
            Ok(profiles) => {
                call.latencies.add(took);
                call.profiles += profiles;
                if let Some(recent) = &mut self.recent {
                    recent.latencies.add(took);
                }
            }
            Err(failure) => {
                call.failed[(failure.code as usize).min(CODES - 1)] += 1;
                if let Some(recent) = &mut self.recent {
                    recent.failed += 1;
                }
                self.first_failure.get_or_insert(failure);
            }
        }
    }

    /// Counts a request of an open loop that began so long after its time.
    pub fn count_begun(&mut self, lateness: Duration) {
        self.punctuality.lateness.add(lateness);
        self.punctuality.late += u64::from(lateness > LATE);
    }

    /// Moves what happened since the last time over to `into`.
    pub fn take_recent(&mut self, into: &mut Recent) {
        if let Some(recent) = &mut self.recent {
            into.latencies.merge(&recent.latencies);
            into.failed += std::mem::take(&mut recent.failed);
            recent.latencies.clear();
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.calls.iter_mut().zip(&other.calls).for_each(|(mine, other)| mine.merge(other));
        self.punctuality.lateness.merge(&other.punctuality.lateness);
        self.punctuality.late += other.punctuality.late;
        self.punctuality.not_begun += other.punctuality.not_begun;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}
