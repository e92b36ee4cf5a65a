use std::fs;

use bytes::Bytes;

use super::*;
use crate::engine::digest::Digest;
use crate::model::{Canonicalization, CommitTime, Incarnation, ProfileId, Record, Revision};
use crate::store::Totals;

fn row(number: u64, profile: Option<&str>) -> SnapshotRow {
    let stored = profile.map(|profile| Bytes::from(format!("com\0\x01j{profile}")));
    SnapshotRow {
        id: ProfileId::parse(&format!("user-{number}"), "id").unwrap(),
        revision: Revision(number),
        record: stored.map(|stored| Record::from_stored(stored, 6, Revision(number)).unwrap()),
    }
}

fn write(dir: &SnapshotDir, rows: &[SnapshotRow]) -> (SnapshotHeader, SnapshotEnd) {
    dir.prepare().unwrap();
    let header = SnapshotHeader {
        incarnation: Incarnation(7),
        scan_sequence: 3,
        canonicalization: Canonicalization { fold_local_part: false },
    };
    let mut writer = SnapshotWriter::create(&dir.temporary(), &header).unwrap();
    rows.iter().for_each(|row| writer.push(row).unwrap());
    let end = SnapshotEnd {
        sequence: 9,
        time: CommitTime::from_unix_nanos(-5),
        totals: Totals { profiles: 1, domains: 2, profile_bytes: 3 },
        digest: Digest(4),
        records: writer.records(),
    };
    let bytes = writer.finish(&end).unwrap();
    assert_eq!(bytes, fs::metadata(dir.temporary()).unwrap().len());
    dir.publish(9).unwrap();
    (header, end)
}

fn read(dir: &SnapshotDir) -> Result<(SnapshotHeader, Vec<SnapshotRow>, SnapshotEnd), SnapshotError> {
    let mut reader = SnapshotReader::open(&dir.snapshot(9))?;
    let mut rows = Vec::new();
    while let Some(block) = reader.next_block()? {
        rows.extend(block);
    }
    Ok((*reader.header(), rows, reader.end().unwrap()))
}

#[test]
fn what_was_written_is_read_back_over_many_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::new(folder.path().join("snapshots"));
    let large = "x".repeat(16_000);
    let rows: Vec<_> = (1..60).map(|number| row(number, (number % 9 != 0).then_some(&*large))).collect();
    let (header, end) = write(&dir, &rows);
    assert_eq!(read(&dir).unwrap(), (header, rows, end));
    assert_eq!(dir.list().unwrap(), [9]);
}

#[test]
fn any_flipped_bit_any_missing_end_and_anything_behind_the_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::new(folder.path().join("snapshots"));
    write(&dir, &[row(1, Some("profile")), row(2, None)]);
    let whole = fs::read(dir.snapshot(9)).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(dir.snapshot(9), bytes).unwrap();
        assert!(read(&dir).is_err(), "{what}");
    };
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refused(&damaged, &format!("bit {bit}"));
    }
    for end in 0..whole.len() {
        refused(&whole[..end], &format!("cut at {end}"));
    }
    refused(&[&whole[..], &[0]].concat(), "one byte more");
}

#[test]
fn a_file_in_the_making_counts_for_nothing_and_older_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::new(folder.path().join("snapshots"));
    assert!(dir.list().unwrap().is_empty());
    write(&dir, &[]);
    fs::write(dir.temporary(), "half").unwrap();
    fs::copy(dir.snapshot(9), dir.snapshot(4)).unwrap();
    assert_eq!(dir.list().unwrap(), [4, 9]);
    dir.remove_older(9).unwrap();
    dir.prepare().unwrap();
    assert_eq!(dir.list().unwrap(), [9]);
    assert!(!dir.temporary().exists());
}
