//! The requests that the log remembers, read back when the store opens.
//!
//! The newest segment first, until one reaches back far enough. Of each group only its number, its time and its requests
//! are decoded; the profiles are passed over.

use std::ops::ControlFlow;
use std::path::Path;

use super::codec::LoggedRequests;
use super::log::LogError;
use super::range::{damaged, read_payloads};
use super::segment;
use crate::model::{CommitTime, Incarnation};
use crate::store::RequestMark;

/// The requests made at or after `since`, and at most `max` of them, in order. The log must end at `next_sequence`, whole:
/// a segment that does not lead to the one behind it is corruption.
pub(super) fn recent_requests(
    dir: &Path,
    incarnation: Incarnation,
    next_sequence: u64,
    since: CommitTime,
    max: usize,
) -> Result<Vec<(RequestMark, CommitTime)>, LogError> {
    let firsts = segment::list(dir).map_err(|source| LogError::Io { dir: dir.to_owned(), source })?;
    let (mut newest_first, mut behind) = (Vec::new(), next_sequence);
    for first in firsts.into_iter().rev() {
        let (mut found, mut reaches_back, mut next) = (Vec::new(), false, first);
        read_payloads(dir, incarnation, first, |payload| {
            let group = LoggedRequests::decode(payload).filter(|group| group.first_sequence == next);
            let group = group.ok_or_else(|| damaged(first))?;
            next = group.next_sequence;
            if group.time < since {
                reaches_back = true;
            } else {
                found.extend(group.requests.into_iter().map(|request| (request, group.time)));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if next != behind {
            let what = format!("commit log segment {first} ends before {next} but {behind} follows it");
            return Err(LogError::Corrupt(what));
        }
        behind = first;
        newest_first.extend(found.into_iter().rev());
        if reaches_back || newest_first.len() >= max {
            break;
        }
    }
    newest_first.truncate(max);
    newest_first.reverse();
    Ok(newest_first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::commit_log::{CommitLog, LogOptions};
    use crate::engine::decision::Decided;
    use crate::engine::disk::Disk;
    use crate::store::RequestId;

    const STORE: Incarnation = Incarnation(5);

    fn at(seconds: i64) -> CommitTime {
        CommitTime::from_unix_nanos(seconds * 1_000_000_000)
    }

    /// Twelve groups with one request each, one a second, some to a segment.
    fn log(dir: &Path) -> CommitLog {
        let options = LogOptions { segment_bytes: 150, disk: Disk::system() };
        let mut log = CommitLog::open(dir, STORE, options, 0, |_| Ok::<(), std::convert::Infallible>(())).unwrap();
        for number in 1..=12 {
            let request = RequestMark { id: RequestId([number; 16]), fingerprint: 1, made_ids: Box::default() };
            let group = Decided { changes: Vec::new(), requests: vec![request], time: at(i64::from(number)) };
            log.append(&group).unwrap();
        }
        log
    }

    #[test]
    fn what_was_made_since_is_found_over_all_segments_and_the_newest_if_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        assert!(segment::list(dir.path()).unwrap().len() > 3);
        let found = |since, max| {
            let requests = recent_requests(dir.path(), STORE, log.next_sequence(), at(since), max).unwrap();
            requests.into_iter().map(|(request, _)| request.id.0[0]).collect::<Vec<_>>()
        };
        assert_eq!(found(0, 100), (1..=12).collect::<Vec<_>>());
        for since in 1..=13 {
            assert_eq!(found(since, 100), (since as u8..=12).collect::<Vec<_>>());
        }
        assert_eq!(found(0, 5), [8, 9, 10, 11, 12]);
        assert_eq!(found(11, 5), [11, 12]);
    }

    #[test]
    fn a_segment_that_lost_its_end_is_corruption_wherever_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let firsts = segment::list(dir.path()).unwrap();
        for &first in &firsts[..firsts.len() - 1] {
            let path = segment::path(dir.path(), first);
            let whole = std::fs::read(&path).unwrap();
            for cut in 0..whole.len() {
                std::fs::write(&path, &whole[..cut]).unwrap();
                let read = recent_requests(dir.path(), STORE, log.next_sequence(), at(0), 100);
                assert!(matches!(read, Err(LogError::Corrupt(_))), "cut at {cut}: {read:?}");
            }
            std::fs::write(&path, whole).unwrap();
        }
        assert_eq!(recent_requests(dir.path(), STORE, log.next_sequence(), at(0), 100).unwrap().len(), 12);
    }
}
