//! Taking the oldest segments away.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::log::LogError;
use super::range::begin_time;
use super::segment;
use crate::engine::durable_file;
use crate::engine::request_memory::REMEMBERED_FOR;
use crate::model::{CommitTime, Incarnation};

/// How much of the log is kept for those who follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// A change that is older than this may go.
    pub age: Duration,
    /// A change may go when the segments behind its own hold more bytes than this, however young it is. What was committed within
    /// the last ten minutes stays all the same, because a restart reads request ids from it; what has a time that is more
    /// than ten minutes ahead, from a clock that was wrong, does not.
    pub bytes: u64,
}

/// What of the log is held for somebody, and how much room that may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLog {
    /// What comes after this sequence number is held.
    pub after: u64,
    /// A held change may go all the same when the segments behind its own hold more bytes than this.
    pub max_bytes: u64,
}

/// What was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// How many segments.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The first sequence number that is left.
    pub first_sequence: u64,
}

/// Removes the oldest segments as long as all their changes are at or below `needed_after` and past retention at
/// `now`. `needed_after` is the least of all positions from which the store itself may have to read on: the flushed checkpoint
/// of the state and the newest snapshot. What is `held` stays too, within its bound. The last segment stays. The log may be
/// open and grow meanwhile.
pub fn trim(
    dir: &Path,
    incarnation: Incarnation,
    needed_after: u64,
    held: Option<HeldLog>,
    retention: Retention,
    now: CommitTime,
) -> Result<Trimmed, LogError> {
    let io = |source| LogError::Io { dir: dir.to_owned(), source };
    let firsts = segment::list(dir).map_err(io)?;
    let mut trimmed = Trimmed { first_sequence: firsts.first().copied().unwrap_or_default(), ..Trimmed::default() };
    let mut bytes = Vec::with_capacity(firsts.len());
    for &first in &firsts {
        bytes.push(fs::metadata(segment::path(dir, first)).map_err(io)?.len());
    }
    let mut bytes_behind: u64 = bytes.iter().sum();
    for (successor, bytes) in firsts.windows(2).zip(bytes) {
        let &[first, next_first] = successor else { break };
        bytes_behind -= bytes;
        // The successor's first change is needed for its time, so it must be there in full.
        if next_first > needed_after {
            break;
        }
        if held.is_some_and(|held| next_first > held.after + 1 && bytes_behind <= held.max_bytes) {
            break;
        }
        let Some(ended) = begin_time(dir, incarnation, next_first)? else { break };
        let older_than = |age| ended < now.saturating_sub(age);
        // A clock that was wrong by much for a moment leaves times that may not come for years. They say nothing about
        // age, and the length of the log decides alone.
        let from_the_future = ended.saturating_sub(REMEMBERED_FOR) > now;
        let may_go = older_than(REMEMBERED_FOR) && older_than(retention.age)
            || (older_than(REMEMBERED_FOR) || from_the_future) && bytes_behind > retention.bytes;
        if !may_go {
            break;
        }
        fs::remove_file(segment::path(dir, first)).map_err(io)?;
        // One after the other also on disk, so that no crash leaves a gap.
        durable_file::sync_dir(dir).map_err(io)?;
        trimmed.segments += 1;
        trimmed.bytes += bytes;
        trimmed.first_sequence = next_first;
    }
    Ok(trimmed)
}

/// The bytes of the segments that hold changes after `sequence`, the one in which it lies counted whole.
pub fn bytes_after(dir: &Path, sequence: u64) -> io::Result<u64> {
    let firsts = segment::list(dir)?;
    let begin = firsts.partition_point(|&first| first <= sequence + 1).saturating_sub(1);
    let behind = firsts.get(begin..).unwrap_or_default();
    behind.iter().try_fold(0, |bytes, &first| Ok(bytes + fs::metadata(segment::path(dir, first))?.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::commit_log::{CommitLog, LogOptions, LoggedGroup, read_range};
    use crate::engine::decision::Decided;
    use crate::engine::disk::Disk;
    use crate::store::{RequestId, RequestMark};

    const STORE: Incarnation = Incarnation(5);
    const AT_ONCE: Retention = Retention { age: Duration::ZERO, bytes: 0 };

    fn at(seconds: i64) -> CommitTime {
        CommitTime::from_unix_nanos(seconds * 1_000_000_000)
    }

    /// Ten groups, one a second, each in a segment of its own.
    fn ten_segments(dir: &Path) -> CommitLog {
        let options = LogOptions { segment_bytes: 1, disk: Disk::system() };
        let mut log = CommitLog::open(dir, STORE, options, 0, |_| Ok::<(), std::convert::Infallible>(())).unwrap();
        for number in 1..=10 {
            let request = RequestMark { id: RequestId([number; 16]), fingerprint: 1, made_ids: Box::default() };
            let group = Decided { changes: Vec::new(), requests: vec![request], time: at(i64::from(number)) };
            log.append(&group).unwrap();
        }
        log
    }

    fn first_kept(needed_after: u64, retention: Retention, now: i64) -> u64 {
        first_kept_held(needed_after, None, retention, now)
    }

    fn first_kept_held(needed_after: u64, held: Option<HeldLog>, retention: Retention, now: i64) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let log = ten_segments(dir.path());
        let trimmed = trim(dir.path(), STORE, needed_after, held, retention, at(now)).unwrap();
        let left = segment::list(dir.path()).unwrap();
        assert_eq!((left[0], left.len()), (trimmed.first_sequence, 10 - trimmed.segments));
        drop(log);
        left[0]
    }

    #[test]
    fn nothing_that_somebody_needs_goes() {
        for needed_after in 0..=10 {
            let kept = first_kept(needed_after, AT_ONCE, 100_000);
            assert!(kept <= needed_after + 1, "{kept} is the first kept, but {} is needed", needed_after + 1);
        }
        assert_eq!(first_kept(10, AT_ONCE, 100_000), 10, "the last segment stays");
        assert_eq!(first_kept(5, AT_ONCE, 100_000), 5);
    }

    #[test]
    fn what_is_held_stays_until_there_is_too_much_of_it() {
        for after in 0..=10 {
            let held = HeldLog { after, max_bytes: u64::MAX };
            assert_eq!(first_kept_held(10, Some(held), AT_ONCE, 100_000), (after + 1).min(10));
        }
        let dir = tempfile::tempdir().unwrap();
        let log = ten_segments(dir.path());
        let segment = bytes_after(dir.path(), 10).unwrap();
        drop(log);
        for (max_bytes, kept) in [(0, 10), (segment, 9), (3 * segment - 1, 8), (9 * segment, 1)] {
            let held = HeldLog { after: 0, max_bytes };
            assert_eq!(first_kept_held(10, Some(held), AT_ONCE, 100_000), kept, "{max_bytes}");
            assert_eq!(first_kept_held(4, Some(held), AT_ONCE, 100_000), kept.min(4), "what the store needs stays");
        }
    }

    #[test]
    fn what_is_young_stays_and_what_was_committed_in_the_last_ten_minutes_stays_whatever_its_size() {
        let hour = Retention { age: Duration::from_secs(3600), bytes: u64::MAX };
        // A segment's last change was before the first change of the next.
        assert_eq!(first_kept(10, hour, 3600 + 4), 3);
        assert_eq!(first_kept(10, Retention { bytes: 0, ..hour }, 3600 + 4), 10);
        assert_eq!(first_kept(10, Retention { bytes: 0, ..hour }, 600 + 4), 3);
        assert_eq!(first_kept(10, AT_ONCE, 600 + 4), 3);
    }

    #[test]
    fn times_that_a_wrong_clock_left_do_not_keep_a_log_that_has_become_long() {
        let dir = tempfile::tempdir().unwrap();
        let segment = {
            let _log = ten_segments(dir.path());
            bytes_after(dir.path(), 10).unwrap()
        };
        let keep_three = Retention { age: Duration::from_secs(3600), bytes: 3 * segment - 1 };
        // The times are those of seconds 1 to 10; the clock is back where it should be.
        assert_eq!(first_kept(10, keep_three, -601), 8);
        assert_eq!(first_kept(5, keep_three, -601), 5, "what the store needs stays");
        assert_eq!(first_kept(10, Retention { bytes: u64::MAX, ..keep_three }, -601), 1);
        assert_eq!(first_kept(10, keep_three, -590), 1, "a clock that goes back a little trims nothing early");
    }

    #[test]
    fn a_range_is_read_across_segments_while_the_log_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let log = ten_segments(dir.path());
        let read = |after, up_to| {
            let mut sequences = Vec::new();
            read_range(dir.path(), STORE, after, up_to, |group: LoggedGroup| {
                sequences.push(group.first_sequence);
                Ok::<(), std::convert::Infallible>(())
            })
            .map(|()| sequences)
        };
        assert_eq!(read(0, 10).unwrap(), (1..=10).collect::<Vec<_>>());
        assert_eq!(read(3, 6).unwrap(), [4, 5, 6]);
        assert!(read(3, 11).is_err());
        fs::remove_file(segment::path(dir.path(), 5)).unwrap();
        assert!(read(3, 7).unwrap_err().to_string().contains("gap"));
        drop(log);
    }

    #[test]
    fn the_bytes_after_a_sequence_are_those_of_its_segment_and_all_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = ten_segments(dir.path());
        let all = bytes_after(dir.path(), 0).unwrap();
        assert_eq!(bytes_after(dir.path(), 5).unwrap(), all / 2);
        assert_eq!(bytes_after(dir.path(), 10).unwrap(), all / 10);
        drop(log);
    }
}
