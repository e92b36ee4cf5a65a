//! Reading a part of the log while it is open and grows, with little memory.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use super::codec::LoggedGroup;
use super::frame::{HEADER_BYTES, HeaderError, SegmentHeader, read_frame};
use super::log::LogError;
use super::segment;
use crate::model::{CommitTime, Incarnation};

const BUFFER_BYTES: usize = 256 * 1024;

/// Gives every group that ends after `after` and not after `up_to` to `on_group`, in order. All of them must have been
/// appended already: a log that does not hold them is corrupt.
pub fn read_range<E>(
    dir: &Path,
    incarnation: Incarnation,
    after: u64,
    up_to: u64,
    mut on_group: impl FnMut(LoggedGroup) -> Result<(), E>,
) -> Result<(), LogError<E>> {
    let mut last_read = after;
    let firsts = segment::list(dir).map_err(|source| LogError::Io { dir: dir.to_owned(), source })?;
    let begin = firsts.partition_point(|&first| first <= after + 1).saturating_sub(1);
    for &first in firsts.get(begin..).unwrap_or_default() {
        if last_read >= up_to {
            break;
        }
        read_segment(dir, incarnation, first, |group| {
            let last = group.last_sequence();
            if last > after {
                if group.first_sequence != last_read + 1 {
                    let what = format!("the commit log has a gap: {} follows {last_read}", group.first_sequence);
                    return Err(LogError::Corrupt(what));
                }
                on_group(group).map_err(LogError::Replay)?;
                last_read = last;
            }
            Ok(if last_read >= up_to { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    if last_read == up_to {
        Ok(())
    } else {
        Err(LogError::Corrupt(format!("the commit log has no group that ends at {up_to}")))
    }
}

/// With which sequence number the log begins; `None` without a segment.
pub fn first_sequence(dir: &Path) -> io::Result<Option<u64>> {
    Ok(segment::list(dir)?.first().copied())
}

/// When the first group of a segment was committed; `None` while it has none.
pub fn begin_time(dir: &Path, incarnation: Incarnation, first_sequence: u64) -> Result<Option<CommitTime>, LogError> {
    let mut time = None;
    read_segment(dir, incarnation, first_sequence, |group| {
        time = Some(group.time);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(time)
}

fn read_segment<E>(
    dir: &Path,
    incarnation: Incarnation,
    first_sequence: u64,
    mut on_group: impl FnMut(LoggedGroup) -> Result<ControlFlow<()>, LogError<E>>,
) -> Result<(), LogError<E>> {
    read_payloads(dir, incarnation, first_sequence, |payload| {
        on_group(LoggedGroup::decode(payload).ok_or_else(|| damaged(first_sequence))?)
    })
}

/// Gives the payload of every frame of a segment to `on_payload`. What is no good frame is corruption, also at the end.
pub(super) fn read_payloads<E>(
    dir: &Path,
    incarnation: Incarnation,
    first_sequence: u64,
    mut on_payload: impl FnMut(&[u8]) -> Result<ControlFlow<()>, LogError<E>>,
) -> Result<(), LogError<E>> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged(first_sequence),
        _ => LogError::Io { dir: dir.to_owned(), source },
    };
    let file = File::open(segment::path(dir, first_sequence)).map_err(failed)?;
    let mut stream = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).map_err(failed)?;
    let salt = match SegmentHeader::decode(&header) {
        Ok(header) if header.incarnation == incarnation && header.first_sequence == first_sequence => header.salt,
        Err(HeaderError::Newer(found)) => return Err(LogError::Newer { found }),
        _ => return Err(damaged(first_sequence)),
    };
    let mut payload = Vec::new();
    while read_frame(&mut stream, salt, &mut payload).map_err(failed)? {
        if on_payload(&payload)?.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

pub(super) fn damaged<E>(first_sequence: u64) -> LogError<E> {
    LogError::Corrupt(format!("commit log segment {first_sequence} is damaged"))
}
