//! What is done to a data directory that nobody serves: check it, repair it.
//!
//! Both take the directory's lock, and refuse while a server holds it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::data_dir::{DataDir, DataDirError};
use super::open::{OpenError, SledOptions};
use super::pacer::Pacer;
use super::scan_pool::Cancelled;
use super::state::{Trouble, open_tree};
use super::verify::{REPAIR, Verification};
use crate::engine::commit_log::check_log;
use crate::store::{VerifyProgress, VerifyReport};

/// Takes a data directory that exists; none is made.
pub(super) fn take(options: &SledOptions) -> Result<DataDir, OpenError> {
    if !options.path.join("FORMAT").is_file() {
        let what = "it has no FORMAT file".to_owned();
        return Err(DataDirError::NotOurs { dir: options.path.clone(), what }.into());
    }
    // The settings of the index do not matter here.
    Ok(DataDir::open(&options.path, options.canonicalization, true)?)
}

/// Checks everything in a data directory against everything else. Nothing is healed or replayed; sled itself writes when
/// it is opened, though. Blocks.
pub fn verify(options: &SledOptions) -> Result<VerifyReport, OpenError> {
    let data_dir = take(options)?;
    let progress = VerifyProgress::default();
    if let Some(suspicion) = data_dir.suspicion()? {
        progress.add(format!("the state is marked as damaged: {suspicion}"), REPAIR);
    }
    let mut report = VerifyReport::default();
    match open_tree(&data_dir.sled(), options.sled_cache_bytes) {
        Ok(tree) => {
            let cancelled = Cancelled::default();
            let files = data_dir.files();
            let pacer = Pacer::new(Default::default(), true);
            let verified = Verification::new(&tree, files, progress.clone(), &cancelled, pacer).run();
            let applied = tree.applied().map_or(0, |applied| applied.sequence);
            // A damaged sled may panic once more when it is let go.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(tree)));
            report = verified?;
            if let Some(problem) = check_log(&data_dir.commit_log(), data_dir.incarnation(), applied) {
                progress.add(problem, LOG);
            }
        }
        Err(Trouble::Damaged(what)) => progress.add(what, REPAIR),
        Err(Trouble::Refused(error)) => return Err(error),
    }
    Ok(VerifyReport { problems: progress.problems_after(0), ..report })
}

const LOG: &str =
    "restore a backup into a new data directory; the log is the truth, and what it has lost nothing else has";
