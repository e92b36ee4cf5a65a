//! Checks a log that nobody has open, from its first segment to its end.

use std::path::Path;

use super::close_mark::{self, CloseMark};
use super::reach::LogReach;
use super::segment::{self, SegmentEnd, SegmentError};
use crate::model::Incarnation;

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProblem {
    /// In a sentence.
    pub what: String,
    /// Where.
    pub at: DamageAt,
}

/// Where a log is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageAt {
    /// Before its end. A store opens with it.
    Middle,
    /// At its end, or the end is missing. A store does not open with it.
    End,
    /// The mark of the last clean close, and as far as is known nothing else. A store does not open with it.
    CloseMark,
}

/// The first thing that is wrong with the log: its segments must follow each other without a gap and be whole, and it must
/// reach what is known of it and the mark of the last clean close. A torn end is not wrong, unless the log was closed and nobody
/// knows where.
pub fn check_log(dir: &Path, incarnation: Incarnation, reach: LogReach) -> Option<LogProblem> {
    let at_end = |what: String| Some(LogProblem { what, at: DamageAt::End });
    let firsts = match segment::list(dir) {
        Ok(firsts) => firsts,
        Err(error) => return at_end(format!("the commit log cannot be read: {error}")),
    };
    let Some(&oldest) = firsts.first() else { return reach.misses(false, u64::MAX).and_then(at_end) };
    let (mut next, mut end) = (oldest, None);
    for (position, &first) in firsts.iter().enumerate() {
        let is_last = position + 1 == firsts.len();
        let at = if is_last { DamageAt::End } else { DamageAt::Middle };
        let problem = |what: String| Some(LogProblem { what, at });
        if first != next {
            return problem(format!("the commit log has a gap: segment {first} follows {}", next - 1));
        }
        let read = segment::read(&segment::path(dir, first), incarnation, &mut next, |_| Ok::<_, ()>(()));
        match read {
            Ok(SegmentEnd::Torn { .. } | SegmentEnd::Unborn) if !is_last => {
                return problem(format!("commit log segment {first} is damaged and others follow it"));
            }
            Ok(segment_end) => end = Some(segment_end),
            Err(SegmentError::Group(())) => {}
            Err(SegmentError::Io(error)) => return problem(format!("the commit log cannot be read: {error}")),
            Err(SegmentError::Corrupt(what)) => return problem(what),
            Err(SegmentError::Newer(found)) => {
                return problem(format!("the commit log has the later format {found}"));
            }
        }
    }
    if let Some(what) = reach.misses(true, next) {
        return at_end(what);
    }
    match close_mark::read(dir) {
        Err(error) => at_end(format!("the mark of the last clean close cannot be read: {error}")),
        Ok(CloseMark::Damaged) => {
            if let Some(what) = end.and_then(|end| end.of_closed_log()) {
                return at_end(what);
            }
            let what = "the mark of the last clean close is damaged".to_owned();
            Some(LogProblem { what, at: DamageAt::CloseMark })
        }
        Ok(CloseMark::At(marked)) if marked + 1 != next => {
            at_end(format!("the commit log ends at {} but was closed cleanly at {marked}", next - 1))
        }
        Ok(_) => None,
    }
}
