use std::convert::Infallible;
use std::fs::{self, OpenOptions};

use super::*;
use crate::engine::commit_log::{CommitLog, LogOptions};
use crate::engine::decision::Decided;
use crate::engine::disk::Disk;
use crate::store::{RequestId, RequestMark};

const STORE: Incarnation = Incarnation(5);

fn at(seconds: i64) -> CommitTime {
    CommitTime::from_unix_nanos(seconds * 1_000_000_000)
}

/// Twelve groups, one a second from second 1 on, some to a segment.
fn twelve(dir: &Path) -> CommitLog {
    let options = LogOptions { segment_bytes: 150, disk: Disk::system() };
    let mut log = CommitLog::open(dir, STORE, options, 0, |_| Ok::<(), Infallible>(())).unwrap();
    for number in 1..=12 {
        let request = RequestMark { id: RequestId([number; 16]), fingerprint: 1, made_ids: Box::default() };
        log.append(&Decided { changes: Vec::new(), requests: vec![request], time: at(i64::from(number)) }).unwrap();
    }
    log
}

fn read(dir: &Path, after: u64, until: Until) -> Result<Vec<u64>, KeptLogError<Infallible>> {
    let mut given = Vec::new();
    let end = read_kept(dir, STORE, after, until, |group| {
        given.push(group.first_sequence);
        Ok(())
    })?;
    assert_eq!(end.sequence, given.last().copied().unwrap_or(after));
    Ok(given)
}

#[test]
fn a_log_that_is_open_is_read_from_anywhere_to_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let log = twelve(dir.path());
    for after in 0..=12 {
        assert_eq!(read(dir.path(), after, Until::End).unwrap(), (after + 1..=12).collect::<Vec<_>>());
        for until in after..=12 {
            let expected: Vec<_> = (after + 1..=until).collect();
            assert_eq!(read(dir.path(), after, Until::Sequence(until)).unwrap(), expected);
            assert_eq!(read(dir.path(), after, Until::Time(at(until as i64))).unwrap(), expected);
            let just_before = CommitTime::from_unix_nanos(at(until as i64 + 1).unix_nanos() - 1);
            assert_eq!(read(dir.path(), after, Until::Time(just_before)).unwrap(), expected);
        }
    }
    assert_eq!(read(dir.path(), 3, Until::Time(at(999))).unwrap().len(), 9);
    drop(log);
}

#[test]
fn what_does_not_connect_or_does_not_reach_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    drop(twelve(dir.path()));
    let firsts = segment::list(dir.path()).unwrap();
    let refused = |after, until| read(dir.path(), after, until).unwrap_err();
    let error = refused(3, Until::Sequence(13));
    assert!(matches!(error, KeptLogError::EndsBefore { ends: 12, wanted: 13 }), "{error}");
    let error = refused(13, Until::End);
    assert!(matches!(error, KeptLogError::EndsBefore { ends: 12, wanted: 13 }), "{error}");
    let foreign = read_kept(dir.path(), Incarnation(6), 0, Until::End, |_| Ok::<(), Infallible>(()));
    assert!(matches!(foreign, Err(KeptLogError::Foreign)), "{foreign:?}");
    // A hole matters to those who have to pass it.
    fs::remove_file(segment::path(dir.path(), firsts[1])).unwrap();
    let error = refused(0, Until::End);
    assert!(matches!(&error, KeptLogError::Corrupt(what) if what.contains("gap")), "{error}");
    assert_eq!(read(dir.path(), 0, Until::Sequence(firsts[1] - 1)).unwrap().len() as u64, firsts[1] - 1);
    assert_eq!(read(dir.path(), firsts[2], Until::Sequence(12)).unwrap().len() as u64, 12 - firsts[2]);
    fs::remove_file(segment::path(dir.path(), firsts[0])).unwrap();
    let error = refused(0, Until::End);
    assert!(matches!(error, KeptLogError::Gap { begins, after: 0 } if begins == firsts[2]), "{error}");
    for first in &firsts[2..] {
        fs::remove_file(segment::path(dir.path(), *first)).unwrap();
    }
    assert!(matches!(refused(0, Until::End), KeptLogError::Empty));
}

#[test]
fn a_torn_end_is_left_out_unless_the_log_was_closed_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = twelve(dir.path());
    let last = segment::path(dir.path(), *segment::list(dir.path()).unwrap().last().unwrap());
    let whole = fs::read(&last).unwrap();
    let closed = tempfile::tempdir().unwrap();
    log.close().unwrap();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, closed.path().join(path.file_name().unwrap())).unwrap();
    }
    close_mark::remove(dir.path()).unwrap();
    for cut in HEADER_BYTES + 1..whole.len() {
        for dir in [dir.path(), closed.path()] {
            OpenOptions::new()
                .write(true)
                .open(dir.join(last.file_name().unwrap()))
                .unwrap()
                .set_len(cut as u64)
                .unwrap();
        }
        let mut given = 0;
        let end = read_kept(dir.path(), STORE, 0, Until::End, |_| {
            given += 1;
            Ok::<(), Infallible>(())
        });
        let end = end.unwrap();
        assert!(end.sequence < 12 && end.sequence == given, "cut at {cut}: {end:?}");
        let refused = read(closed.path(), 0, Until::End);
        assert!(matches!(refused, Err(KeptLogError::Corrupt(_))), "cut at {cut}: {refused:?}");
        // What is wanted lies before the cut.
        assert_eq!(read(closed.path(), 0, Until::Sequence(given)).unwrap().len() as u64, given);
        fs::write(&last, &whole).unwrap();
        fs::write(closed.path().join(last.file_name().unwrap()), &whole).unwrap();
    }
}

#[test]
fn a_flipped_bit_is_never_given_and_stops_only_those_who_want_what_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(twelve(dir.path()));
    let firsts = segment::list(dir.path()).unwrap();
    let first = firsts[1];
    let path = segment::path(dir.path(), first);
    let whole = fs::read(&path).unwrap();
    for byte in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[byte] ^= 1 << (byte % 8);
        fs::write(&path, &damaged).unwrap();
        let refused = read(dir.path(), 0, Until::End);
        assert!(
            matches!(refused, Err(KeptLogError::Corrupt(_) | KeptLogError::Newer(_))),
            "byte {byte}: {refused:?}"
        );
        assert_eq!(read(dir.path(), 0, Until::Sequence(first - 1)).unwrap().len() as u64, first - 1, "byte {byte}");
        assert_eq!(read(dir.path(), firsts[2], Until::End).unwrap().len() as u64, 12 - firsts[2], "byte {byte}");
    }
}
