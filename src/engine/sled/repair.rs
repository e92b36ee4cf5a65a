//! Repairs a data directory that nobody serves.
//!
//! The state is built anew from the newest snapshot and the log, as an open does with a damaged one. If that does not give
//! a whole state, it is built from what the present one still holds under good checksums, and from all of the log. The
//! present state is set aside, and so is a damaged mark of the last clean close. A log that is damaged, or shorter than what the
//! newest snapshot, the mark of a clean close or the present state prove (`proven.rs`), is not repaired: it is the truth. Nor is
//! one that was closed, as a damaged mark proves too, and ends in the middle of a group. Nor is anything given up because the
//! machine failed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::data_dir::DataDir;
use super::keys::{self, AtId};
use super::offline::take;
use super::open::{OpenError, SledOptions};
use super::proven;
use super::rebuild::{self, Built, Reason};
use super::scan_pool::Cancelled;
use super::state::{Trouble, apply_rows, guarded, open_log, open_tree};
use super::tree::Tree;
use crate::engine::commit_log::{CloseMark, LogReach, close_mark, first_sequence, set_close_mark_aside};
use crate::engine::decision::CurrentState;
use crate::engine::entry::split_entry;
use crate::engine::snapshot::SnapshotRow;
use crate::model::ProfileId;

/// How a store was repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    /// From a snapshot and the log, or from all of the log: nothing is lost.
    Whole {
        /// How many profiles it holds.
        profiles: u64,
        /// The end of the log was compared with what the old state had applied, or with the mark of a clean close. Without
        /// that only the newest snapshot says how far the log must reach.
        end_was_compared: bool,
    },
    /// From what could still be read.
    Salvaged {
        /// How many profiles it holds.
        profiles: u64,
        /// How many rows could not be read. Those whose last change the log no longer has are lost.
        unreadable: u64,
        /// Why it could not be built whole.
        because: String,
    },
}

/// Builds the state of a data directory anew. Blocks.
pub fn repair(options: &SledOptions) -> Result<Repaired, OpenError> {
    let data_dir = take(options)?;
    data_dir.snapshots().prepare().map_err(|source| data_dir.access("written", source))?;
    let reach = proven::by_files(&data_dir).map_err(|source| data_dir.access("read", source))?;
    let mut reach = proven::with_state(reach, &data_dir, options);
    let mark = close_mark(&data_dir.commit_log()).map_err(|source| data_dir.access("read", source))?;
    reach.mark_is_damaged = mark == CloseMark::Damaged;
    let suspicion = data_dir.suspicion()?;
    let reason = suspicion.as_deref().map_or(Reason::Asked, Reason::Damage);
    let repaired = match rebuild::rebuild(&data_dir, options, reason, reach) {
        Ok(profiles) => Repaired::Whole { profiles, end_was_compared: reach.end_is_known },
        Err(OpenError::CannotRebuild { tried, .. }) => salvage(&data_dir, options, reach, tried)?,
        Err(error) => return Err(error),
    };
    if reach.mark_is_damaged {
        // Last, so that a repair that was interrupted is begun anew, and until then nobody takes the log for one that was not
        // closed. What the mark said, the state says too where it can be asked: a close flushes the state first.
        set_close_mark_aside(&data_dir.commit_log()).map_err(|source| data_dir.access("written", source))?;
    }
    Ok(repaired)
}

fn salvage(
    data_dir: &DataDir,
    options: &SledOptions,
    reach: LogReach,
    because: String,
) -> Result<Repaired, OpenError> {
    let cannot = |trouble| match trouble {
        Trouble::Refused(error) => error,
        Trouble::Damaged(damage) => {
            OpenError::CannotRebuild { dir: data_dir.path().to_owned(), damage, tried: because.clone() }
        }
    };
    let begins = first_sequence(&data_dir.commit_log()).map_err(|source| data_dir.access("read", source))?;
    let old = open_tree(&data_dir.sled(), options.sled_cache_bytes).map_err(cannot)?;
    let mut unreadable = 0;
    let built = rebuild::build_with(data_dir, options, |tree| {
        let mut applied = rebuild::nothing_applied();
        for kind in [keys::ID, keys::ENTRY] {
            match guarded(|| salvage_rows(&old, kind, tree, &mut applied, &mut unreadable)) {
                // What sled panics on ends the pass, and what was read so far is kept.
                Err(Trouble::Damaged(_)) => unreadable += 1,
                ended => ended?,
            }
        }
        // All of the log: what it has is newer than, or the same as, what was read.
        let before = begins.unwrap_or(1) - 1;
        apply_rows(tree, &mut applied, std::iter::empty(), before, Default::default())?;
        let mut replayed_groups = 0;
        drop(open_log(data_dir, options, reach, tree, &mut applied, &mut replayed_groups)?);
        Ok(Built { applied, replayed_groups })
    });
    let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
    if built.is_err() {
        // Worth nothing; if it stays, the next attempt removes it.
        let _ = fs::remove_dir_all(data_dir.rebuilt_sled());
    }
    let profiles = built.map_err(cannot)?.applied.totals.profiles;
    data_dir.replace_state(Reason::Damage(&because)).map_err(|source| data_dir.access("written", source))?;
    Ok(Repaired::Salvaged { profiles, unreadable, because })
}

/// Copies the records of one kind of rows that pass their checksums, the newest of each profile.
fn salvage_rows(
    old: &Tree,
    kind: u8,
    new: &Arc<Tree>,
    applied: &mut keys::Applied,
    unreadable: &mut u64,
) -> Result<(), Trouble> {
    let never = Cancelled::default();
    for row in old.range(kind, &std::ops::Bound::Included(Vec::new()), Vec::new(), &never) {
        // sled cannot read on behind a page that it finds damaged.
        let Ok((key, value)) = row else {
            *unreadable += 1;
            return Ok(());
        };
        let found = if kind == keys::ID {
            match keys::decode_at_id(&key, &value) {
                Some(AtId::InIndex(_)) => continue,
                Some(AtId::Record(record)) => Some((&key[1..], record)),
                None => None,
            }
        } else {
            split_entry(&key[1..]).and_then(|(_, id)| Some((id, keys::decode_entry(&key, &value)?)))
        };
        let found = found.and_then(|(id, record)| Some((ProfileId::from_stored(id)?, record)));
        let Some((id, record)) = found else {
            *unreadable += 1;
            continue;
        };
        let is_newer =
            new.record(&id).map_err(OpenError::from)?.is_none_or(|there| there.revision() < record.revision());
        if is_newer {
            let row = SnapshotRow { id, revision: record.revision(), record: Some(record) };
            apply_rows(new, applied, std::iter::once(row), 0, Default::default()).map_err(OpenError::from)?;
        }
    }
    Ok(())
}
