//! The span of a commit group, for those of its writes whose traces are recorded.
//!
//! A group is nobody's alone, so its span has a trace of its own and is linked to the spans of its writes. A group
//! without such a write costs nothing.

use std::time::SystemTime;

use crate::trace::{Shared, Stretch, TraceParent};

/// The group that is being made.
#[derive(Debug, Default)]
pub(super) struct GroupTrace {
    /// The spans of its writes, each once. Empty: nobody wants to know.
    links: Vec<TraceParent>,
    /// When the first of them was met.
    started: Option<SystemTime>,
    parts: Vec<(&'static str, Stretch)>,
}

impl GroupTrace {
    /// A commit is in the group.
    pub fn add(&mut self, trace: Option<TraceParent>) {
        let Some(trace) = trace else { return };
        if !self.links.contains(&trace) {
            self.links.push(trace);
        }
        self.started.get_or_insert_with(SystemTime::now);
    }

    /// Does a part of the work.
    pub fn part<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        if self.links.is_empty() {
            return work();
        }
        let started = SystemTime::now();
        let done = work();
        self.parts.push((name, (started, SystemTime::now())));
        done
    }

    /// The group is made, or has failed.
    pub fn end(&mut self, changes: usize, failed: bool) {
        let Self { links, started, parts } = std::mem::take(self);
        if let Some(started) = started {
            let figures = [("profilestore.changes", i64::try_from(changes).unwrap_or(i64::MAX))];
            let stretch = (started, SystemTime::now());
            let group =
                Shared { name: "commit_group", stretch, links: &links, figures: &figures, parts: &parts, failed };
            group.record();
        }
    }
}
