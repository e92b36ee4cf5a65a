//! Opening, appending to and closing the log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::close_mark::{self, CloseMark};
use super::codec::{LoggedGroup, encode_group, sequence_numbers};
use super::frame::{HEADER_BYTES, MAX_PAYLOAD_BYTES, SegmentHeader, VERSION, encode_frame};
use super::reach::LogReach;
use super::recent;
use super::segment::{self, SegmentEnd, SegmentError};
use crate::engine::decision::Decided;
use crate::engine::disk::{Disk, Point};
use crate::engine::durable_file;
use crate::model::{CommitTime, Incarnation};
use crate::store::RequestMark;

/// How a log is written.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A segment that is longer than this gets a successor.
    pub segment_bytes: u64,
    /// What syncs it.
    pub disk: Disk,
}

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError<E = std::convert::Infallible> {
    /// The operating system said so.
    #[error("the commit log in {dir}: {source}")]
    Io {
        /// The log's directory.
        dir: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The content is damaged.
    #[error("{0}")]
    Corrupt(String),
    /// The log was written by a later version.
    #[error("the commit log has format {found}; this version reads up to {VERSION}")]
    Newer {
        /// The version found.
        found: u32,
    },
    /// The group is larger than a frame may be.
    #[error("a commit group of {bytes} bytes is larger than a frame of the log may be ({MAX_PAYLOAD_BYTES})")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// What the state behind the log needs next is no longer in it.
    #[error("the commit log begins at {begins} but the state behind it ends at {applied}")]
    BeginsLater {
        /// The first sequence number of the log.
        begins: u64,
        /// What the state has applied.
        applied: u64,
    },
    /// Whether the log was closed, and where, cannot be said.
    #[error(
        "the mark of the last clean close in {dir} is damaged, and perhaps nothing else; `profilestore repair` sets it aside if the commit log is whole"
    )]
    DamagedMark {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The one who takes the groups failed.
    #[error("the commit log cannot be replayed: {0}")]
    Replay(E),
}

impl<E> LogError<E> {
    fn of_segment(dir: &Path, error: SegmentError<E>) -> Self {
        match error {
            SegmentError::Io(source) => LogError::Io { dir: dir.to_owned(), source },
            SegmentError::Corrupt(what) => LogError::Corrupt(what),
            SegmentError::Newer(found) => LogError::Newer { found },
            SegmentError::Group(error) => LogError::Replay(error),
        }
    }
}

/// Whether there is a log without the mark of a clean close: who wrote it last was killed, failed, or still writes. Asked before the
/// log is opened, which takes the mark away.
pub fn was_left_open<E>(dir: &Path) -> Result<bool, LogError<E>> {
    let io = |source| LogError::Io { dir: dir.to_owned(), source };
    match close_mark::read(dir).map_err(io)? {
        CloseMark::Missing => Ok(!segment::list(dir).map_err(io)?.is_empty()),
        CloseMark::At(_) => Ok(false),
        CloseMark::Damaged => Err(LogError::DamagedMark { dir: dir.to_owned() }),
    }
}

/// The log, open for appending. One owner, one thread.
pub struct CommitLog {
    dir: PathBuf,
    incarnation: Incarnation,
    options: LogOptions,
    closed_cleanly: bool,
    file: File,
    /// The length of the current segment.
    segment_bytes: u64,
    salt: u64,
    next_sequence: u64,
    /// Reused between appends.
    buffer: Vec<u8>,
}

impl CommitLog {
    /// Opens the log in `dir`, or begins one that is empty.
    ///
    /// `applied_sequence` is the last change that the state behind the log has applied. Every group with a
    /// later change is given to `replay`, in order. A log that ends before `applied_sequence`, or before
    /// the mark of the last clean close, has lost something and is refused.
    pub fn open<E>(
        dir: &Path,
        incarnation: Incarnation,
        options: LogOptions,
        applied_sequence: u64,
        replay: impl FnMut(LoggedGroup) -> Result<(), E>,
    ) -> Result<Self, LogError<E>> {
        Self::open_to(dir, incarnation, options, applied_sequence, LogReach::default(), replay)
    }

    /// The same for a log that must reach what is known of it; a shorter one is refused, and left as it is.
    pub fn open_to<E>(
        dir: &Path,
        incarnation: Incarnation,
        options: LogOptions,
        applied_sequence: u64,
        reach: LogReach,
        mut replay: impl FnMut(LoggedGroup) -> Result<(), E>,
    ) -> Result<Self, LogError<E>> {
        let io = |source| LogError::Io { dir: dir.to_owned(), source };
        let firsts = segment::list(dir).map_err(io)?;
        let close_mark = match close_mark::read(dir).map_err(io)? {
            CloseMark::Damaged if !reach.mark_is_damaged => {
                return Err(LogError::DamagedMark { dir: dir.to_owned() });
            }
            mark => mark.sequence(),
        };
        if let Some(what) = reach.misses(!firsts.is_empty(), u64::MAX) {
            return Err(LogError::Corrupt(what));
        }
        segment::remove_unfinished(dir).map_err(io)?;
        // A kill may have come between the creation of a file and the sync of its entry.
        durable_file::sync_dir(dir).map_err(io)?;
        if let (Some(&last), None) = (firsts.last(), close_mark) {
            // What a stopped process wrote last can be read from the page cache although it is not on disk, and
            // after a failed sync the kernel takes those pages for clean, so that another sync would do nothing.
            // Written anew they are on disk before the state behind the log, and so any reader, knows them.
            let path = segment::path(dir, last);
            options.disk.pass(Point::LogRewrite).map_err(io)?;
            fs::read(&path).and_then(|bytes| durable_file::replace(&path, &bytes)).map_err(io)?;
        }
        // Older segments hold nothing that has to be replayed.
        let begin = firsts.partition_point(|&first| first <= applied_sequence + 1).saturating_sub(1);
        let to_read = firsts.get(begin..).unwrap_or_default();
        let mut next_sequence = to_read.first().copied().unwrap_or(1);
        if next_sequence > applied_sequence + 1 {
            return Err(LogError::BeginsLater { begins: next_sequence, applied: applied_sequence });
        }
        let mut end = None;
        for (position, &first) in to_read.iter().enumerate() {
            if first != next_sequence {
                let what = format!("the commit log has a gap: segment {first} follows {}", next_sequence - 1);
                return Err(LogError::Corrupt(what));
            }
            let path = segment::path(dir, first);
            let segment_end = segment::read(&path, incarnation, &mut next_sequence, |group| {
                if group.last_sequence() > applied_sequence { replay(group) } else { Ok(()) }
            })
            .map_err(|error| LogError::of_segment(dir, error))?;
            if position + 1 < to_read.len() && !matches!(segment_end, SegmentEnd::Whole { .. }) {
                return Err(LogError::Corrupt(format!("commit log segment {first} is damaged and others follow it")));
            }
            end = Some((path, segment_end));
        }
        if next_sequence <= applied_sequence {
            return Err(LogError::Corrupt(format!(
                "the commit log ends at {} but the state behind it has applied {applied_sequence}",
                next_sequence - 1
            )));
        }
        if let Some(marked) = close_mark
            && marked != next_sequence - 1
        {
            return Err(LogError::Corrupt(format!(
                "the commit log ends at {} but was closed cleanly at {marked}",
                next_sequence - 1
            )));
        }
        if let Some(what) = reach.misses(true, next_sequence) {
            return Err(LogError::Corrupt(what));
        }
        if reach.mark_is_damaged
            && let Some(what) = end.as_ref().and_then(|(_, end)| end.of_closed_log())
        {
            return Err(LogError::Corrupt(what));
        }
        if close_mark.is_some() {
            close_mark::remove(dir).map_err(io)?;
        }
        let (file, salt) = Self::open_end(dir, incarnation, next_sequence, end, &options.disk).map_err(io)?;
        let segment_bytes = file.metadata().map_err(io)?.len();
        Ok(Self {
            dir: dir.to_owned(),
            incarnation,
            options,
            closed_cleanly: close_mark.is_some(),
            file,
            segment_bytes,
            salt,
            next_sequence,
            buffer: Vec::new(),
        })
    }

    /// Begins a log whose first change has this sequence number, in a directory without one.
    pub fn begin(dir: &Path, incarnation: Incarnation, first_sequence: u64) -> io::Result<()> {
        Self::create_segment(dir, incarnation, first_sequence, &Disk::system()).map(|_| ())
    }

    /// Opens the last segment for appending, after cutting off what is torn, or begins a new one.
    fn open_end(
        dir: &Path,
        incarnation: Incarnation,
        next_sequence: u64,
        end: Option<(PathBuf, SegmentEnd)>,
        disk: &Disk,
    ) -> io::Result<(File, u64)> {
        match end {
            None => Self::create_segment(dir, incarnation, next_sequence, disk),
            Some((path, SegmentEnd::Unborn)) => {
                // In place of it and not after it: a log without a segment has lost all of them.
                disk.pass(Point::SegmentCreate)?;
                let header = SegmentHeader { incarnation, first_sequence: next_sequence, salt: rand::random() };
                durable_file::replace(&path, &header.encode())?;
                disk.pass(Point::SegmentCreated)?;
                Ok((OpenOptions::new().append(true).open(path)?, header.salt))
            }
            Some((path, SegmentEnd::Whole { salt })) => Ok((OpenOptions::new().append(true).open(path)?, salt)),
            Some((path, SegmentEnd::Torn { salt, good_bytes })) => {
                let file = OpenOptions::new().append(true).open(&path)?;
                let torn_bytes = file.metadata()?.len() - good_bytes;
                tracing::warn!(torn_bytes, next_sequence, "cut off the torn end of the commit log");
                file.set_len(good_bytes)?;
                file.sync_all()?;
                Ok((file, salt))
            }
        }
    }

    /// Whether the log was closed in good order before it was opened.
    pub fn was_closed_cleanly(&self) -> bool {
        self.closed_cleanly
    }

    /// Whether the log in `dir` holds more than the headers of segments. A missing directory holds nothing.
    pub fn has_frames(dir: &Path) -> io::Result<bool> {
        if !dir.exists() {
            return Ok(false);
        }
        for first in segment::list(dir)? {
            if fs::metadata(segment::path(dir, first))?.len() > HEADER_BYTES as u64 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The requests that the log remembers: those made at or after `since`, and at most about `max` of them, in
    /// order. The log must be open, so that its end is whole.
    pub fn recent_requests(&self, since: CommitTime, max: usize) -> Result<Vec<(RequestMark, CommitTime)>, LogError> {
        recent::recent_requests(&self.dir, self.incarnation, self.next_sequence, since, max)
    }

    /// The sequence number that the next change must have.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Appends a group and makes it durable. After an error the log must not be used any more: how much of
    /// the group is on disk is unknown, and a failed sync must never be repeated.
    pub fn append(&mut self, group: &Decided) -> Result<usize, LogError> {
        let dir = self.dir.clone();
        let io = |source| LogError::Io { dir: dir.clone(), source };
        debug_assert!(group.changes.first().is_none_or(|change| change.revision.0 == self.next_sequence));
        let first_sequence = self.next_sequence;
        self.roll_segment_when_full().map_err(&io)?;
        self.buffer.clear();
        encode_frame(self.salt, &mut self.buffer, |buffer| encode_group(first_sequence, group, buffer));
        let bytes = self.buffer.len();
        if bytes > MAX_PAYLOAD_BYTES {
            return Err(LogError::TooLarge { bytes });
        }
        self.write_and_sync().map_err(&io)?;
        self.next_sequence += sequence_numbers(group.changes.len());
        Ok(bytes)
    }

    fn roll_segment_when_full(&mut self) -> io::Result<()> {
        if self.segment_bytes > self.options.segment_bytes.max(HEADER_BYTES as u64) {
            (self.file, self.salt) =
                Self::create_segment(&self.dir, self.incarnation, self.next_sequence, &self.options.disk)?;
            self.segment_bytes = HEADER_BYTES as u64;
        }
        Ok(())
    }

    fn write_and_sync(&mut self) -> io::Result<()> {
        if let Err(error) = self.options.disk.pass(Point::LogWrite) {
            // As a full disk would: a part of it.
            self.file.write_all(&self.buffer[..self.buffer.len() / 2])?;
            return Err(error);
        }
        self.file.write_all(&self.buffer)?;
        self.options.disk.sync(&self.file)?;
        self.segment_bytes += self.buffer.len() as u64;
        Ok(())
    }

    /// Leaves the mark of a clean close.
    pub fn close(self) -> io::Result<()> {
        self.options.disk.pass(Point::CloseMark)?;
        close_mark::write(&self.dir, self.next_sequence - 1)
    }

    fn create_segment(
        dir: &Path,
        incarnation: Incarnation,
        first_sequence: u64,
        disk: &Disk,
    ) -> io::Result<(File, u64)> {
        disk.pass(Point::SegmentCreate)?;
        let header = SegmentHeader { incarnation, first_sequence, salt: rand::random() };
        let file = durable_file::create(&segment::path(dir, first_sequence), &header.encode())?;
        disk.pass(Point::SegmentCreated)?;
        Ok((file, header.salt))
    }
}
