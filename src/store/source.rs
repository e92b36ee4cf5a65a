//! Where the answer of a call came from, told by the floor that knows to the one that asked.

use std::cell::Cell;
use std::future::Future;

use tokio::task::futures::TaskLocalFuture;

/// What gave a call its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// Records from memory.
    Cache,
    /// An absence that was remembered.
    Negative,
    /// The store behind the cache.
    Store,
}

impl AnswerSource {
    /// Its name in logs and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Negative => "negative",
            Self::Store => "store",
        }
    }
}

tokio::task_local! {
    static SOURCE: Cell<Option<AnswerSource>>;
}

/// A call whose source is noted; [`TaskLocalFuture::take_value`] tells it.
pub type Sourced<F> = TaskLocalFuture<Cell<Option<AnswerSource>>, F>;

/// Runs a call so that [`note`] in it is heard.
pub fn sourced<F: Future>(call: F) -> Sourced<F> {
    SOURCE.scope(Cell::new(None), call)
}

/// Notes what gave the answer of the call that runs here, if anybody asked. The last note counts.
pub fn note(source: AnswerSource) {
    let _ = SOURCE.try_with(|noted| noted.set(Some(source)));
}
