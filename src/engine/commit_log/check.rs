//! Checks the end of a log that nobody has open.

use std::path::Path;

use super::close_mark;
use super::segment::{self, SegmentEnd, SegmentError};
use crate::model::Incarnation;

/// What is wrong with the last segment of the log, in a sentence: a log must reach what the state behind it has applied,
/// and the mark of the last clean close. A torn end is not wrong.
pub fn check_log(dir: &Path, incarnation: Incarnation, applied: u64) -> Option<String> {
    let firsts = match segment::list(dir) {
        Ok(firsts) => firsts,
        Err(error) => return Some(format!("the commit log cannot be read: {error}")),
    };
    let first = *firsts.last()?;
    let mut next = first;
    let read = segment::read(&segment::path(dir, first), incarnation, &mut next, |_| Ok::<_, ()>(()));
    match read {
        Ok(SegmentEnd::Whole { .. } | SegmentEnd::Torn { .. } | SegmentEnd::Unborn) => {}
        Err(SegmentError::Io(error)) => return Some(format!("the commit log cannot be read: {error}")),
        Err(SegmentError::Corrupt(what)) => return Some(what),
        Err(SegmentError::Newer(found)) => return Some(format!("the commit log has the later format {found}")),
        Err(SegmentError::Group(())) => {}
    }
    if next <= applied {
        return Some(format!("the commit log ends at {} but the state behind it has applied {applied}", next - 1));
    }
    match close_mark::read(dir) {
        Err(error) => Some(error.to_string()),
        Ok(Some(marked)) if marked + 1 != next => {
            Some(format!("the commit log ends at {} but was closed cleanly at {marked}", next - 1))
        }
        Ok(_) => None,
    }
}
