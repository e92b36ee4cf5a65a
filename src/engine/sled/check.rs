//! A check of the whole tree against its own totals and digest, as fast as the tree can be read.
//!
//! sled can lose a damaged message at recovery without a word, and then a leaf is as it was some time ago: every
//! value in it passes its checksum. What is lost, old or twice is found here, because the totals and the digest
//! were kept with every change. Three passes in key order, the first two side by side: ids, index entries,
//! counters. Each pass adds up digests, so nothing is looked up and memory does not grow with the store.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::domain_counts::DomainCounts;
use super::keys::{self, Applied, AtId, Counters};
use super::scan_pool::Cancelled;
use super::tree::Tree;
use crate::engine::digest::{Digest, hash, record_hash};
use crate::engine::entry::split_entry;
use crate::store::{Corruption, StoreError, Totals};

const DOMAIN_END: u8 = 0x01;

/// What a pass found.
#[derive(Default)]
struct Found {
    profiles: u64,
    profile_bytes: u64,
    records: Digest,
    /// Of the index entries that ids lead to, or that there are.
    entries: Digest,
    domains: u64,
    /// Of the counters of all domains.
    counters: Digest,
}

/// Compares everything in the tree with what `applied` says it holds, and returns the digest. Exact while nothing
/// writes. [`StoreError::Corrupt`] says in a sentence what does not agree.
pub fn check(tree: &Tree, applied: &Applied) -> Result<Digest, StoreError> {
    let (ids, entries) = std::thread::scope(|scope| {
        let ids = scope.spawn(|| guarded(|| read_ids(tree)));
        let entries = guarded(|| read_entries(tree));
        (ids.join().unwrap_or_else(|_| Err(panicked())), entries)
    });
    let (ids, entries) = (ids?, entries?);
    let domains = guarded(|| read_domains(tree))?;
    let mut records = ids.records;
    records.add(entries.records.0);
    let totals = Totals {
        profiles: ids.profiles,
        domains: domains.domains,
        profile_bytes: ids.profile_bytes + entries.profile_bytes,
    };
    let disagreement = if ids.entries != entries.entries {
        "ids and index entries do not lead to each other".to_owned()
    } else if entries.counters != domains.counters {
        "the counters of the domains are not those that the index entries add up to".to_owned()
    } else if totals != applied.totals {
        format!("the totals are {:?} but the records add up to {totals:?}", applied.totals)
    } else if applied.digest.is_some_and(|digest| digest != records) {
        "some records are older than they should be".to_owned()
    } else {
        return Ok(records);
    };
    Err(corrupt(disagreement))
}

/// sled panics on some damaged pages.
fn guarded(pass: impl FnOnce() -> Result<Found, StoreError>) -> Result<Found, StoreError> {
    catch_unwind(AssertUnwindSafe(pass)).unwrap_or_else(|_| Err(panicked()))
}

fn read_ids(tree: &Tree) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let never = Cancelled::default();
    for row in tree.range(keys::ID, &Bound::Included(Vec::new()), Vec::new(), &never) {
        let (key, value) = row?;
        found.profiles += 1;
        match keys::decode_at_id(&key, &value).ok_or_else(|| corrupt("a record is damaged".into()))? {
            AtId::Record(record) => {
                found.profile_bytes += record.profile_len() as u64;
                found.records.add(record_hash(&key[1..], record.revision()));
            }
            AtId::InIndex(index_key) => found.entries.add(hash(&[&keys::entry_key(&index_key, &key[1..])])),
        }
    }
    Ok(found)
}

fn read_entries(tree: &Tree) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let mut counting = DomainCounts::default();
    let mut left = Vec::new();
    let never = Cancelled::default();
    for row in tree.range(keys::ENTRY, &Bound::Included(Vec::new()), Vec::new(), &never) {
        let (key, value) = row?;
        let record = keys::decode_entry(&key, &value).ok_or_else(|| corrupt("a record is damaged".into()))?;
        let unreadable = || corrupt("an index entry cannot be read".into());
        let (index_key, id) = split_entry(&key[1..]).ok_or_else(unreadable)?;
        let domain_end = index_key.iter().position(|&byte| byte == DOMAIN_END).ok_or_else(unreadable)?;
        found.profile_bytes += record.profile_len() as u64;
        found.records.add(record_hash(id, record.revision()));
        found.entries.add(hash(&[&key]));
        counting.add(&index_key[..domain_end], &mut left);
        left.drain(..).for_each(|(domain, counters)| found.counters.add(counters_hash(&domain, counters)));
    }
    counting.finish(&mut left);
    left.iter().for_each(|(domain, counters)| found.counters.add(counters_hash(domain, *counters)));
    Ok(found)
}

fn read_domains(tree: &Tree) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let never = Cancelled::default();
    for row in tree.range(keys::DOMAIN, &Bound::Included(Vec::new()), Vec::new(), &never) {
        let (key, value) = row?;
        let counters =
            Counters::decode(&key, &value).ok_or_else(|| corrupt("a domain's counters are damaged".into()))?;
        found.domains += u64::from(counters.own > 0);
        found.counters.add(counters_hash(&key[1..], counters));
    }
    Ok(found)
}

fn counters_hash(domain: &[u8], counters: Counters) -> u64 {
    hash(&[domain, &counters.own.to_le_bytes(), &counters.subtree.to_le_bytes()])
}

fn panicked() -> StoreError {
    corrupt("sled panicked while it read".into())
}

fn corrupt(what: String) -> StoreError {
    StoreError::Corrupt(Corruption(what))
}
