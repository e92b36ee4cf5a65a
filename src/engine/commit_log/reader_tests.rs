//! Reading beside an appender, over segments, and where some are gone.

use std::fs;
use std::path::Path;

use super::*;
use crate::engine::commit_log::CommitLog;
use crate::engine::commit_log::LogOptions;
use crate::engine::commit_log::codec::encode_group;
use crate::engine::commit_log::frame::{SegmentHeader, encode_frame};
use crate::engine::decision::Decided;
use crate::engine::disk::Disk;
use crate::engine::durable_file;
use crate::model::{Change, CommitTime, ProfileId, Revision};

const LIFE: Incarnation = Incarnation(9);
const UNBOUNDED: ChangeBounds = ChangeBounds { max_changes: usize::MAX, max_bytes: usize::MAX, through: None };

/// A group of deletes with ids that are their sequence numbers.
fn group(first: u64, changes: u64) -> Decided {
    let change = |sequence: u64| Change {
        revision: Revision(sequence),
        id: ProfileId::parse(&sequence.to_string(), "id").unwrap(),
        record: None,
        previous_bytes: Some(1),
        previous_revision: Some(Revision(0)),
        previous_index_key: None,
        trace: None,
    };
    let changes = (first..first + changes).map(change).collect();
    Decided { changes, requests: Vec::new(), time: CommitTime::from_unix_nanos(first as i64) }
}

/// Segments of ten groups of three changes each; returns the last sequence number.
fn segments(dir: &Path, count: u64) -> u64 {
    for number in 0..count {
        let first = 1 + number * 30;
        let mut bytes = SegmentHeader { incarnation: LIFE, first_sequence: first, salt: number }.encode().to_vec();
        for each in 0..10 {
            let first = first + each * 3;
            encode_frame(number, &mut bytes, |buffer| encode_group(first, &group(first, 3), buffer));
        }
        durable_file::create(&segment::path(dir, first), &bytes).unwrap();
    }
    count * 30
}

fn numbers(page: &LogPage) -> Vec<u64> {
    page.changes.iter().map(|change| change.id.as_str().parse().unwrap()).collect()
}

fn all_after(reader: &LogReader, mut after: u64, through: u64, bounds: ChangeBounds) -> Vec<u64> {
    let mut found = Vec::new();
    while after < through {
        let page = reader.read(after, through, bounds).unwrap();
        assert!(page.last_sequence > after && page.last_sequence <= through);
        after = page.last_sequence;
        found.extend(numbers(&page));
    }
    found
}

#[test]
fn any_part_of_the_log_is_read_over_all_its_segments() {
    let dir = tempfile::tempdir().unwrap();
    let last = segments(dir.path(), 4);
    let reader = LogReader::new(dir.path().to_owned(), LIFE);
    for max_changes in [1, 2, 3, 7, 1000] {
        let bounds = ChangeBounds { max_changes, ..UNBOUNDED };
        for (after, through) in [(0, last), (1, last), (29, 31), (30, 60), (44, 46), (119, 120), (120, 120)] {
            let expected: Vec<_> = (after + 1..=through).collect();
            // Once with an empty index and once with what was learned.
            for reader in [&LogReader::new(dir.path().to_owned(), LIFE), &reader] {
                assert_eq!(all_after(reader, after, through, bounds), expected, "{after} to {through}");
            }
        }
    }
}

#[test]
fn a_page_ends_with_a_group_where_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let last = segments(dir.path(), 1);
    let reader = LogReader::new(dir.path().to_owned(), LIFE);
    let page =
        |after, max_changes| numbers(&reader.read(after, last, ChangeBounds { max_changes, ..UNBOUNDED }).unwrap());
    assert_eq!(page(0, 5), [1, 2, 3]);
    assert_eq!(page(0, 2), [1, 2]);
    assert_eq!(page(2, 2), [3]);
    assert_eq!(page(2, 4), [3, 4, 5, 6]);
}

#[test]
fn segments_that_are_gone_are_truncation() {
    let dir = tempfile::tempdir().unwrap();
    let last = segments(dir.path(), 4);
    let reader = LogReader::new(dir.path().to_owned(), LIFE);
    assert_eq!(reader.oldest().unwrap(), 0);
    all_after(&reader, 0, last, ChangeBounds { max_changes: 3, ..UNBOUNDED });
    for gone in [1, 31] {
        fs::remove_file(segment::path(dir.path(), gone)).unwrap();
        let oldest = gone + 29;
        assert_eq!(reader.oldest().unwrap(), oldest);
        // Also where the index still knows the way.
        for after in [gone - 1, gone + 2, gone + 13, oldest - 1] {
            let answer = reader.read(after, last, UNBOUNDED);
            assert!(matches!(answer, Err(ReadError::Truncated { oldest: found }) if found == oldest), "{answer:?}");
        }
        assert_eq!(all_after(&reader, oldest, last, UNBOUNDED), (oldest + 1..=last).collect::<Vec<_>>());
    }
}

#[test]
fn a_hole_and_a_damaged_frame_are_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let last = segments(dir.path(), 3);
    let reader = LogReader::new(dir.path().to_owned(), LIFE);
    let corrupt = |after| {
        let answer = reader.read(after, last, UNBOUNDED);
        assert!(matches!(answer, Err(ReadError::Corrupt(_))), "{answer:?}");
    };
    fs::remove_file(segment::path(dir.path(), 31)).unwrap();
    corrupt(0);
    let path = segment::path(dir.path(), 61);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    corrupt(60);
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    corrupt(60);
}

#[test]
fn nothing_behind_the_given_end_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let last = segments(dir.path(), 1);
    let path = segment::path(dir.path(), 1);
    let whole = fs::read(&path).unwrap();
    for garbage in [&b"P"[..], b"PSGF\xff\xff\xff\xff", b"PSGF\x05\0\0\0half of a frame", &[0; 300]] {
        fs::write(&path, [&whole[..], garbage].concat()).unwrap();
        let reader = LogReader::new(dir.path().to_owned(), LIFE);
        assert_eq!(all_after(&reader, 0, last, UNBOUNDED).len() as u64, last);
        assert_eq!(all_after(&reader, last - 1, last, UNBOUNDED), [last]);
    }
}

#[test]
fn a_reader_keeps_up_with_an_appender() {
    let dir = tempfile::tempdir().unwrap();
    // Short segments, so that the reader meets new ones.
    let options = LogOptions { segment_bytes: 1024, disk: Disk::system() };
    let mut log = CommitLog::open(dir.path(), LIFE, options, 0, |_| Ok::<(), std::convert::Infallible>(())).unwrap();
    let reader = LogReader::new(dir.path().to_owned(), LIFE);
    let head = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..200 {
                let first = head.load(std::sync::atomic::Ordering::SeqCst) + 1;
                log.append(&group(first, 1 + number % 5)).unwrap();
                head.store(first + number % 5, std::sync::atomic::Ordering::SeqCst);
            }
        });
        let mut found = Vec::new();
        while found.len() < 600 {
            let after = found.len() as u64;
            let through = head.load(std::sync::atomic::Ordering::SeqCst);
            found
                .extend(numbers(&reader.read(after, through, ChangeBounds { max_changes: 7, ..UNBOUNDED }).unwrap()));
        }
        assert_eq!(found, (1..=600).collect::<Vec<_>>());
    });
}
