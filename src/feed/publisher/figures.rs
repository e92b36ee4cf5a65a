//! What the publisher has done and how far it is behind.

use std::time::Duration;

use parking_lot::Mutex;

use crate::model::CommitTime;

/// The figures of a publisher. Cheap to read at any time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// The broker takes messages, as far as there are any: while nothing was to be published over a connection it is not
    /// known whether it would.
    pub publishing: bool,
    /// Changes that are not acknowledged yet; looked at once a second.
    pub lag_changes: u64,
    /// When the oldest of them was committed, as far as it is known; `None` without any.
    pub oldest_unpublished: Option<CommitTime>,
    /// When the last acknowledged change was committed; `None` before the first.
    pub last_acknowledged: Option<CommitTime>,
    /// Messages that the broker has acknowledged.
    pub acknowledged: u64,
    /// Those of them that the broker had already.
    pub duplicates: u64,
    /// Attempts that came to nothing: connections, publishes, acknowledgements.
    pub failures: u64,
    /// Changes that were trimmed before they were published.
    pub lost: u64,
}

impl Figures {
    /// How long the oldest unpublished change has waited at a time.
    pub fn oldest_unpublished_age(&self, now: CommitTime) -> Duration {
        let waited = self.oldest_unpublished.map_or(0, |oldest| now.unix_nanos().saturating_sub(oldest.unix_nanos()));
        Duration::from_nanos(u64::try_from(waited).unwrap_or(0))
    }
}

/// Figures that one task keeps and others read.
#[derive(Debug, Default)]
pub struct SharedFigures(Mutex<Figures>);

impl SharedFigures {
    /// The figures as they are now.
    pub fn read(&self) -> Figures {
        self.0.lock().clone()
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut Figures)) {
        update(&mut self.0.lock());
    }
}
