//! The mark that a read, or the decision of a write, has met damage in sled's state.
//!
//! The caller who asked got an error, and everybody else goes on; but after an orderly close nothing would be looked at when
//! the store opens. With the mark the next open checks the whole state, and builds it anew if it is damaged.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::durable_file;
use crate::store::StoreError;

/// Leaves the mark once.
#[derive(Debug)]
pub(super) struct Doubt {
    mark: PathBuf,
    noted: AtomicBool,
}

impl Doubt {
    /// For a mark at this path.
    pub fn new(mark: PathBuf) -> Self {
        Self { mark, noted: AtomicBool::new(false) }
    }

    /// Looks at what a read of the state gave. The first damage of a process is marked before its error is handed on, which
    /// costs that one caller a sync.
    pub fn note<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Corrupt(what)) = &result
            && !self.noted.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%what, "sled's state may be damaged; the next start checks all of it");
            if let Err(error) = durable_file::replace(&self.mark, what.to_string().as_bytes()) {
                tracing::error!(%error, "the mark for the next start could not be left");
            }
        }
        result
    }
}
