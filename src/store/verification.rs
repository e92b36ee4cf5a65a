//! What a check of the whole store says while it goes on, and at its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Something that is wrong in a store. Neither text holds personal data or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in a sentence. A profile is named by the hash of its id.
    pub description: String,
    /// What to do about it.
    pub remedy: String,
}

/// What a check of the whole store found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The number of profiles that were checked.
    pub profiles: u64,
    /// The number of index entries that were checked.
    pub index_entries: u64,
    /// What is wrong; at most [`VerifyReport::MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// How many rows and sums changed faster than they could be compared. Always 0 while nothing writes.
    pub unsettled: u64,
}

impl VerifyReport {
    /// A report lists no more problems than this.
    pub const MAX_PROBLEMS: usize = 100;
}

/// What a check has found so far. Clones share it: one is given to the check, another is read.
#[derive(Debug, Clone, Default)]
pub struct VerifyProgress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    checked: AtomicU64,
    problems: Mutex<Vec<Problem>>,
}

impl VerifyProgress {
    /// Another profile was checked.
    pub fn count_profile(&self) {
        self.0.checked.fetch_add(1, Ordering::Relaxed);
    }

    /// Profiles checked so far.
    pub fn checked(&self) -> u64 {
        self.0.checked.load(Ordering::Relaxed)
    }

    /// Notes a problem, unless there are [`VerifyReport::MAX_PROBLEMS`] already.
    pub fn add(&self, description: impl Into<String>, remedy: impl Into<String>) {
        let mut problems = self.0.problems.lock();
        if problems.len() < VerifyReport::MAX_PROBLEMS {
            problems.push(Problem { description: description.into(), remedy: remedy.into() });
        }
    }

    /// Whether no more problems are noted.
    pub fn is_full(&self) -> bool {
        self.0.problems.lock().len() >= VerifyReport::MAX_PROBLEMS
    }

    /// The problems after the first `known`.
    pub fn problems_after(&self, known: usize) -> Vec<Problem> {
        self.0.problems.lock().iter().skip(known).cloned().collect()
    }
}
