//! The current profiles, in the middle of their changes.
//!
//! A snapshot takes as long as its reader does, and the store goes on meanwhile. The profiles are read page by
//! page between the changes, so that what was sent is always the state at one position `p` of all profiles listed
//! so far, and nothing has to be remembered but `p` and the place in the listing:
//!
//! 1. The changes after `p` are sent, as far as they are at hand, and in any case until few are left; `p` moves on.
//! 2. A page of profiles is read, and then the head `h`. A profile of the page that has a change between `p` and
//!    `h` may be older or newer than `p`: it is left out, and the change itself will send it. All others are as
//!    they were at `p`, and are sent.
//! 3. After the last page, the changes up to the head are sent, and with them what was left out; then the
//!    snapshot is complete.
//!
//! What comes between `p` and `h` is read once more for each page. So a reader that has fallen behind, because the writers are
//! faster, is sent changes only until it has caught up, instead of reading for each page all that it is behind.
//!
//! So no change is missed and no profile goes back in time, also for a reader that stops anywhere and goes on later.

use std::collections::HashSet;

use bytes::Bytes;

use super::event::snapshot_event;
use super::place::{Listing, Place};
use super::subscription::{Batch, Step, Subscription};
use super::{FeedError, MESSAGE};
use crate::model::{ProfileId, Record};
use crate::store::{ChangeBounds, Corruption, PageBounds, Position, Store, StoreError};

/// How many steps over changes come between two pages of profiles at most. A reader that is faster than the writers is
/// up to date long before.
const STEPS_OVER_CHANGES: u32 = 16;

/// How many changes may be left to send when a page of profiles is read.
const FEW_CHANGES: u64 = 4096;

/// A page of profiles makes one message.
const PAGE: PageBounds = PageBounds { max_records: MESSAGE.max_changes, max_bytes: MESSAGE.max_bytes };

impl<S: Store> Subscription<S> {
    /// Changes and profiles in turn, so that neither waits for an end of the other.
    pub(super) async fn advance_in_snapshot(&mut self) -> Result<Step, FeedError> {
        if self.steps_over_changes < STEPS_OVER_CHANGES {
            self.steps_over_changes += 1;
            let step = self.advance_over_changes().await?;
            if step != Step::UpToDate {
                return Ok(step);
            }
        }
        if self.is_far_behind() {
            let mut step = self.advance_over_changes().await?;
            if step == Step::UpToDate {
                // At the end of the tail, which is itself far behind.
                step = self.read_changes(None).await?;
            }
            if step != Step::UpToDate {
                return Ok(step);
            }
        }
        // A page of profiles has no smaller size.
        if self.max_bytes < PAGE.max_bytes {
            return Ok(Step::TooLarge);
        }
        let step = self.send_profiles().await?;
        self.steps_over_changes = 0;
        Ok(step)
    }

    /// Whether more than a few changes are left to send. Where changes have no numbers nobody is.
    fn is_far_behind(&self) -> bool {
        let shared = &self.registration.0;
        let store = &shared.store;
        let head = store.changes_before(&shared.newest());
        let behind = head.zip(store.changes_before(&self.place.position()));
        behind.is_some_and(|(head, here)| head.saturating_sub(here) > FEW_CHANGES)
    }

    async fn send_profiles(&mut self) -> Result<Step, FeedError> {
        let store = &self.registration.0.store;
        let Place::Snapshot { position, listing } = &self.place else { return Ok(Step::UpToDate) };
        let after = match listing {
            Listing::After(cursor) => Some(cursor),
            Listing::Start | Listing::End => None,
        };
        let page = store.list(self.filter.scope(), after, PAGE).await?;
        let head = store.head().await?;
        let mut profiles = Vec::with_capacity(page.records.len());
        for record in &page.records {
            profiles.push((id_of(record)?, record));
        }
        let changed = self.changed_between(*position, head, profiles.iter().map(|(id, _)| id).collect()).await?;
        let unchanged = profiles.iter().filter(|(id, _)| !changed.contains(id));
        let events: Vec<Bytes> =
            unchanged.map(|(id, record)| snapshot_event(id, record, &store.position_of(record))).collect();
        let listing = page.next.map_or(Listing::End, Listing::After);
        self.place = Place::Snapshot { position: *position, listing };
        if events.is_empty() {
            return Ok(Step::Scanned);
        }
        Ok(Step::Batch(Batch { events, place: self.place.clone(), current: false }))
    }

    /// Those of some profiles that have a change after one position and up to another.
    async fn changed_between(
        &self,
        mut after: Position,
        through: Position,
        among: HashSet<&ProfileId>,
    ) -> Result<HashSet<ProfileId>, StoreError> {
        let mut changed = HashSet::new();
        let bounds = ChangeBounds { through: Some(through), ..MESSAGE };
        while after != through {
            let page = self.registration.0.store.changes_after(&after, bounds).await?;
            if page.next == after {
                break;
            }
            changed.extend(page.changes.into_iter().map(|change| change.id).filter(|id| among.contains(id)));
            after = page.next;
        }
        Ok(changed)
    }

    /// The changes up to a head that covers everything that was read, and then the end of the snapshot.
    pub(super) async fn end_snapshot(&mut self) -> Result<Step, FeedError> {
        let end = match self.snapshot_end {
            Some(end) => end,
            None => *self.snapshot_end.insert(self.registration.0.store.head().await?),
        };
        let position = self.place.position();
        if position != end {
            let step = self.read_changes(Some(end)).await?;
            if step != Step::UpToDate {
                return Ok(step);
            }
        }
        self.place = Place::Changes(position);
        Ok(Step::Batch(Batch { events: Vec::new(), place: self.place.clone(), current: true }))
    }
}

fn id_of(record: &Record) -> Result<ProfileId, StoreError> {
    let id = record.id_bytes().and_then(ProfileId::from_stored);
    id.ok_or_else(|| StoreError::Corrupt(Corruption("a record passes its checksum but has no id".into())))
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
