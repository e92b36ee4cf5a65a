//! Reading a log that was kept: the files alone, without the store that wrote them, changing nothing.
//!
//! Somebody may still append to it or trim it. What is given then ends with a frame that was whole when it was read;
//! nobody has to have been told yet that it is durable.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::close_mark::{self, CloseMark};
use super::codec::LoggedGroup;
use super::frame::{HEADER_BYTES, SegmentHeader, VERSION};
use super::segment::{self, SegmentEnd, SegmentError};
use crate::model::{CommitTime, Incarnation};

/// Up to where a kept log is wanted. Groups are taken whole, since a request is whole or absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// All of it.
    End,
    /// The groups that end at or before this sequence number, which the log must reach.
    Sequence(u64),
    /// The groups that were committed at or before this time.
    Time(CommitTime),
}

impl Until {
    fn takes(self, group: &LoggedGroup) -> bool {
        match self {
            Self::End => true,
            Self::Sequence(sequence) => group.last_sequence() <= sequence,
            Self::Time(time) => group.time <= time,
        }
    }
}

/// How reading a kept log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptEnd {
    /// The last sequence number that was given, or that was asked to begin after.
    pub sequence: u64,
    /// When that group was committed; `None` when none was given.
    pub time: Option<CommitTime>,
    /// How many changes were given.
    pub changes: u64,
    /// The log was read to its end, and half a group was there: nobody was told that it is durable.
    pub torn: bool,
}

/// Why a kept log does not give what is wanted.
#[derive(Debug, thiserror::Error)]
pub enum KeptLogError<E> {
    /// The operating system said so.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// There are no segments.
    #[error("it holds no segment of a commit log")]
    Empty,
    /// The log is of another store, or of another life of it.
    #[error("it belongs to another store, or to the time before or after a restore of this one")]
    Foreign,
    /// It begins too late.
    #[error("it begins with change {begins}, so the changes from {} on are missing", .after + 1)]
    Gap {
        /// Its first sequence number.
        begins: u64,
        /// After what it was asked to begin.
        after: u64,
    },
    /// It ends too early.
    #[error("it ends with change {ends}, before change {wanted}")]
    EndsBefore {
        /// Its last sequence number.
        ends: u64,
        /// The sequence number that it must reach.
        wanted: u64,
    },
    /// The content is damaged.
    #[error("{0}")]
    Corrupt(String),
    /// How far it must reach cannot be said.
    #[error(
        "the mark of its last clean close is damaged, so nothing says whether its end is there; move the file clean-close out of it to take what there is"
    )]
    DamagedMark,
    /// It was written by a later version.
    #[error("it has format {0}; this version reads up to {VERSION}")]
    Newer(u32),
    /// The one who takes the groups failed.
    #[error("{0}")]
    Group(E),
}

enum Stop<E> {
    Reached,
    Failed(E),
}

/// Gives every group after `after` up to `until` to `on_group`, in order. What lies behind `until` is not looked at.
pub fn read_kept<E>(
    dir: &Path,
    incarnation: Incarnation,
    after: u64,
    until: Until,
    mut on_group: impl FnMut(LoggedGroup) -> Result<(), E>,
) -> Result<KeptEnd, KeptLogError<E>> {
    // Before the segments: a log that goes on behind its mark was opened again.
    let close_mark = match close_mark::read(dir)? {
        CloseMark::Damaged => return Err(KeptLogError::DamagedMark),
        mark => mark.sequence(),
    };
    let firsts = segment::list(dir)?;
    let Some(&oldest) = firsts.first() else { return Err(KeptLogError::Empty) };
    ensure_of(dir, oldest, incarnation)?;
    let Some(begin) = firsts.partition_point(|&first| first <= after + 1).checked_sub(1) else {
        return Err(KeptLogError::Gap { begins: oldest, after });
    };
    let mut end = KeptEnd { sequence: after, time: None, changes: 0, torn: false };
    if until == Until::Sequence(after) {
        return Ok(end);
    }
    let mut next = firsts[begin];
    for (position, &first) in firsts.iter().enumerate().skip(begin) {
        if first != next {
            return Err(KeptLogError::Corrupt(format!("it has a gap: segment {first} follows change {}", next - 1)));
        }
        let read = segment::read(&segment::path(dir, first), incarnation, &mut next, |group| {
            let last = group.last_sequence();
            if last <= after {
                return Ok(());
            }
            if !until.takes(&group) {
                return Err(Stop::Reached);
            }
            end = KeptEnd {
                sequence: last,
                time: Some(group.time),
                changes: end.changes + group.changes.len() as u64,
                ..end
            };
            on_group(group).map_err(Stop::Failed)?;
            if until == Until::Sequence(last) { Err(Stop::Reached) } else { Ok(()) }
        });
        let is_last = position + 1 == firsts.len();
        match read {
            Ok(SegmentEnd::Whole { .. }) => {}
            Ok(SegmentEnd::Torn { .. }) if is_last => end.torn = true,
            Ok(SegmentEnd::Unborn) if is_last => {}
            Ok(_) => {
                return Err(KeptLogError::Corrupt(format!("segment {first} is damaged and others follow it")));
            }
            Err(SegmentError::Group(Stop::Reached)) => return Ok(end),
            Err(SegmentError::Group(Stop::Failed(error))) => return Err(KeptLogError::Group(error)),
            Err(SegmentError::Io(error)) => return Err(error.into()),
            Err(SegmentError::Corrupt(what)) => return Err(KeptLogError::Corrupt(what)),
            Err(SegmentError::Newer(found)) => return Err(KeptLogError::Newer(found)),
        }
    }
    let ends = next - 1;
    if let Some(marked) = close_mark.filter(|marked| *marked > ends) {
        return Err(KeptLogError::Corrupt(format!("it ends with change {ends} but was closed cleanly at {marked}")));
    }
    let wanted = if let Until::Sequence(sequence) = until { sequence.max(after) } else { after };
    if ends < wanted { Err(KeptLogError::EndsBefore { ends, wanted }) } else { Ok(end) }
}

/// A log of another store is called that, and not damaged.
fn ensure_of<E>(dir: &Path, first: u64, incarnation: Incarnation) -> Result<(), KeptLogError<E>> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    File::open(segment::path(dir, first))?.take(HEADER_BYTES as u64).read_to_end(&mut header)?;
    match SegmentHeader::decode(&header) {
        Ok(header) if header.incarnation != incarnation => Err(KeptLogError::Foreign),
        // Whatever else is wrong with it is found when it is read.
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
