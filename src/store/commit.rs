//! What is committed at once, and what makes its repetition harmless.

use crate::model::{Outcome, ProfileId, Rejection, Write};
use crate::trace::{self, TraceParent};

/// How the writes of one commit belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitMode {
    /// All writes are made in one atomic step, or none is.
    All,
    /// Each write is decided by itself, in order.
    Each,
}

/// Writes that are committed together.
#[derive(Debug)]
pub struct Commit {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// How they belong together.
    pub mode: CommitMode,
    /// By what a repetition is known; `None` when the caller takes care of that.
    pub request: Option<RequestMark>,
    /// The span that wants it, if its trace is recorded; it goes with the changes.
    pub trace: Option<TraceParent>,
}

/// What became of the writes of one commit, in order.
pub type Outcomes = Vec<Result<Outcome, Rejection>>;

impl Commit {
    /// All or nothing, for the call that goes on here.
    pub fn all(writes: Vec<Write>) -> Self {
        Self { writes, mode: CommitMode::All, request: None, trace: trace::current() }
    }

    /// Each by itself, for the call that goes on here.
    pub fn each(writes: Vec<Write>) -> Self {
        Self { writes, mode: CommitMode::Each, request: None, trace: trace::current() }
    }

    /// The same, known by a mark.
    pub fn for_request(self, request: Option<RequestMark>) -> Self {
        Self { request, ..self }
    }
}

/// A caller's name for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub [u8; 16]);

/// By what a store knows a repeated request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMark {
    /// The caller's name for the request.
    pub id: RequestId,
    /// A hash of what the request asks for, the same for equal requests in every process and version.
    pub fingerprint: u64,
    /// The ids that the server made for this request, in the order of their writes. A repetition makes others,
    /// and is answered about these.
    pub made_ids: Box<[ProfileId]>,
}
