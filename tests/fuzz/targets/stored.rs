//! What is read from the disk: values of sled, segments of the commit log, snapshots. Damage is refused, not
//! believed; what is taken is read the same again; nothing panics, whatever passes its checksum.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use profilestore::engine::Disk;
use profilestore::engine::commit_log::{
    CommitLog, DamageAt, LogOptions, LogReach, LogReader, LoggedGroup, check_log, read_range,
};
use profilestore::engine::sled::keys::{self, Applied, AtId, Counters};
use profilestore::engine::snapshot::{
    SnapshotEnd, SnapshotError, SnapshotHeader, SnapshotReader, SnapshotRow, SnapshotWriter,
};
use profilestore::model::{Canonicalization, CommitTime, Etag, Incarnation, Record};
use profilestore::store::{ChangeBounds, Totals};

use super::{Input, scratch};

const INCARNATION: Incarnation = Incarnation(7);
const SALT: u64 = 0x5a17;

/// A value in sled's tree under a key.
pub fn record(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.byte();
    let key = input.chunk();
    let value = match mode % 3 {
        0 => input.0.to_vec(),
        1 => with_record_checksum(key, &mut input),
        _ => sealed(key, input.0),
    };
    if let Some(record) = keys::decode_entry(key, &value) {
        assert_eq!(keys::encode_entry(key, &record), value);
        look_at(&record);
    }
    let here = [&[0], &value[..]].concat();
    for value in [&value, &here] {
        match keys::decode_at_id(key, value) {
            Some(AtId::Record(record)) => {
                assert_eq!(keys::encode_here(key, &record), *value);
                look_at(&record);
            }
            Some(AtId::InIndex(index_key)) => assert_eq!(keys::encode_in_index(key, &index_key), *value),
            None => {}
        }
    }
    if let Some(counters) = Counters::decode(key, &value) {
        assert_eq!(counters.encode(key), value);
    }
    for value in [value, sealed(keys::APPLIED, input.0)] {
        if let Some(applied) = Applied::decode(&value) {
            assert_eq!(applied.encode(), value);
        }
    }
}

fn with_record_checksum(key: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let revision = input.word().to_le_bytes();
    let crc = crc32c::crc32c(&[key, &revision, input.0].concat());
    [&revision[..], &crc.to_le_bytes(), input.0].concat()
}

fn sealed(key: &[u8], content: &[u8]) -> Vec<u8> {
    let crc = crc32c::crc32c(&[key, content].concat());
    [content, &crc.to_le_bytes()].concat()
}

/// Everything that is asked of a record whose bytes may be anything.
fn look_at(record: &Record) {
    let decoded = record.decode();
    let (update_time, id) = (record.update_time(), record.id_bytes());
    if let Some(key) = record.index_key() {
        assert_eq!(key.as_bytes(), record.index_key_bytes());
        let domain = key.domain_key();
        assert_eq!(domain.with_ancestors().last(), Some(domain.clone()));
        assert!(!domain.domain().as_str().is_empty());
    }
    let Ok(profile) = decoded else { return };
    if id.is_none() {
        assert_eq!(profile.id, "");
    }
    if update_time.is_none() {
        assert!(profile.update_time.is_none() || profile.update_time == Some(Default::default()));
    }
    let old = Etag::from_caller(profile.etag.clone());
    let new = Etag::new(INCARNATION, record.revision());
    if profile.etag.len() == new.as_str().len()
        && let Some(changed) = record.with_etag(&old, &new)
    {
        assert_eq!(changed.profile_len(), record.profile_len());
        assert_eq!(changed.index_key_bytes(), record.index_key_bytes());
    }
}

/// The files of a commit log.
pub fn commit_log(data: &[u8]) {
    let mut input = Input(data);
    let dir = scratch();
    if input.byte() % 4 == 0 {
        let _ = LoggedGroup::decode(input.0).map(|group| (group.last_sequence(), group.rows().count()));
        write_segment(dir.path(), 1, input.0);
    } else {
        write_log(dir.path(), &mut input);
    }
    let Some((groups, next)) = open_log(dir.path()) else { return };
    // The torn end is gone now, and everything else is as it was.
    assert_eq!(open_log(dir.path()), Some((groups.clone(), next)));
    let mut reach = LogReach::default();
    reach.raise(next - 1, "what was read is");
    assert_eq!(check_log(dir.path(), INCARNATION, reach), None);
    reach.raise(next, "one more is");
    assert!(check_log(dir.path(), INCARNATION, reach).is_some_and(|problem| problem.at == DamageAt::End));
    let mut in_range = Vec::new();
    read_range(dir.path(), INCARNATION, 0, next - 1, |group| {
        in_range.push(group);
        Ok::<_, Infallible>(())
    })
    .expect("what can be opened can be read");
    assert_eq!(in_range, groups);
    let changes: usize = groups.iter().map(|group| group.changes.len()).sum();
    assert_eq!(changes_by_pages(dir.path(), next - 1), changes);
}

/// The groups of a log and its next sequence number, if it can be opened.
fn open_log(dir: &Path) -> Option<(Vec<LoggedGroup>, u64)> {
    let options = LogOptions { segment_bytes: 1 << 20, disk: Disk::system() };
    let mut groups = Vec::new();
    let log = CommitLog::open(dir, INCARNATION, options, 0, |group| {
        groups.push(group);
        Ok::<_, Infallible>(())
    })
    .ok()?;
    let mut next = 1;
    for group in &groups {
        assert_eq!(group.first_sequence, next, "no gap");
        next = group.last_sequence() + 1;
    }
    assert_eq!(log.next_sequence(), next);
    let requests: usize = groups.iter().map(|group| group.requests.len()).sum();
    let remembered =
        log.recent_requests(CommitTime::from_unix_nanos(i64::MIN), usize::MAX).expect("the log is whole");
    assert_eq!(remembered.len(), requests);
    Some((groups, next))
}

fn changes_by_pages(dir: &Path, through: u64) -> usize {
    let reader = LogReader::new(dir.to_owned(), INCARNATION);
    let bounds = ChangeBounds { max_changes: 3, max_bytes: 4096, through: None };
    let (mut after, mut changes) = (0, 0);
    while after < through {
        let page = reader.read(after, through, bounds).expect("what can be opened can be read");
        assert!(page.last_sequence > after, "a page goes on");
        (after, changes) = (page.last_sequence, changes + page.changes.len());
    }
    changes
}

/// Segments of good and bad frames in any order.
fn write_log(dir: &Path, input: &mut Input<'_>) {
    let (mut segment, mut bytes, mut next) = (1, segment_header(1), 1_u64);
    while !input.is_empty() {
        let kind = input.byte() % 6;
        let chunk = input.chunk();
        // A payload begins with its sequence number.
        let mut payload = vec![1 << 3];
        push_varint(&mut payload, next);
        payload.extend_from_slice(chunk);
        match kind {
            0..3 => {
                if let Some(group) = LoggedGroup::decode(&payload) {
                    next = group.last_sequence() + 1;
                }
                push_frame(&mut bytes, &payload, 0);
            }
            3 => {
                let _ = LoggedGroup::decode(chunk);
                push_frame(&mut bytes, chunk, u32::from(input.byte() % 2));
            }
            4 => bytes.extend_from_slice(chunk),
            _ => {
                write_segment(dir, segment, &bytes);
                (segment, bytes) = (next, segment_header(next));
            }
        }
    }
    write_segment(dir, segment, &bytes);
}

fn write_segment(dir: &Path, first_sequence: u64, bytes: &[u8]) {
    fs::write(dir.join(format!("{first_sequence:020}.log")), bytes).expect("a file can be written");
}

fn segment_header(first_sequence: u64) -> Vec<u8> {
    let mut bytes = b"PSCLOG\r\n".to_vec();
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    for word in [INCARNATION.0, first_sequence, SALT] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn push_frame(bytes: &mut Vec<u8>, payload: &[u8], wrong_by: u32) {
    let length = (payload.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c(&[&SALT.to_le_bytes(), &length[..], payload].concat()) ^ wrong_by;
    bytes.extend_from_slice(b"PSGF");
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(payload);
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A snapshot's file.
pub fn snapshot(data: &[u8]) {
    let mut input = Input(data);
    let dir = scratch();
    let path = dir.path().join("a.snapshot");
    if input.byte() % 4 == 0 {
        fs::write(&path, input.0).expect("a file can be written");
        let _ = read_snapshot(&path);
        return;
    }
    let header = SnapshotHeader {
        incarnation: INCARNATION,
        scan_sequence: input.word(),
        canonicalization: Canonicalization { fold_local_part: input.byte() % 2 == 0 },
    };
    let mut bytes = header.encode().to_vec();
    while !input.is_empty() {
        let kind = input.byte() % 8;
        let payload = input.chunk();
        let length = (payload.len() as u32).to_le_bytes();
        let crc = crc32c::crc32c(&[&length, payload].concat()) ^ u32::from(kind == 0);
        if kind != 1 {
            bytes.extend_from_slice(&length);
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        bytes.extend_from_slice(payload);
    }
    // How many rows the end mark must promise, only the reader knows.
    fs::write(&path, &bytes).expect("a file can be written");
    let (rows, _) = read_snapshot(&path);
    bytes.extend_from_slice(&[0; 4]);
    let end = SnapshotEnd {
        sequence: header.scan_sequence,
        time: CommitTime::from_unix_nanos(1),
        totals: Totals::default(),
        digest: Default::default(),
        records: rows.len() as u64,
    };
    bytes.extend_from_slice(&end.encode(crc32c::crc32c(&bytes)));
    fs::write(&path, &bytes).expect("a file can be written");
    let (rows, found_end) = read_snapshot(&path);
    let Ok(Some(found_end)) = found_end else { return };
    assert_eq!(found_end, end);
    let again = dir.path().join("again.snapshot");
    let mut writer = SnapshotWriter::create(&again, &header).expect("a file can be written");
    rows.iter().for_each(|row| writer.push(row).expect("a file can be written"));
    writer.finish(&end).expect("a file can be written");
    let (rows_again, end_again) = read_snapshot(&again);
    assert_eq!((rows_again, end_again.ok().flatten()), (rows, Some(end)));
}

/// The rows in front of the first fault, and the end mark if there is none.
fn read_snapshot(path: &Path) -> (Vec<SnapshotRow>, Result<Option<SnapshotEnd>, SnapshotError>) {
    let mut rows = Vec::new();
    let mut reader = match SnapshotReader::open(path) {
        Ok(reader) => reader,
        Err(error) => return (rows, Err(error)),
    };
    loop {
        match reader.next_block() {
            Ok(Some(block)) => rows.extend(block),
            Ok(None) => return (rows, Ok(reader.end())),
            Err(error) => return (rows, Err(error)),
        }
    }
}
