//! How far the commit log is proven to have come, by what is beside it.
//!
//! A log that has lost its end looks like one that was never longer. What knows better are those that were written from
//! it: the newest snapshot, the mark of the last clean close, and what sled has applied. Nothing that is built of a shorter
//! log is whole, whoever builds it: an open, the healing of a damaged state, a repair.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::data_dir::DataDir;
use super::open::SledOptions;
use super::state::{guarded, open_tree};
use crate::engine::commit_log::{CloseMark, LogReach, close_mark};
use crate::engine::snapshot::{SnapshotDir, SnapshotReader};
use crate::model::Incarnation;

/// What the log of a data directory must reach by the files beside sled.
pub(super) fn by_files(data_dir: &DataDir) -> io::Result<LogReach> {
    let mut reach = LogReach::default();
    reach.must_exist = data_dir.was_made();
    if let Some(newest) = newest_snapshot(&data_dir.snapshots(), data_dir.incarnation())? {
        reach.raise(newest, "the newest snapshot is");
    }
    // A damaged mark is an error when the log is opened.
    if let Ok(CloseMark::At(marked)) = close_mark(&data_dir.commit_log()) {
        reach.raise(marked, "the mark of the last clean close is");
        reach.end_is_known = true;
    }
    Ok(reach)
}

/// The same, and what the state that is there has applied, as far as it can be asked. After a clean close nobody has to ask: sled
/// writes to what it opens, and what is set aside should stay as it was found.
pub(super) fn with_state(mut reach: LogReach, data_dir: &DataDir, options: &SledOptions) -> LogReach {
    if !reach.end_is_known
        && let Some(applied) = applied(data_dir, options)
    {
        reach.raise(applied, "the state behind it was");
        reach.end_is_known = true;
    }
    reach
}

/// The sequence of the newest snapshot of this store. A damaged one counts: it got its name when it was whole.
pub(super) fn newest_snapshot(snapshots: &SnapshotDir, incarnation: Incarnation) -> io::Result<Option<u64>> {
    let is_foreign = |sequence: &u64| {
        SnapshotReader::open(&snapshots.snapshot(*sequence))
            .is_ok_and(|reader| reader.header().incarnation != incarnation)
    };
    Ok(snapshots.list()?.into_iter().rev().find(|sequence| !is_foreign(sequence)))
}

/// It may be damaged in any way.
fn applied(data_dir: &DataDir, options: &SledOptions) -> Option<u64> {
    let dir = data_dir.sled();
    // sled would make a new one.
    if !dir.join("db").is_file() {
        return None;
    }
    let tree = open_tree(&dir, options.sled_cache_bytes).ok()?;
    let applied = guarded(|| Ok(tree.applied()?.sequence));
    // A damaged sled may panic once more when it is let go.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(tree)));
    applied.ok()
}
