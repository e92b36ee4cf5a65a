//! A check of the whole tree against itself.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::check;
use super::keys::{self, AtId, Counters};
use super::scan_pool::Cancelled;
use super::tree::Tree;
use crate::engine::entry::parse_entry;
use crate::model::{DomainKey, ProfileId, Record};
use crate::store::{StoreError, Totals, VerifyReport};

/// Checks ids, records and counters. Exact while nothing writes; memory grows with the number of domains only.
pub fn verify(tree: &Tree, cancelled: &Cancelled) -> Result<VerifyReport, StoreError> {
    let mut report = VerifyReport::default();
    let mut found = Totals::default();
    check_ids(tree, cancelled, &mut report, &mut found)?;
    let counted = check_entries(tree, cancelled, &mut report, &mut found)?;
    found.domains = counted.values().filter(|counters| counters.own > 0).count() as u64;
    check_counters(tree, cancelled, counted, &mut report)?;
    let stored = tree.applied()?.totals;
    if stored != found {
        report.add(format!("the totals are {stored:?} but the records add up to {found:?}"));
    }
    if report.problems.is_empty()
        && let Err(StoreError::Corrupt(what)) = check::check(tree, &tree.applied()?)
    {
        // What the passes above cannot see: a record that fell back to an older version.
        report.add(what.0);
    }
    Ok(report)
}

/// Every id leads to a record that can be read.
fn check_ids(
    tree: &Tree,
    cancelled: &Cancelled,
    report: &mut VerifyReport,
    found: &mut Totals,
) -> Result<(), StoreError> {
    for row in tree.range(keys::ID, &Bound::Included(Vec::new()), Vec::new(), cancelled) {
        let (key, value) = row?;
        report.profiles += 1;
        found.profiles += 1;
        let Some(id) = ProfileId::from_stored(&key[1..]) else {
            report.add("a record's key is not an id".into());
            continue;
        };
        match keys::decode_at_id(&key, &value) {
            None => report.add(format!("the record of {id} fails its checksum")),
            Some(AtId::Record(record)) => {
                found.profile_bytes += record.profile_len() as u64;
                if !is_profile(&record, &id) {
                    report.add(format!("the record of {id} is not that profile"));
                }
            }
            Some(AtId::InIndex(index_key)) => {
                let entry_key = keys::entry_key(&index_key, id.as_bytes());
                // What the entry holds is checked among the entries.
                if !tree.db().contains_key(entry_key).map_err(super::tree::sled_error)? {
                    report.add(format!("{id} leads to an index entry that is not there"));
                }
            }
        }
    }
    Ok(())
}

/// Every index entry holds the record of its id, which leads to this entry. Returns the counters as they
/// should be.
fn check_entries(
    tree: &Tree,
    cancelled: &Cancelled,
    report: &mut VerifyReport,
    found: &mut Totals,
) -> Result<BTreeMap<DomainKey, Counters>, StoreError> {
    let mut counted: BTreeMap<DomainKey, Counters> = BTreeMap::new();
    for row in tree.range(keys::ENTRY, &Bound::Included(Vec::new()), Vec::new(), cancelled) {
        let (key, value) = row?;
        report.index_entries += 1;
        let Some((index_key, id)) = parse_entry(&key[1..]) else {
            report.add("an index entry cannot be read".into());
            continue;
        };
        match keys::decode_entry(&key, &value) {
            None => report.add(format!("the record of {id} fails its checksum")),
            Some(record) if is_profile(&record, &id) => found.profile_bytes += record.profile_len() as u64,
            Some(_) => report.add(format!("the record of {id} is not that profile")),
        }
        let id_key = keys::id_key(&id);
        let at_id = tree.db().get(&id_key).map_err(super::tree::sled_error)?;
        let leads_here = at_id.is_some_and(|value| match keys::decode_at_id(&id_key, &value) {
            Some(AtId::InIndex(wanted)) => wanted == index_key.as_bytes(),
            // A damaged one was counted among the ids.
            other => other.is_none(),
        });
        if !leads_here {
            report.add(format!("{id} does not lead to its index entry"));
        }
        let domain = index_key.domain_key();
        for ancestor in domain.with_ancestors() {
            counted.entry(ancestor).or_default().subtree += 1;
        }
        counted.entry(domain).or_default().own += 1;
    }
    Ok(counted)
}

fn is_profile(record: &Record, id: &ProfileId) -> bool {
    record.decode().is_ok_and(|profile| profile.id == id.as_str())
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
