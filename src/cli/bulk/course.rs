//! The course of an import: which lines are under way, and what became of those before them.
//!
//! Invariants: lines are settled in the order of the input, so there is one place before which everything is settled; a
//! rejected line waits for those before it; what waits is bounded.

use std::collections::VecDeque;

use super::progress::{Progress, ProgressFile};
use super::rejects::Rejects;
use super::window::{Found, Place};
use crate::client::{Imported, Profile};

/// What may wait at most, but for one batch.
const MAX_LINES: usize = 20_000;
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A line that is not settled yet.
struct UnderWay {
    line: u64,
    text: Vec<u8>,
    end: Place,
    /// Why it is not sent; `None` when it is.
    rejected: Option<String>,
}

/// The course of one import.
pub struct Course {
    lines: VecDeque<UnderWay>,
    /// The bytes of their texts.
    bytes: usize,
    /// How many of the profiles that were given to the client are settled.
    settled: u64,
    /// The counts that this run began with.
    before: (u64, u64),
    progress: Progress,
    file: Option<ProgressFile>,
    rejects: Rejects,
}

impl Course {
    /// The file is none where an import cannot go on later.
    pub fn new(progress: Progress, file: Option<ProgressFile>, rejects: Rejects) -> Self {
        let before = (progress.written, progress.skipped);
        Self { lines: VecDeque::new(), bytes: 0, settled: 0, before, progress, file, rejects }
    }

    /// Whether another batch may be taken.
    pub fn has_room(&self) -> bool {
        self.lines.len() < MAX_LINES && self.bytes < MAX_BYTES
    }

    /// How far it has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Takes lines. Returns the profiles to send.
    pub fn take(&mut self, batch: Vec<Found<Profile>>) -> anyhow::Result<Vec<Profile>> {
        let mut profiles = Vec::with_capacity(batch.len());
        for Found { content, text, line, end } in batch {
            self.bytes += text.len();
            let rejected = content.map(|profile| profiles.push(profile)).err();
            self.lines.push_back(UnderWay { line, text, end, rejected });
        }
        self.settle_up_to(self.settled, Vec::new())?;
        Ok(profiles)
    }

    /// Notes what became of profiles.
    pub fn settle(&mut self, report: Imported) -> anyhow::Result<()> {
        self.progress.written = self.before.0 + report.written;
        self.progress.skipped = self.before.1 + report.skipped;
        let refused = report.refused.into_iter().map(|each| (each.position, each.message)).collect();
        self.settle_up_to(report.position, refused)
    }

    fn settle_up_to(&mut self, position: u64, refused: Vec<(u64, String)>) -> anyhow::Result<()> {
        let mut refused = refused.into_iter().peekable();
        let mut moved = false;
        while self.lines.front().is_some_and(|line| line.rejected.is_some() || self.settled < position) {
            let Some(UnderWay { line, text, end, rejected }) = self.lines.pop_front() else { break };
            let reason = match rejected {
                Some(reason) => Some(reason),
                None => {
                    let reason = refused.next_if(|(position, _)| *position == self.settled).map(|(_, reason)| reason);
                    self.settled += 1;
                    reason
                }
            };
            if let Some(reason) = reason {
                self.rejects.add(line, &reason, &text)?;
                self.progress.rejected += 1;
            }
            self.bytes -= text.len();
            self.progress.place = end;
            moved = true;
        }
        if moved { self.save() } else { Ok(()) }
    }

    /// Keeps the place.
    pub fn save(&mut self) -> anyhow::Result<()> {
        self.progress.rejects_bytes = self.rejects.flush()?;
        self.file.as_ref().map_or(Ok(()), |file| file.save(&self.progress))
    }

    /// Everything is settled: the place is needed no more.
    pub fn finish(self) -> anyhow::Result<()> {
        self.file.as_ref().map_or(Ok(()), ProgressFile::remove)
    }
}
