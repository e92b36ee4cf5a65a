//! Makes a snapshot of the tree while it changes, and proves it whole before it counts.
//!
//! The scan leaves out records newer than its beginning: the changes that made them are in the log and follow the
//! scan. The file is then read back, which is also where the state itself is proven: what the file amounts to must have the
//! digest and the count that the tree has kept. Without that, a record that sled had lost would be missing from the
//! snapshot, and the part of the log that still has it would be trimmed.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::keys::{self, Applied, AtId};
use super::pacer::{Pacer, Stopped};
use super::scan_pool::Cancelled;
use super::tree::Tree;
use crate::engine::commit_log::{LogError, read_range};
use crate::engine::digest::{Digest, record_hash};
use crate::engine::durable_file;
use crate::engine::entry::split_entry;
use crate::engine::snapshot::{SnapshotDir, SnapshotEnd, SnapshotError, SnapshotHeader, SnapshotReader};
use crate::engine::snapshot::{SnapshotRow, SnapshotWriter};
use crate::model::{Canonicalization, Incarnation, ProfileId};
use crate::store::StoreError;

/// The most profiles that may change while a snapshot is made, about 140 MiB of memory: what they are is kept until
/// the file has been read back.
const MAX_CHANGED: usize = 2_000_000;

/// What a snapshot is made of.
pub struct Source<'a> {
    pub tree: &'a Tree,
    pub commit_log: PathBuf,
    pub incarnation: Incarnation,
    pub canonicalization: Canonicalization,
}

/// A snapshot that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// As of which sequence.
    pub sequence: u64,
    /// How many profiles it has.
    pub profiles: u64,
    /// The length of the file.
    pub bytes: u64,
    /// How long it took, rests included.
    pub took: Duration,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFailure {
    #[error("the store is closing")]
    Stopped,
    /// More changed meanwhile than can be kept.
    #[error("too much changed while it was made")]
    TooManyChanges,
    #[error("there is not enough room on the disk")]
    NoRoom,
    #[error("the file: {0}")]
    File(#[from] SnapshotError),
    #[error(transparent)]
    Log(#[from] LogError<StoreError>),
    /// The state cannot be read.
    #[error(transparent)]
    Store(StoreError),
    /// The state is not what it should be: it was damaged, and must be built anew.
    #[error("the state is damaged: {0}")]
    Damaged(String),
}

impl From<Stopped> for SnapshotFailure {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<StoreError> for SnapshotFailure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt(what) => Self::Damaged(what.0),
            other => Self::Store(other),
        }
    }
}

impl From<std::io::Error> for SnapshotFailure {
    fn from(error: std::io::Error) -> Self {
        Self::File(error.into())
    }
}

/// What the changes behind the scan leave of a profile: the hash of the record, if any.
///
/// By a hash of its id of 128 bits with keys of its own: callers choose ids, and two that they knew to share a
/// hash would make a sound state look damaged.
#[derive(Default)]
struct Changed {
    records: HashMap<(u64, u64), Option<u64>>,
    keys: (RandomState, RandomState),
}

impl Changed {
    fn insert(&mut self, id: &ProfileId, record: Option<u64>) {
        self.records.insert(self.key(id), record);
    }

    fn has(&self, id: &ProfileId) -> bool {
        self.records.contains_key(&self.key(id))
    }

    fn key(&self, id: &ProfileId) -> (u64, u64) {
        (self.keys.0.hash_one(id.as_bytes()), self.keys.1.hash_one(id.as_bytes()))
    }
}

/// Makes a snapshot, and removes the ones before.
pub fn make(source: &Source, dir: &SnapshotDir, pacer: &mut Pacer) -> Result<Snapshot, SnapshotFailure> {
    let started = Instant::now();
    let made = write(source, dir, pacer).and_then(|(end, bytes, changed)| {
        prove(dir, &end, &changed, pacer)?;
        dir.publish(end.sequence)?;
        dir.remove_older(end.sequence)?;
        Ok(Snapshot { sequence: end.sequence, profiles: end.totals.profiles, bytes, took: started.elapsed() })
    });
    if made.is_err() {
        // The next run removes it if this does not.
        let _ = durable_file::remove_if_there(&dir.temporary());
    }
    made
}

fn write(
    source: &Source,
    dir: &SnapshotDir,
    pacer: &mut Pacer,
) -> Result<(SnapshotEnd, u64, Changed), SnapshotFailure> {
    dir.prepare()?;
    let scan_sequence = source.tree.applied()?.sequence;
    let header =
        SnapshotHeader { incarnation: source.incarnation, scan_sequence, canonicalization: source.canonicalization };
    let mut writer = SnapshotWriter::create(&dir.temporary(), &header)?;
    for kind in [keys::ID, keys::ENTRY] {
        scan(source.tree, kind, scan_sequence, &mut writer, pacer)?;
    }
    let Applied { sequence, time, totals, digest } = source.tree.applied()?;
    let mut changed = Changed::default();
    if sequence > scan_sequence {
        copy_changes(source, scan_sequence..sequence, &mut writer, &mut changed, pacer)?;
    }
    let digest = digest.ok_or_else(|| SnapshotFailure::Damaged("it has no digest".into()))?;
    let end = SnapshotEnd { sequence, time, totals, digest, records: writer.records() };
    let bytes = writer.finish(&end)?;
    Ok((end, bytes, changed))
}

/// The records of one kind of rows that are not newer than the scan.
fn scan(
    tree: &Tree,
    kind: u8,
    scan_sequence: u64,
    writer: &mut SnapshotWriter,
    pacer: &mut Pacer,
) -> Result<(), SnapshotFailure> {
    let damaged = || SnapshotFailure::Damaged("a record fails its checksum".into());
    let never = Cancelled::default();
    for row in tree.range(kind, &Bound::Included(Vec::new()), Vec::new(), &never) {
        let (key, value) = row?;
        let (id, record) = if kind == keys::ID {
            match keys::decode_at_id(&key, &value).ok_or_else(damaged)? {
                AtId::Record(record) => (&key[1..], record),
                AtId::InIndex(_) => continue,
            }
        } else {
            let (_, id) = split_entry(&key[1..]).ok_or_else(damaged)?;
            (id, keys::decode_entry(&key, &value).ok_or_else(damaged)?)
        };
        if record.revision().0 <= scan_sequence {
            let id = ProfileId::from_stored(id).ok_or_else(damaged)?;
            writer.push(&SnapshotRow { id, revision: record.revision(), record: Some(record) })?;
        }
        pacer.pause()?;
    }
    Ok(())
}

/// The changes that were made during the scan.
fn copy_changes(
    source: &Source,
    during: std::ops::Range<u64>,
    writer: &mut SnapshotWriter,
    changed: &mut Changed,
    pacer: &mut Pacer,
) -> Result<(), SnapshotFailure> {
    let mut failure = None;
    let read = read_range(&source.commit_log, source.incarnation, during.start, during.end, |group| {
        let copied = group.rows().try_for_each(|row| {
            let hash = row.record.as_ref().map(|_| record_hash(row.id.as_bytes(), row.revision));
            changed.insert(&row.id, hash);
            if changed.records.len() > MAX_CHANGED {
                return Err(SnapshotFailure::TooManyChanges);
            }
            writer.push(&row)?;
            Ok(pacer.pause()?)
        });
        copied.map_err(|error| {
            failure = Some(error);
            StoreError::Closed
        })
    });
    match (failure, read) {
        (Some(failure), _) => Err(failure),
        (None, read) => Ok(read?),
    }
}

/// Reads the file back, and compares what it amounts to with what the tree has kept.
fn prove(dir: &SnapshotDir, end: &SnapshotEnd, changed: &Changed, pacer: &mut Pacer) -> Result<(), SnapshotFailure> {
    let mut reader = SnapshotReader::open(&dir.temporary())?;
    let scan_sequence = reader.header().scan_sequence;
    let mut digest = Digest::default();
    let mut profiles = 0;
    changed.records.values().flatten().for_each(|&hash| {
        digest.add(hash);
        profiles += 1;
    });
    while let Some(rows) = reader.next_block()? {
        for row in rows.iter().filter(|row| row.revision.0 <= scan_sequence) {
            if !changed.has(&row.id) {
                digest.add(record_hash(row.id.as_bytes(), row.revision));
                profiles += 1;
            }
        }
        pacer.pause()?;
    }
    if reader.end() != Some(*end) {
        return Err(SnapshotError::Damaged("it is not as it was written".into()).into());
    }
    if profiles != end.totals.profiles || digest != end.digest {
        return Err(SnapshotFailure::Damaged(
            "the records are not those that the digest of all changes was made of".into(),
        ));
    }
    Ok(())
}

/// Reads a snapshot of an earlier run once more, since disks forget.
pub fn is_good(dir: &SnapshotDir, sequence: u64, pacer: &mut Pacer) -> Result<(), SnapshotFailure> {
    let mut reader = SnapshotReader::open(&dir.snapshot(sequence))?;
    while reader.next_block()?.is_some() {
        pacer.pause()?;
    }
    match reader.end() {
        Some(end) if end.sequence == sequence => Ok(()),
        _ => Err(SnapshotError::Damaged("its name is not its sequence".into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_changed_profile_is_kept_is_known_to_nobody_beforehand() {
        let id = ProfileId::parse("user-1", "id").unwrap();
        let (mut first, second) = (Changed::default(), Changed::default());
        assert_ne!(first.key(&id), second.key(&id));
        assert_ne!(first.key(&id).0, first.key(&id).1);
        first.insert(&id, None);
        assert!(first.has(&id) && !first.has(&ProfileId::parse("user-2", "id").unwrap()));
    }
}
