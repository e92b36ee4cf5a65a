//! A check of the whole tree against itself.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::keys::{self, Counters};
use super::scan_pool::Cancelled;
use super::tree::Tree;
use crate::engine::decision::CurrentState;
use crate::engine::entry::{entry, split_entry};
use crate::model::{DomainKey, ProfileId};
use crate::store::{StoreError, VerifyReport};

/// Checks records, index entries and counters. Exact while nothing writes; memory grows with the number of
/// domains only.
pub fn verify(tree: &Tree, cancelled: &Cancelled) -> Result<VerifyReport, StoreError> {
    let mut report = VerifyReport::default();
    let counted = check_records(tree, cancelled, &mut report)?;
    check_entries(tree, cancelled, &mut report)?;
    check_counters(tree, cancelled, counted, &mut report)?;
    let total = tree.applied()?.total;
    if total != report.profiles {
        report.add(format!("the total count is {total} but there are {} records", report.profiles));
    }
    Ok(report)
}

/// Every record can be read, is the profile that its key says, and has its index entry. Returns the counters
/// as they should be.
fn check_records(
    tree: &Tree,
    cancelled: &Cancelled,
    report: &mut VerifyReport,
) -> Result<BTreeMap<DomainKey, Counters>, StoreError> {
    let mut counted: BTreeMap<DomainKey, Counters> = BTreeMap::new();
    for row in tree.range(keys::RECORD, &Bound::Included(Vec::new()), Vec::new(), cancelled) {
        let (key, value) = row?;
        report.profiles += 1;
        let Some(id) = ProfileId::from_stored(&key[1..]) else {
            report.add("a record's key is not an id".into());
            continue;
        };
        let Some(record) = keys::decode_record(&key, &value) else {
            report.add(format!("the record of {id} fails its checksum"));
            continue;
        };
        match record.decode() {
            Ok(profile) if profile.id == id.as_str() => {}
            _ => report.add(format!("the record of {id} is not that profile")),
        }
        let Some(index_key) = record.index_key() else {
            if !record.index_key_bytes().is_empty() {
                report.add(format!("the record of {id} has a damaged index key"));
            }
            continue;
        };
        let entry_key = keys::key(keys::ENTRY, &entry(&index_key, &id));
        if !tree.db().contains_key(entry_key).map_err(super::tree::sled_error)? {
            report.add(format!("the record of {id} has no index entry"));
        }
        let domain = index_key.domain_key();
        for ancestor in domain.with_ancestors() {
            counted.entry(ancestor).or_default().subtree += 1;
        }
        counted.entry(domain).or_default().own += 1;
    }
    Ok(counted)
}

/// Every index entry belongs to the record it names.
fn check_entries(tree: &Tree, cancelled: &Cancelled, report: &mut VerifyReport) -> Result<(), StoreError> {
    for row in tree.range(keys::ENTRY, &Bound::Included(Vec::new()), Vec::new(), cancelled) {
        let (key, _) = row?;
        report.index_entries += 1;
        let Some((index_key, id)) = split_entry(&key[1..]) else {
            report.add("an index entry cannot be read".into());
            continue;
        };
        match tree.record(&id) {
            Ok(Some(record)) if record.index_key_bytes() == index_key => {}
            Ok(_) => report.add(format!("an index entry names {id}, whose record does not have that e-mail")),
            // Counted among the records already.
            Err(StoreError::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The counters are those that the records add up to.
fn check_counters(
    tree: &Tree,
    cancelled: &Cancelled,
    mut counted: BTreeMap<DomainKey, Counters>,
    report: &mut VerifyReport,
) -> Result<(), StoreError> {
    for row in tree.range(keys::DOMAIN, &Bound::Included(Vec::new()), Vec::new(), cancelled) {
        let (key, value) = row?;
        let stored = Counters::decode(&key, &value);
        let expected = DomainKey::from_stored(&key[1..]).and_then(|domain| counted.remove(&domain));
        if stored.is_none() || stored != expected {
            report.add("the counters of a domain do not agree with the records".into());
        }
    }
    for _ in counted {
        report.add("a domain that has profiles has no counters".into());
    }
    Ok(())
}
