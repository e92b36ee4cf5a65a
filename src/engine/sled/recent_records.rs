//! The records that the committer wrote last, so that it need not look up in sled what it has just put there.
//!
//! Invariant: what is here is what sled holds. The committer is the only one who writes, and it tells of every
//! group that was applied; after a group that fails nothing is decided any more.
//!
//! Two generations bound it: when the younger one is full it takes the place of the older one.

use std::collections::HashMap;

use crate::model::{Change, ProfileId, Record};

/// What a generation may hold; both together take twice as much.
const GENERATION_BYTES: usize = 4 * 1024 * 1024;
/// What an entry takes beside its id and its record's bytes, about.
const ENTRY_BYTES: usize = 200;

/// Records by id; `None` for a profile that was deleted.
#[derive(Default)]
pub struct RecentRecords {
    young: HashMap<ProfileId, Option<Record>>,
    young_bytes: usize,
    old: HashMap<ProfileId, Option<Record>>,
}

impl RecentRecords {
    /// What is known of a profile.
    pub fn get(&self, id: &ProfileId) -> Option<&Option<Record>> {
        self.young.get(id).or_else(|| self.old.get(id))
    }

    /// Follows changes that were applied.
    pub fn follow(&mut self, changes: &[Change]) {
        for change in changes {
            let record = change.record.as_ref();
            self.young_bytes += ENTRY_BYTES + change.id.as_bytes().len();
            self.young_bytes += record.map_or(0, |record| record.stored_bytes().len());
            self.young.insert(change.id.clone(), change.record.clone());
            if self.young_bytes > GENERATION_BYTES {
                self.old = std::mem::take(&mut self.young);
                self.young_bytes = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::Revision;

    fn change(number: usize, record_bytes: Option<usize>) -> Change {
        let record = |bytes| Record::from_stored(Bytes::from(vec![0; bytes]), 0, Revision(number as u64));
        Change {
            revision: Revision(number as u64),
            id: id(number),
            record: record_bytes.and_then(record),
            previous_bytes: None,
            previous_revision: None,
            previous_index_key: None,
            trace: None,
        }
    }

    fn id(number: usize) -> ProfileId {
        ProfileId::parse(&number.to_string(), "id").unwrap()
    }

    #[test]
    fn the_last_change_of_a_profile_counts() {
        let mut recent = RecentRecords::default();
        assert_eq!(recent.get(&id(1)), None);
        recent.follow(&[change(1, Some(10)), change(2, Some(10)), change(2, None)]);
        assert_eq!(recent.get(&id(1)), Some(&change(1, Some(10)).record));
        assert_eq!(recent.get(&id(2)), Some(&None));
    }

    #[test]
    fn what_was_written_long_ago_is_forgotten_and_no_older_record_comes_back() {
        let mut recent = RecentRecords::default();
        recent.follow(&[change(1, Some(10))]);
        let large = GENERATION_BYTES / 8;
        for number in 2..100 {
            // Of an id that is in both generations only the newer record is seen.
            recent.follow(&[change(number, Some(large)), change(2, Some(number))]);
            assert_eq!(recent.get(&id(2)), Some(&change(2, Some(number)).record));
            let held = recent.young.values().chain(recent.old.values()).flatten();
            assert!(held.map(|record| record.stored_bytes().len()).sum::<usize>() <= 2 * GENERATION_BYTES + large);
        }
        assert_eq!(recent.get(&id(1)), None);
    }
}
