//! Who holds which part of the log, in a file beside it.
//!
//! ```text
//! holds of 0123456789abcdef          the store's incarnation
//! publisher 42                       what comes after sequence number 42 is held
//! crc32c 1a2b3c4d                    of all the lines before
//! ```
//!
//! Invariants: what is held is durable before anybody relies on it; one lock is held while the file is replaced and
//! while the log is trimmed, so that no trimming overtakes a hold that it has not seen.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::head::Head;
use super::scan_pool::{Cancelled, ScanPool};
use crate::engine::commit_log::{LogReader, Trimmed, bytes_after};
use crate::engine::{durable_file, sequence};
use crate::model::Incarnation;
use crate::store::{Hold, HoldName, MAX_HOLDS, Position, StoreError};

/// Calls that wait; one goes on at a time, since each may wait for the disk.
const WAITING_CALLS: usize = 1024;

/// The holds of a store on disk.
pub struct Holds {
    path: PathBuf,
    incarnation: Incarnation,
    head: Arc<Head>,
    log: Arc<LogReader>,
    /// After which sequence number each name holds the log, as it is in the file.
    held: Mutex<BTreeMap<HoldName, u64>>,
    /// A file was set aside, and none was written between that and the opening.
    were_lost: bool,
    calls: ScanPool,
}

impl Holds {
    /// Reads the file. One that is damaged or of another life of the store is set aside: then nobody holds anything,
    /// and who did begins anew. That is remembered until the next file is written, over restarts too.
    pub fn open(path: PathBuf, incarnation: Incarnation, head: Arc<Head>, log: Arc<LogReader>) -> io::Result<Self> {
        let held = match fs::read(&path) {
            Ok(bytes) => parse(&bytes, incarnation).map_or_else(|| set_aside(&path), Ok)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let were_lost = !path.exists() && aside(&path).exists();
        let (held, calls) = (Mutex::new(held), ScanPool::new(1, WAITING_CALLS));
        Ok(Self { path, incarnation, head, log, held, were_lost, calls })
    }

    /// Whether there may have been holds that damage has taken.
    pub fn were_lost(&self) -> bool {
        self.were_lost
    }

    /// Holds what comes after a position.
    pub async fn hold(self: &Arc<Self>, name: &HoldName, position: &Position) -> Result<(), StoreError> {
        let (this, name, after) = (self.clone(), name.clone(), self.head.sequence_of(position)?);
        self.calls.run(move |_| this.hold_after(name, after)).await
    }

    fn hold_after(&self, name: HoldName, after: u64) -> Result<(), StoreError> {
        let mut held = self.held.lock();
        let oldest = self.oldest()?;
        if after < oldest {
            return Err(StoreError::Truncated { oldest: self.head.position(oldest) });
        }
        if held.len() >= MAX_HOLDS && !held.contains_key(&name) {
            return Err(StoreError::TooManyHolds { limit: MAX_HOLDS });
        }
        let mut moved = held.clone();
        if moved.insert(name, after) != Some(after) {
            self.write(&moved)?;
            *held = moved;
        }
        Ok(())
    }

    /// Gives a hold up; returns whether there was one.
    pub async fn release(self: &Arc<Self>, name: &HoldName) -> Result<bool, StoreError> {
        let (this, name) = (self.clone(), name.clone());
        let release = move |_: &Cancelled| {
            let mut held = this.held.lock();
            let mut left = held.clone();
            if left.remove(&name).is_none() {
                return Ok(false);
            }
            this.write(&left)?;
            *held = left;
            Ok(true)
        };
        self.calls.run(release).await
    }

    /// All holds, in the order of their names.
    pub async fn list(self: &Arc<Self>) -> Result<Vec<Hold>, StoreError> {
        let this = self.clone();
        let list = move |_: &Cancelled| {
            let (held, oldest) = (this.held.lock(), this.oldest()?);
            let each = |(name, after): (&HoldName, &u64)| {
                sequence::hold(name, this.incarnation, *after, oldest, this.head.sequence())
            };
            Ok(held.iter().map(each).collect())
        };
        self.calls.run(list).await
    }

    /// The bytes of the log behind the place that is held longest; 0 when nothing is held.
    pub async fn held_bytes(self: &Arc<Self>) -> Result<u64, StoreError> {
        let this = self.clone();
        let count = move |_: &Cancelled| {
            let after = this.held.lock().values().min().copied();
            let bytes = after.map(|after| bytes_after(this.log.dir(), after));
            bytes
                .transpose()
                .map(Option::unwrap_or_default)
                .map_err(|error| failed("the commit log cannot be read", &error))
        };
        self.calls.run(count).await
    }

    /// Refuses new calls and waits for the one that goes on.
    pub async fn close(&self) {
        self.calls.close().await;
    }

    fn oldest(&self) -> Result<u64, StoreError> {
        self.log.oldest().map_err(|error| failed("the commit log cannot be read", &error))
    }

    /// Trims the log, given the least sequence number after which it is held, while no hold is made or moved. Holds
    /// that are overtaken by it are an error in the log.
    pub fn trim<E>(&self, trim: impl FnOnce(Option<u64>) -> Result<Trimmed, E>) -> Result<Trimmed, E> {
        let held = self.held.lock();
        let trimmed = trim(held.values().min().copied())?;
        let begin = trimmed.first_sequence;
        for (name, after) in held.iter().filter(|(_, after)| trimmed.segments > 0 && **after + 1 < begin) {
            tracing::error!(
                %name,
                lost_changes = begin - 1 - after,
                "held changes have taken more of the disk than they may; the oldest were given up"
            );
        }
        Ok(trimmed)
    }

    fn write(&self, held: &BTreeMap<HoldName, u64>) -> Result<(), StoreError> {
        durable_file::replace(&self.path, &encode(held, self.incarnation)).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskLow,
            _ => failed("the holds cannot be written", &error),
        })
    }
}

fn failed(what: &str, error: &io::Error) -> StoreError {
    StoreError::Failed { cause: format!("{what}: {error}") }
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("damaged")
}

fn set_aside(path: &Path) -> io::Result<BTreeMap<HoldName, u64>> {
    let aside = aside(path);
    fs::rename(path, &aside)?;
    tracing::error!(
        file = %aside.display(),
        "the file of holds is damaged or of another store and was set aside; followers of the log begin anew at the oldest change"
    );
    Ok(BTreeMap::new())
}

fn encode(held: &BTreeMap<HoldName, u64>, incarnation: Incarnation) -> Vec<u8> {
    let mut text = format!("holds of {:016x}\n", incarnation.0);
    held.iter().for_each(|(name, after)| text.push_str(&format!("{name} {after}\n")));
    text.push_str(&format!("crc32c {:08x}\n", crc32c::crc32c(text.as_bytes())));
    text.into_bytes()
}

fn parse(bytes: &[u8], incarnation: Incarnation) -> Option<BTreeMap<HoldName, u64>> {
    let mut held = BTreeMap::new();
    let lines: Vec<_> = std::str::from_utf8(bytes).ok()?.lines().collect();
    let [_, lines @ .., _] = &lines[..] else { return None };
    for line in lines {
        let (name, after) = line.split_once(' ')?;
        held.insert(HoldName::new(name)?, after.parse().ok()?);
    }
    // What is written again exactly as it was read is of this store and whole.
    (encode(&held, incarnation) == bytes).then_some(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: Incarnation = Incarnation(0xfeed);

    #[test]
    fn a_file_is_read_as_it_was_written_and_any_changed_byte_is_noticed() {
        let name = |name| HoldName::new(name).unwrap();
        let held: BTreeMap<_, _> = [(name("a"), 0), (name("crc32c"), u64::MAX)].into();
        let bytes = encode(&held, STORE);
        assert_eq!(parse(&bytes, STORE), Some(held));
        assert_eq!(parse(&bytes, Incarnation(1)), None);
        assert_eq!(parse(&encode(&BTreeMap::new(), STORE), STORE), Some(BTreeMap::new()));
        for index in 0..bytes.len() {
            assert_eq!(parse(&bytes[..index], STORE), None);
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[index] ^= 1 << bit;
                assert_eq!(parse(&damaged, STORE), None, "byte {index}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_nobody_holds_anything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holds");
        fs::write(&path, "holds of 000000000000feed\na 1\n").unwrap();
        let log = Arc::new(LogReader::new(dir.path().to_owned(), STORE));
        let holds = Holds::open(path.clone(), STORE, Arc::new(Head::new(STORE, 0)), log).unwrap();
        assert_eq!(*holds.held.lock(), BTreeMap::new());
        assert!(!path.exists() && dir.path().join("holds.damaged").exists());
    }
}
