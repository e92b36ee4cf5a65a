//! A check of everything that is stored against everything else, while others may write.
//!
//! Three passes over the tree in key order (ids, index entries, counters), then the commit log and the newest snapshot.
//! Memory does not grow with the store. A row that looks wrong is read again on its own, between two looks at the
//! applied sequence: only when nothing was applied in between, what is wrong is wrong and not merely changing. What does
//! not hold still is counted as unsettled. A count of many rows may differ from its counter by as many as changes
//! were applied meanwhile, and by not one more.
//!
//! Invariant: no problem is reported that a write beside the check has made.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::domain_counts::DomainCounts;
use super::keys::{self, Applied, AtId, Counters};
use super::log_check::{self, Files};
use super::pacer::{Pacer, Stopped};
use super::scan_pool::Cancelled;
use super::tree::{Tree, sled_error};
use crate::engine::digest::{Digest, hash, record_hash};
use crate::engine::entry::parse_entry;
use crate::model::{DomainKey, ProfileId, Record};
use crate::store::{Corruption, StoreError, Totals, VerifyProgress, VerifyReport};

/// What to do about a damaged state.
pub const REPAIR: &str = "stop the server and run `profilestore repair`, which builds the state anew from the newest snapshot and the commit log";

/// A row is read again so many times until nothing is applied meanwhile.
const ROW_ATTEMPTS: usize = 100;
/// A domain is counted again so many times.
const COUNT_ATTEMPTS: usize = 5;

/// A check that goes on.
pub struct Verification<'a> {
    pub tree: &'a Tree,
    pub files: Files,
    pub progress: VerifyProgress,
    pub cancelled: &'a Cancelled,
    pub pacer: Pacer,
    found: Found,
}

/// What the passes found.
#[derive(Default)]
struct Found {
    totals: Totals,
    records: Digest,
    entries: u64,
    unsettled: u64,
}

/// What one look at a row comes to.
type Look = Result<Option<String>, StoreError>;

impl<'a> Verification<'a> {
    /// A check that tells `progress` what it finds.
    pub fn new(
        tree: &'a Tree,
        files: Files,
        progress: VerifyProgress,
        cancelled: &'a Cancelled,
        pacer: Pacer,
    ) -> Self {
        Self { tree, files, progress, cancelled, pacer, found: Found::default() }
    }

    /// Makes the check. An error means that its caller has gone away, or that the machine failed.
    pub fn run(mut self) -> Result<VerifyReport, StoreError> {
        let applied = self.check_state()?;
        // Without a sequence only the snapshot and the log's beginning can be looked at while others write.
        let applied = applied.unwrap_or_default();
        log_check::check(&self.files, applied, &self.progress, self.cancelled, &mut self.pacer)?;
        Ok(self.report())
    }

    /// The same for a state that nobody serves, without the files beside it. Says also how far it has come, if that can be
    /// read.
    pub fn run_state(mut self) -> Result<(VerifyReport, Option<u64>), StoreError> {
        let applied = self.check_state()?;
        Ok((self.report(), applied))
    }

    fn report(&self) -> VerifyReport {
        VerifyReport {
            profiles: self.progress.checked(),
            index_entries: self.found.entries,
            problems: self.progress.problems_after(0),
            unsettled: self.found.unsettled,
        }
    }

    fn check_state(&mut self) -> Result<Option<u64>, StoreError> {
        match self.tree.applied() {
            Ok(before) => {
                for pass in [Self::check_ids, Self::check_entries, Self::check_counters] {
                    self.guarded(pass)?;
                }
                self.guarded(|this| this.check_totals(&before))?;
                Ok(Some(before.sequence))
            }
            Err(StoreError::Corrupt(what)) => {
                self.progress.add(what.0, REPAIR);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Damage ends a pass and not the check. sled panics on some damaged pages.
    fn guarded(&mut self, pass: impl FnOnce(&mut Self) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let ended = catch_unwind(AssertUnwindSafe(|| pass(self)))
            .unwrap_or_else(|_| Err(StoreError::Corrupt(Corruption("sled panicked while it read".into()))));
        match ended {
            Err(StoreError::Corrupt(what)) => {
                self.progress.add(what.0, REPAIR);
                Ok(())
            }
            ended => ended,
        }
    }

    /// Every id leads to a record that can be read.
    fn check_ids(&mut self) -> Result<(), StoreError> {
        for row in self.tree.range(keys::ID, &Bound::Included(Vec::new()), Vec::new(), self.cancelled) {
            let (key, value) = row?;
            self.progress.count_profile();
            self.found.totals.profiles += 1;
            if look_at_id(self.tree, &key, &value)?.is_some() {
                self.look_again(&key, look_at_id)?;
            } else if let Some(AtId::Record(record)) = keys::decode_at_id(&key, &value) {
                self.found.totals.profile_bytes += record.profile_len() as u64;
                self.found.records.add(record_hash(&key[1..], record.revision()));
            }
            self.pause()?;
        }
        Ok(())
    }

    /// Every index entry holds the record of its id, which leads to this entry; and every domain has the counters that
    /// its entries add up to.
    fn check_entries(&mut self) -> Result<(), StoreError> {
        let mut counts = DomainCounts::default();
        let mut left = Vec::new();
        for row in self.tree.range(keys::ENTRY, &Bound::Included(Vec::new()), Vec::new(), self.cancelled) {
            let (key, value) = row?;
            self.found.entries += 1;
            if look_at_entry(self.tree, &key, &value)?.is_some() {
                self.look_again(&key, look_at_entry)?;
            }
            if let Some(record) = keys::decode_entry(&key, &value) {
                self.found.totals.profile_bytes += record.profile_len() as u64;
                let (_, id) = crate::engine::entry::split_entry(&key[1..]).unwrap_or_default();
                self.found.records.add(record_hash(id, record.revision()));
            }
            if let Some((index_key, _)) = parse_entry(&key[1..]) {
                counts.add(index_key.domain_key().as_bytes(), &mut left);
            }
            for (domain, counted) in left.drain(..) {
                self.compare(&domain, counted)?;
            }
            self.pause()?;
        }
        counts.finish(&mut left);
        for (domain, counted) in left {
            self.compare(&domain, counted)?;
        }
        Ok(())
    }

    /// Every domain that has counters has a profile in it or below it.
    fn check_counters(&mut self) -> Result<(), StoreError> {
        for row in self.tree.range(keys::DOMAIN, &Bound::Included(Vec::new()), Vec::new(), self.cancelled) {
            let (key, value) = row?;
            if look_at_counters(self.tree, &key, &value)?.is_some() {
                self.look_again(&key, look_at_counters)?;
            }
            self.pause()?;
        }
        Ok(())
    }

    /// The totals and the digest are those that all changes were added to. Only when nothing was applied meanwhile:
    /// under writes the next snapshot makes this comparison.
    fn check_totals(&mut self, before: &Applied) -> Result<(), StoreError> {
        let after = self.tree.applied()?;
        let applied_meanwhile = after.sequence - before.sequence.min(after.sequence);
        let (found, stored) = (self.found.totals, after.totals);
        if applied_meanwhile > 0 {
            self.found.unsettled += 1;
            if found.profiles.abs_diff(stored.profiles) > applied_meanwhile {
                self.progress.add("the number of profiles is not the one that was counted with every change", REPAIR);
            }
        } else if found != stored {
            self.progress.add(format!("the totals are {stored:?} but the records add up to {found:?}"), REPAIR);
        } else if after.digest.is_some_and(|digest| digest != self.found.records) {
            self.progress.add("some records are older than they should be", REPAIR);
        }
        Ok(())
    }

    /// Compares what was counted of a domain with its counters, and counts it again if they differ.
    fn compare(&mut self, domain: &[u8], counted: Counters) -> Result<(), StoreError> {
        let Some(domain) = DomainKey::from_stored(domain) else { return Ok(()) };
        let domains = u64::from(counted.own > 0);
        self.found.totals.domains += domains;
        if matches!(self.tree.counters(&domain), Ok(stored) if stored == counted) || self.progress.is_full() {
            return Ok(());
        }
        for _ in 0..COUNT_ATTEMPTS {
            let before = self.tree.applied()?.sequence;
            let counted = self.count(&domain)?;
            let stored = match self.tree.counters(&domain) {
                Err(StoreError::Corrupt(_)) => Counters { own: u64::MAX, subtree: u64::MAX },
                stored => stored?,
            };
            let applied_meanwhile = self.tree.applied()?.sequence - before;
            let differ = counted.own.abs_diff(stored.own).max(counted.subtree.abs_diff(stored.subtree));
            if differ == 0 {
                return Ok(());
            }
            if differ > applied_meanwhile {
                let domain = hash(&[domain.as_bytes()]);
                self.progress
                    .add(format!("the counters of domain {domain:016x} are not what its entries add up to"), REPAIR);
                return Ok(());
            }
        }
        self.found.unsettled += 1;
        Ok(())
    }

    /// Counts the entries of a domain.
    fn count(&mut self, domain: &DomainKey) -> Result<Counters, StoreError> {
        let mut counted = Counters::default();
        let own = domain.own_entries_prefix();
        let prefix = domain.as_bytes().to_vec();
        for row in self.tree.range(keys::ENTRY, &Bound::Included(prefix.clone()), prefix, self.cancelled) {
            let (key, _) = row?;
            counted.subtree += 1;
            counted.own += u64::from(key[1..].starts_with(&own));
        }
        Ok(counted)
    }

    /// Reads a row again until nothing was applied meanwhile, and reports what is still wrong.
    fn look_again(&mut self, key: &[u8], look: impl Fn(&Tree, &[u8], &[u8]) -> Look) -> Result<(), StoreError> {
        if self.progress.is_full() {
            return Ok(());
        }
        for _ in 0..ROW_ATTEMPTS {
            self.cancelled.check()?;
            let before = self.tree.applied()?.sequence;
            let Some(value) = self.tree.db().get(key).map_err(sled_error)? else { return Ok(()) };
            let Some(problem) = look(self.tree, key, &value)? else { return Ok(()) };
            if self.tree.applied()?.sequence == before {
                self.progress.add(problem, REPAIR);
                return Ok(());
            }
        }
        self.found.unsettled += 1;
        Ok(())
    }

    /// Leaves the machine to others; fails when the store closes.
    fn pause(&mut self) -> Result<(), StoreError> {
        self.pacer.pause().map_err(|Stopped| StoreError::Closed)
    }
}

fn look_at_id(tree: &Tree, key: &[u8], value: &[u8]) -> Look {
    let name = named(&key[1..]);
    let Some(id) = ProfileId::from_stored(&key[1..]) else {
        return Ok(Some(format!("the key of {name} is not an id")));
    };
    Ok(match keys::decode_at_id(key, value) {
        None => Some(format!("what stands under the id of {name} fails its checksum")),
        Some(AtId::Record(record)) => {
            (!is_profile(&record, &id)).then(|| format!("the record of {name} is not that profile"))
        }
        Some(AtId::InIndex(index_key)) => {
            let entry_key = keys::entry_key(&index_key, id.as_bytes());
            // What the entry holds is checked among the entries.
            let is_there = tree.db().contains_key(entry_key).map_err(sled_error)?;
            (!is_there).then(|| format!("{name} leads to an index entry that is not there"))
        }
    })
}

fn look_at_entry(tree: &Tree, key: &[u8], value: &[u8]) -> Look {
    let Some((index_key, id)) = parse_entry(&key[1..]) else {
        return Ok(Some(format!("an index entry cannot be read: {}", named(key))));
    };
    let name = named(id.as_bytes());
    match keys::decode_entry(key, value) {
        None => return Ok(Some(format!("the record of {name} fails its checksum"))),
        Some(record) if !is_profile(&record, &id) => {
            return Ok(Some(format!("the record of {name} is not that profile")));
        }
        Some(_) => {}
    }
    let id_key = keys::id_key(&id);
    let at_id = tree.db().get(&id_key).map_err(sled_error)?;
    let leads_here = at_id.is_some_and(|value| match keys::decode_at_id(&id_key, &value) {
        Some(AtId::InIndex(wanted)) => wanted == index_key.as_bytes(),
        // A damaged one was reported among the ids.
        other => other.is_none(),
    });
    Ok((!leads_here).then(|| format!("{name} does not lead to its index entry")))
}

fn look_at_counters(tree: &Tree, key: &[u8], value: &[u8]) -> Look {
    let name = format!("{:016x}", hash(&[&key[1..]]));
    if DomainKey::from_stored(&key[1..]).is_none() {
        return Ok(Some(format!("the key of the counters of {name} is not a domain")));
    }
    // Damaged counters of a domain with profiles were reported among the entries.
    let never = Cancelled::default();
    let prefix = key[1..].to_vec();
    let first = tree.range(keys::ENTRY, &Bound::Included(prefix.clone()), prefix, &never).next().transpose()?;
    if first.is_some() {
        return Ok(None);
    }
    let what =
        if Counters::decode(key, value).is_some() { "has counters but no profiles" } else { "has damaged counters" };
    Ok(Some(format!("domain {name} {what}")))
}

fn named(id: &[u8]) -> String {
    format!("profile {:016x}", hash(&[id]))
}

fn is_profile(record: &Record, id: &ProfileId) -> bool {
    record.decode().is_ok_and(|profile| profile.id == id.as_str())
}
