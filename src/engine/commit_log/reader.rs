//! Reading the log while it is appended to.
//!
//! A reader is told how far the log is durable and applied and never looks at anything behind that, so it needs no
//! lock against the one who appends. It finds its way by a sparse index of frames that it builds as it reads: the
//! first frame of each 64 KiB, and the places where the last pages ended.
//!
//! Invariants: what is given has no gap; a segment that has gone is truncation, a hole between two that are there
//! is corruption; the index is only ever a shortcut and has a bound.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::codec::LoggedGroup;
use super::frame_walk::{FrameWalk, Place};
use super::segment;
use crate::engine::sequence;
use crate::model::Incarnation;
use crate::store::{ChangeBounds, CommittedChange};

const BLOCK_BYTES: u64 = 64 * 1024;
/// With one entry for 64 KiB they cover 4 GiB of log; behind that a search reads a segment from its start.
const MAX_INDEXED: usize = 65_536;
const MAX_RECENT: usize = 256;
/// How often a search begins anew because the segment it was to read has just been removed.
const SEARCHES: usize = 3;

/// Why changes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system said so.
    #[error("the commit log cannot be read: {0}")]
    Io(io::Error),
    /// The content is damaged.
    #[error("{0}")]
    Corrupt(String),
    /// The segment that had them is gone.
    #[error("the commit log begins after {oldest}")]
    Truncated {
        /// The sequence number after which everything is there.
        oldest: u64,
    },
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::InvalidData { Self::Corrupt(error.to_string()) } else { Self::Io(error) }
    }
}

/// Some changes of the log.
#[derive(Debug, PartialEq, Eq)]
pub struct LogPage {
    /// The changes in order.
    pub changes: Vec<CommittedChange>,
    /// The last sequence number that the page covers.
    pub last_sequence: u64,
}

/// Reads the log of a directory.
pub struct LogReader {
    dir: PathBuf,
    incarnation: Incarnation,
    /// Guards the index; never held while the disk is read.
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    /// By first sequence number: the first frame of each block.
    indexed: BTreeMap<u64, Place>,
    /// Where pages ended: the next sequence number and the frame that has it or will have it.
    recent: VecDeque<(u64, Place)>,
}

impl LogReader {
    /// A reader of the log in a directory; nothing is read yet.
    pub fn new(dir: PathBuf, incarnation: Incarnation) -> Self {
        Self { dir, incarnation, places: Mutex::default() }
    }

    /// Where the log is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The sequence number after which everything is there.
    pub fn oldest(&self) -> io::Result<u64> {
        Ok(segment::list(&self.dir)?.first().map_or(0, |first| first - 1))
    }

    /// The changes after a sequence number, up to `through`, which must be durable. A page ends with a commit
    /// group where it can.
    pub fn read(&self, after: u64, through: u64, bounds: ChangeBounds) -> Result<LogPage, ReadError> {
        self.read_watched(after, through, bounds, &|| ())
    }

    /// The same; `comes_on` is told of each commit group that is read or passed.
    pub fn read_watched(
        &self,
        after: u64,
        through: u64,
        bounds: ChangeBounds,
        comes_on: &dyn Fn(),
    ) -> Result<LogPage, ReadError> {
        let mut page = Page::new(self.incarnation, after, through, bounds);
        if after >= through {
            return Ok(page.page);
        }
        let mut passed = Vec::new();
        let (mut walk, mut expected) = self.seek(after + 1, &mut passed, comes_on)?;
        let mut block = None;
        let end = loop {
            comes_on();
            let place = walk.place(expected);
            if page.is_full() {
                break place;
            }
            let Some(payload) = walk.next()? else {
                walk = self.next_segment(place)?;
                continue;
            };
            if block.replace(place.offset / BLOCK_BYTES) != Some(place.offset / BLOCK_BYTES) {
                passed.push(place);
            }
            let group = LoggedGroup::decode(payload).filter(|group| group.first_sequence == expected);
            let Some(group) = group else {
                return Err(ReadError::Corrupt(format!("the commit log has no good group at {expected}")));
            };
            let last_sequence = group.last_sequence();
            page.take(group);
            if page.page.last_sequence < last_sequence {
                break place;
            }
            expected = last_sequence + 1;
        };
        self.places.lock().remember(passed, (page.page.last_sequence + 1, end));
        Ok(page.page)
    }

    /// The frame that has a sequence number.
    fn seek(&self, next: u64, passed: &mut Vec<Place>, comes_on: &dyn Fn()) -> Result<(FrameWalk, u64), ReadError> {
        if let Some(place) = self.places.lock().ended_before(next)
            && let Some(walk) = FrameWalk::at(&self.dir, place)?
        {
            return Ok((walk, place.first_sequence));
        }
        for _ in 0..SEARCHES {
            let firsts = segment::list(&self.dir)?;
            let Some(segment) = firsts.partition_point(|&first| first <= next).checked_sub(1) else { break };
            let segment = firsts[segment];
            let known = self.places.lock().indexed_before(next, segment);
            let walk = match known {
                Some(place) => FrameWalk::at(&self.dir, place)?,
                None => FrameWalk::open(&self.dir, segment, self.incarnation)?,
            };
            let Some(mut walk) = walk else {
                self.places.lock().forget(segment);
                continue;
            };
            let first_sequence = known.map_or(segment, |place| place.first_sequence);
            let from = walk.place(first_sequence);
            let place = walk_to(&mut walk, next, from, passed, comes_on)?;
            return Ok((walk, place.first_sequence));
        }
        Err(ReadError::Truncated { oldest: self.oldest()? })
    }

    /// The segment that goes on where another one ended.
    fn next_segment(&self, end: Place) -> Result<FrameWalk, ReadError> {
        let next = end.first_sequence;
        if next != end.segment
            && let Some(walk) = FrameWalk::open(&self.dir, next, self.incarnation)?
        {
            return Ok(walk);
        }
        let oldest = self.oldest()?;
        if oldest >= next {
            return Err(ReadError::Truncated { oldest });
        }
        Err(ReadError::Corrupt(format!("the commit log has no group at {next}")))
    }
}

/// Goes on from a known frame to the one that has the sequence number `next`.
fn walk_to(
    walk: &mut FrameWalk,
    next: u64,
    from: Place,
    passed: &mut Vec<Place>,
    comes_on: &dyn Fn(),
) -> io::Result<Place> {
    let (mut found, mut block) = (from, from.offset / BLOCK_BYTES);
    while let Some(first_sequence) = walk.peek()?.filter(|first| *first <= next) {
        comes_on();
        found = walk.place(first_sequence);
        if found.offset / BLOCK_BYTES != block {
            block = found.offset / BLOCK_BYTES;
            passed.push(found);
        }
        walk.skip()?;
    }
    walk.go_to(found);
    Ok(found)
}

impl Places {
    fn ended_before(&self, next: u64) -> Option<Place> {
        self.recent.iter().rev().find(|(sequence, _)| *sequence == next).map(|(_, place)| *place)
    }

    fn indexed_before(&self, next: u64, segment: u64) -> Option<Place> {
        self.indexed.range(segment..=next).next_back().map(|(_, place)| *place)
    }

    fn remember(&mut self, passed: Vec<Place>, end: (u64, Place)) {
        self.indexed.extend(passed.into_iter().map(|place| (place.first_sequence, place)));
        while self.indexed.len() > MAX_INDEXED {
            self.indexed.pop_first();
        }
        if self.ended_before(end.0).is_none() {
            self.recent.push_back(end);
        }
        if self.recent.len() > MAX_RECENT {
            self.recent.pop_front();
        }
    }

    fn forget(&mut self, segment: u64) {
        self.indexed.retain(|_, place| place.segment != segment);
        self.recent.retain(|(_, place)| place.segment != segment);
    }
}

/// A page in the making.
struct Page {
    page: LogPage,
    incarnation: Incarnation,
    through: u64,
    bounds: ChangeBounds,
    bytes: usize,
    /// A change did not fit any more.
    full: bool,
}

impl Page {
    fn new(incarnation: Incarnation, after: u64, through: u64, bounds: ChangeBounds) -> Self {
        let page = LogPage { changes: Vec::new(), last_sequence: after };
        Self { page, incarnation, through, bounds, bytes: 0, full: false }
    }

    fn is_full(&self) -> bool {
        self.full || self.page.last_sequence >= self.through
    }

    /// Takes what is wanted of a group and fits. A group that does not fit as a whole is left to the next page,
    /// so that its frame is not read twice, unless the page would be empty.
    fn take(&mut self, group: LoggedGroup) {
        let last_sequence = group.last_sequence().min(self.through);
        let fit = (self.page.changes.len(), self.bytes);
        let before = self.page.last_sequence;
        for (change, number) in group.changes.into_iter().zip(group.first_sequence..=self.through) {
            if number <= before {
                continue;
            }
            let change = CommittedChange {
                position: sequence::position(self.incarnation, number),
                time: group.time,
                id: change.id,
                record: change.record,
                previous_index_key: change.previous_index_key,
                trace: change.trace,
            };
            if !self.bounds.has_room_for(&change, self.page.changes.len(), self.bytes) {
                self.full = true;
                if fit.0 > 0 {
                    self.page.changes.truncate(fit.0);
                    self.bytes = fit.1;
                    self.page.last_sequence = before;
                }
                return;
            }
            self.bytes += change.cost();
            self.page.last_sequence = number;
            self.page.changes.push(change);
        }
        self.page.last_sequence = last_sequence;
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
