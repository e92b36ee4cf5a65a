//! What is done to a data directory that nobody serves: check it, repair it.
//!
//! Both take the directory's lock, and refuse while a server holds it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::data_dir::{DataDir, DataDirError};
use super::log_check;
use super::open::{OpenError, SledOptions};
use super::pacer::Pacer;
use super::proven;
use super::scan_pool::Cancelled;
use super::state::{Trouble, open_tree};
use super::verify::{REPAIR, Verification};
use crate::engine::commit_log::{CloseMark, close_mark, first_sequence};
use crate::store::{VerifyProgress, VerifyReport};

/// Takes a data directory that exists; none is made.
pub(super) fn take(options: &SledOptions) -> Result<DataDir, OpenError> {
    if !options.path.join("FORMAT").is_file() {
        let what =
            if options.path.is_dir() { "it has no FORMAT file" } else { "there is no such directory" }.to_owned();
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
    let mut reach = proven::by_files(&data_dir).map_err(|source| data_dir.access("read", source))?;
    let files = data_dir.files();
    let mut report = VerifyReport::default();
    match open_tree(&data_dir.sled(), options.sled_cache_bytes) {
        Ok(tree) => {
            let cancelled = Cancelled::default();
            let pacer = Pacer::new(Default::default(), true);
            let verification = Verification::new(&tree, files.clone(), progress.clone(), &cancelled, pacer);
            let verified = verification.run_state();
            // A damaged sled may panic once more when it is let go.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(tree)));
            let applied;
            (report, applied) = verified?;
            if let Some(applied) = applied {
                reach.raise(applied, "the state behind it was");
                check_not_behind(&data_dir, applied, &progress)?;
            }
        }
        Err(Trouble::Damaged(what)) => progress.add(what, REPAIR),
        Err(Trouble::Refused(error)) => progress.add(error.to_string(), REPAIR),
    }
    // Whatever the state is worth: these are what a repair builds it from.
    log_check::check_offline(&files, reach, &progress, &mut Pacer::new(Default::default(), true))?;
    Ok(VerifyReport { problems: progress.problems_after(0), ..report })
}

/// A state that is behind the log is damaged when the store was closed in good order, or when the log does not lead on from it.
/// Else it is what a kill leaves, and the next open replays the rest.
fn check_not_behind(data_dir: &DataDir, applied: u64, progress: &VerifyProgress) -> Result<(), DataDirError> {
    let read = |source| data_dir.access("read", source);
    // A damaged mark is a problem of the log.
    if let Ok(CloseMark::At(marked)) = close_mark(&data_dir.commit_log())
        && applied < marked
    {
        progress.add(format!("the state has applied {applied} but the store was closed cleanly at {marked}"), REPAIR);
    } else if let Some(begins) = first_sequence(&data_dir.commit_log()).map_err(read)?
        && applied + 1 < begins
    {
        progress.add(format!("the state has applied {applied} but the commit log begins at {begins}"), REPAIR);
    }
    Ok(())
}
