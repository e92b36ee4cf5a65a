//! The one sled tree: reading it, and applying a group of changes as one batch.
//!
//! Invariant: ids, records, counters and the applied sequence change together, in one batch, so at every
//! moment (and after every crash) they agree. Two look-ups are not one snapshot, though, and neither is a
//! scan: an index entry holds its record, so a page needs no second look-up, and a look-up by id that finds
//! its record moved begins again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;

use bytes::Bytes;

use super::flusher::SledFlusher;
use super::group_effect::GroupEffect;
use super::keys::{self, Applied, AtId, Counters};
use super::scan_pool::Cancelled;
use crate::engine::decision::CurrentState;
use crate::engine::entry::{domain_page_start, domains_prefix, page_start, parse_entry, read_page, scope_prefix};
use crate::model::{Change, CommitTime, DomainKey, IndexKey, ProfileId, Record};
use crate::store::{Corruption, Cursor, DomainCount, DomainOrder, DomainPage, Page, PageBounds, Scope, StoreError};

/// The tree.
pub struct Tree {
    db: ::sled::Db,
    flusher: SledFlusher,
}

/// A group of changes, ready to become visible.
pub struct Prepared {
    batch: ::sled::Batch,
    applied: Applied,
}

impl Tree {
    /// Around an open database.
    pub fn new(db: ::sled::Db, flusher: SledFlusher) -> Self {
        Self { db, flusher }
    }

    /// Its own thread.
    pub fn flusher(&self) -> &SledFlusher {
        &self.flusher
    }

    /// sled's own handle, for opening and checking.
    pub fn db(&self) -> &::sled::Db {
        &self.db
    }

    /// How far the tree has come; zero when it is new.
    pub fn applied(&self) -> Result<Applied, StoreError> {
        match self.db.get(keys::APPLIED).map_err(sled_error)? {
            None => Ok(Applied::default()),
            Some(value) => Applied::decode(&value).ok_or_else(|| damaged("the applied sequence")),
        }
    }

    /// The counters of a domain.
    pub fn counters(&self, domain: &DomainKey) -> Result<Counters, StoreError> {
        let key = keys::domain_key(domain);
        match self.db.get(&key).map_err(sled_error)? {
            None => Ok(Counters::default()),
            Some(value) => Counters::decode(&key, &value).ok_or_else(|| damaged("a domain's counters")),
        }
    }

    /// What `changes`, whose effect is known, do to the tree. Nothing is changed.
    /// `sequence` is the last number that the group takes.
    pub fn prepare(&self, effect: &GroupEffect, changes: &[Change], sequence: u64, time: CommitTime) -> Prepared {
        let mut batch = ::sled::Batch::default();
        for change in changes {
            let id_key = keys::id_key(&change.id);
            let moves = change.moves_index_key();
            if let Some(before) = change.previous_index_key.as_ref().filter(|_| moves || change.record.is_none()) {
                // The key that was stored is removed, never one computed anew.
                batch.remove(keys::entry_key(before.as_bytes(), change.id.as_bytes()));
            }
            match &change.record {
                None => batch.remove(id_key),
                Some(record) if record.index_key_bytes().is_empty() => {
                    let value = keys::encode_here(&id_key, record);
                    batch.insert(id_key, value);
                }
                Some(record) => {
                    let entry_key = keys::entry_key(record.index_key_bytes(), change.id.as_bytes());
                    let value = keys::encode_entry(&entry_key, record);
                    batch.insert(entry_key, value);
                    if moves {
                        let value = keys::encode_in_index(&id_key, record.index_key_bytes());
                        batch.insert(id_key, value);
                    }
                }
            }
        }
        for (domain, counters) in effect.counters() {
            let key = keys::domain_key(domain);
            if counters.subtree == 0 {
                batch.remove(key);
            } else {
                let value = counters.encode(&key);
                batch.insert(key, value);
            }
        }
        let applied = effect.applied(sequence, time);
        batch.insert(keys::APPLIED, applied.encode());
        Prepared { batch, applied }
    }

    /// Makes a prepared group visible: one batch, atomic for readers and across crashes. After an error it may
    /// be there in part, and the tree must not be used for writing any more.
    pub fn apply(&self, prepared: Prepared) -> Result<Applied, StoreError> {
        self.db.apply_batch(prepared.batch).map_err(sled_error)?;
        Ok(prepared.applied)
    }

    /// Makes what was applied durable in sled too, so that the log need not be replayed from further back.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(|_| ()).map_err(sled_error)
    }

    /// One page of a scope.
    pub fn list(
        &self,
        scope: &Scope,
        after: Option<&Cursor>,
        bounds: PageBounds,
        cancelled: &Cancelled,
    ) -> Result<Page, StoreError> {
        let start = page_start(scope, after)?;
        if *scope == Scope::All {
            let rows = self.range(keys::ID, &start, Vec::new(), cancelled).filter_map(|row| {
                let (key, value) = match row {
                    Ok(row) => row,
                    Err(error) => return Some(Err(error)),
                };
                let record = self.record_at(&key, &value);
                record.map(|record| record.map(|record| (Key(key), record))).transpose()
            });
            return read_page(rows, bounds);
        }
        let rows = self.range(keys::ENTRY, &start, scope_prefix(scope), cancelled).map(|row| {
            let (key, value) = row?;
            let record = keys::decode_entry(&key, &value).ok_or_else(|| damaged("a record"))?;
            Ok((Key(key), record))
        });
        read_page(rows, bounds)
    }

    /// How many entries an e-mail has.
    pub fn count_email(&self, key: &IndexKey, cancelled: &Cancelled) -> Result<u64, StoreError> {
        let prefix = scope_prefix(&Scope::Email(key.clone()));
        let mut count = 0;
        for row in self.range(keys::ENTRY, &Bound::Included(prefix.clone()), prefix, cancelled) {
            row?;
            count += 1;
        }
        Ok(count)
    }

    /// The domains at and below `parent`, or all.
    pub fn list_domains(
        &self,
        parent: Option<&DomainKey>,
        order: DomainOrder,
        after: Option<&Cursor>,
        max_domains: usize,
        cancelled: &Cancelled,
    ) -> Result<DomainPage, StoreError> {
        let prefix = domains_prefix(parent);
        let start = domain_page_start(parent, order, after)?;
        let domains = self.range(keys::DOMAIN, &start, prefix, cancelled).map(|row| {
            let (key, value) = row?;
            let domain = DomainKey::from_stored(&key[1..]).ok_or_else(|| damaged("a domain's key"))?;
            let counters = Counters::decode(&key, &value).ok_or_else(|| damaged("a domain's counters"))?;
            Ok((domain, counters.own))
        });
        // Domains that are there only for their subdomains have no profiles of their own.
        let domains = domains.filter(|row| !matches!(row, Ok((_, 0))));
        match order {
            DomainOrder::Index => first_domains(domains, max_domains),
            DomainOrder::LargestFirst => largest_domains(domains, max_domains),
        }
    }

    /// All rows of a kind from `start` on whose keys begin with `prefix`, until cancelled.
    pub fn range<'a>(
        &self,
        kind: u8,
        start: &Bound<Vec<u8>>,
        prefix: Vec<u8>,
        cancelled: &'a Cancelled,
    ) -> impl Iterator<Item = Result<(::sled::IVec, ::sled::IVec), StoreError>> + 'a {
        let prefix = keys::key(kind, &prefix);
        let start = start.as_ref().map(|rest| keys::key(kind, rest));
        self.db
            .range((start, Bound::Unbounded))
            .take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)))
            .map(|row| {
                cancelled.check()?;
                row.map_err(sled_error)
            })
    }
}

impl Tree {
    /// The record of a row of ids; `None` when the profile has gone since the row was read.
    fn record_at(&self, id_key: &[u8], value: &[u8]) -> Result<Option<Record>, StoreError> {
        if let Found::Record(record) = self.follow(id_key, value)? {
            return Ok(Some(record));
        }
        let id = ProfileId::from_stored(&id_key[1..]).ok_or_else(|| damaged("an id"))?;
        self.record(&id)
    }

    fn follow(&self, id_key: &[u8], value: &[u8]) -> Result<Found, StoreError> {
        match keys::decode_at_id(id_key, value) {
            None => Err(damaged("a record")),
            Some(AtId::Record(record)) => Ok(Found::Record(record)),
            Some(AtId::InIndex(index_key)) => {
                let entry_key = keys::entry_key(&index_key, &id_key[1..]);
                match self.db.get(&entry_key).map_err(sled_error)? {
                    None => Ok(Found::Moved),
                    Some(value) => {
                        keys::decode_entry(&entry_key, &value).map(Found::Record).ok_or_else(|| damaged("a record"))
                    }
                }
            }
        }
    }
}

/// What came of following an id into the index.
enum Found {
    Record(Record),
    /// It is not there: a commit moved or removed it after the id was read, or it is lost.
    Moved,
}

impl CurrentState for Tree {
    fn record(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        let id_key = keys::id_key(id);
        let mut applied_before = None;
        loop {
            let Some(value) = self.db.get(&id_key).map_err(sled_error)? else { return Ok(None) };
            match self.follow(&id_key, &value)? {
                Found::Record(record) => return Ok(Some(record)),
                Found::Moved => {
                    let applied = self.applied()?.sequence;
                    if applied_before == Some(applied) {
                        // Nothing was applied during this whole attempt, so nothing has moved.
                        return Err(damaged("an index entry"));
                    }
                    applied_before = Some(applied);
                }
            }
        }
    }

    fn has_email(&self, key: &IndexKey, counts: &dyn Fn(&ProfileId) -> bool) -> Result<bool, StoreError> {
        let prefix = scope_prefix(&Scope::Email(key.clone()));
        let never = Cancelled::default();
        for row in self.range(keys::ENTRY, &Bound::Included(prefix.clone()), prefix, &never) {
            let (key, _) = row?;
            let (_, id) = parse_entry(&key[1..]).ok_or_else(|| damaged("an index entry"))?;
            if counts(&id) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A key of the tree without its kind.
struct Key(::sled::IVec);

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0[1..]
    }
}

fn first_domains(
    domains: impl Iterator<Item = Result<(DomainKey, u64), StoreError>>,
    max_domains: usize,
) -> Result<DomainPage, StoreError> {
    let mut page = DomainPage { domains: Vec::new(), next: None };
    let mut last: Option<DomainKey> = None;
    for row in domains {
        let (domain, profiles) = row?;
        if page.domains.len() == max_domains {
            page.next = last.map(|key| Cursor(Bytes::copy_from_slice(key.as_bytes())));
            break;
        }
        page.domains.push(DomainCount { domain: domain.domain(), profiles });
        last = Some(domain);
    }
    Ok(page)
}

fn largest_domains(
    domains: impl Iterator<Item = Result<(DomainKey, u64), StoreError>>,
    max_domains: usize,
) -> Result<DomainPage, StoreError> {
    // Keeps the largest seen so far, the smallest of them on top; of equal ones the earlier in the index wins.
    let mut largest = BinaryHeap::new();
    for row in domains {
        let (domain, profiles) = row?;
        largest.push(Reverse((profiles, Reverse(domain))));
        if largest.len() > max_domains {
            largest.pop();
        }
    }
    let sorted = largest.into_sorted_vec();
    let domains = sorted
        .into_iter()
        .map(|Reverse((profiles, Reverse(domain)))| DomainCount { domain: domain.domain(), profiles })
        .collect();
    Ok(DomainPage { domains, next: None })
}

/// Something in the tree fails its checksum, or cannot be.
pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Corrupt(Corruption(format!("{what} is damaged")))
}

/// Whether an error of sled says that its files are damaged, and not that the machine refuses something.
pub fn is_damage(error: &::sled::Error) -> bool {
    use std::io::ErrorKind;
    match error {
        ::sled::Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::UnexpectedEof
                | ErrorKind::InvalidData
                | ErrorKind::InvalidInput
                | ErrorKind::NotFound
                | ErrorKind::Other
        ),
        _ => true,
    }
}

/// What an error of sled means to those above. Its text may hold keys, so only its kind is passed on.
pub fn sled_error(error: ::sled::Error) -> StoreError {
    if is_damage(&error) {
        return StoreError::Corrupt(Corruption("sled found its files damaged".into()));
    }
    let cause = error.to_string();
    tracing::error!(cause, "sled failed");
    StoreError::Failed { cause: format!("sled: {cause}") }
}
