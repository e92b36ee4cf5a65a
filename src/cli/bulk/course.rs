//! The course of an import: which lines are under way, and what became of those before them.
//!
//! Invariants: lines are settled in the order of the input, so there is one place before which everything is settled; a
//! rejected line waits for those before it; what waits is bounded.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use super::progress::{Progress, ProgressFile};
use super::rejects::Rejects;
use super::window::{Found, Place};
use crate::client::{Imported, Profile};

/// The disk is waited for at most so often.
const BETWEEN_SYNCS: Duration = Duration::from_secs(1);
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
    /// How many profiles may be under way.
    most_in_flight: u64,
    /// When the place was on disk last.
    synced: Option<Instant>,
}

impl Course {
    /// The file is none where an import cannot go on later.
    pub fn new(progress: Progress, file: Option<ProgressFile>, rejects: Rejects, most_in_flight: u64) -> Self {
        let before = (progress.written, progress.skipped);
        let lines = VecDeque::new();
        Self { lines, bytes: 0, settled: 0, before, progress, file, rejects, most_in_flight, synced: None }
    }

    /// Whether another batch may be taken.
    pub fn has_room(&self) -> bool {
        self.lines.len() < MAX_LINES && self.bytes < MAX_BYTES
    }

    /// How far it has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Where the rejected lines are.
    pub fn rejects(&self) -> &Path {
        self.rejects.path()
    }

    /// Whether another run can go on where this one breaks off.
    pub fn can_go_on(&self) -> bool {
        self.file.is_some()
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
        if !profiles.is_empty() && self.progress.in_flight < self.most_in_flight {
            // Before anything is sent: whoever goes on must know that it may have been.
            self.progress.in_flight = self.most_in_flight;
            self.save()?;
        }
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

    /// Keeps the place, now and then also over a power cut.
    pub fn save(&mut self) -> anyhow::Result<()> {
        self.progress.rejects_bytes = self.rejects.flush()?;
        let Some(file) = &self.file else { return Ok(()) };
        let is_due = self.synced.is_none_or(|synced| synced.elapsed() >= BETWEEN_SYNCS);
        if is_due {
            self.rejects.sync()?;
        }
        file.save(&self.progress, is_due)?;
        if is_due {
            self.synced = Some(Instant::now());
        }
        Ok(())
    }

    /// Everything is settled: the place is needed no more.
    pub fn finish(self) -> anyhow::Result<()> {
        self.file.as_ref().map_or(Ok(()), ProgressFile::remove)
    }
}
