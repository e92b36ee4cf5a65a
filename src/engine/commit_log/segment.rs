//! Segment files: their names, and reading one from its start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::codec::LoggedGroup;
use super::frame::{FRAME_OVERHEAD_BYTES, HEADER_BYTES, HeaderError, SegmentHeader, frame_at, good_frame_behind};
use crate::model::Incarnation;

/// The path of the segment whose first change has this sequence number.
pub fn path(dir: &Path, first_sequence: u64) -> PathBuf {
    dir.join(format!("{first_sequence:020}.log"))
}

/// The first sequence numbers of all segments, ascending.
pub fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log"));
        let first: Option<u64> = digits.and_then(|digits| digits.parse().ok());
        firsts.extend(first);
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// Removes what a kill left of a file that was to replace another one as a whole.
pub fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// What reading a segment came to.
pub enum SegmentEnd {
    /// The file ends with its last good frame.
    Whole {
        /// The header's salt.
        salt: u64,
    },
    /// What follows the last good frame is not a frame, and no good frame follows it.
    Torn {
        /// The header's salt.
        salt: u64,
        /// The length of the good part.
        good_bytes: u64,
    },
    /// The file is no longer than a header and has no good one: its creation was interrupted.
    Unborn,
}

impl SegmentEnd {
    /// What is wrong with it as the end of a log that was closed in good order.
    pub fn of_closed_log(&self) -> Option<String> {
        let what = "the commit log was closed cleanly but does not end with a whole group, so acknowledged writes are missing from it";
        (!matches!(self, Self::Whole { .. })).then(|| what.to_owned())
    }
}

/// Why a segment cannot be read on.
pub enum SegmentError<E> {
    /// The operating system said so.
    Io(io::Error),
    /// The content is damaged, in a sentence.
    Corrupt(String),
    /// The segment is of a later version.
    Newer(u32),
    /// The one who takes the groups failed.
    Group(E),
}

/// Reads a segment and gives each group to `on_group`.
///
/// The segment must belong to `incarnation`. `expected_sequence` is the first sequence number that the segment must have; it counts on with every
/// group and says afterwards which one comes next.
pub fn read<E>(
    path: &Path,
    incarnation: Incarnation,
    expected_sequence: &mut u64,
    mut on_group: impl FnMut(LoggedGroup) -> Result<(), E>,
) -> Result<SegmentEnd, SegmentError<E>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let corrupt = |what: String| Err(SegmentError::Corrupt(format!("commit log segment {name}: {what}")));
    let bytes = fs::read(path).map_err(SegmentError::Io)?;
    let salt = match SegmentHeader::decode(&bytes) {
        Ok(found) if found.incarnation != incarnation => return corrupt("belongs to another store".into()),
        Ok(found) if found.first_sequence != *expected_sequence => {
            return corrupt(format!("begins at {} instead of {expected_sequence}", found.first_sequence));
        }
        Ok(found) => found.salt,
        Err(HeaderError::Newer(version)) => return Err(SegmentError::Newer(version)),
        Err(HeaderError::Damaged) if bytes.len() <= HEADER_BYTES => return Ok(SegmentEnd::Unborn),
        Err(HeaderError::Damaged) => return corrupt("its header is damaged".into()),
    };
    let mut offset = HEADER_BYTES;
    while let Some(payload) = frame_at(&bytes, offset, salt) {
        let Some(group) = LoggedGroup::decode(payload) else {
            return corrupt(format!("the frame at byte {offset} passes its checksum but is not a commit group"));
        };
        if group.first_sequence != *expected_sequence {
            let found = group.first_sequence;
            return corrupt(format!("the frame at byte {offset} begins at {found} instead of {expected_sequence}"));
        }
        *expected_sequence = group.last_sequence() + 1;
        offset += FRAME_OVERHEAD_BYTES + payload.len();
        on_group(group).map_err(SegmentError::Group)?;
    }
    if offset == bytes.len() {
        return Ok(SegmentEnd::Whole { salt });
    }
    if good_frame_behind(&bytes, offset, salt) {
        return corrupt(format!("the frame at byte {offset} is damaged and good ones follow it"));
    }
    Ok(SegmentEnd::Torn { salt, good_bytes: offset as u64 })
}
