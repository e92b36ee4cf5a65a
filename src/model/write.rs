//! Writes and what becomes of them.

use std::fmt;

use super::draft::Draft;
use super::id::ProfileId;
use super::record::{Etag, Record, Revision};
use super::violation::Violations;
use crate::pb::Profile;

/// A pure function from the current profile (`None` when absent) to the wanted one. An engine may call it
/// on any thread, under its own locks: it must not block.
pub type UpdateFn = Box<dyn FnOnce(Option<Profile>) -> Result<Draft, Violations> + Send>;

/// One write of one profile.
pub struct Write {
    /// The profile's id. A draft must have the same one.
    pub id: ProfileId,
    /// What to do.
    pub action: Action,
    /// Under which condition.
    pub precondition: Precondition,
    /// About how many bytes the write will take in the log; bounds queues and groups.
    pub size_bytes: usize,
}

/// What a write does.
pub enum Action {
    /// Create the profile or replace it as a whole.
    Put(Draft),
    /// Compute the new profile from the current one.
    Update(UpdateFn),
    /// Remove the profile.
    Delete,
}

/// What must hold for a write to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// There is no such profile.
    MustBeAbsent,
    /// There is such a profile.
    MustExist,
    /// There is such a profile and it has this etag.
    MustMatch(Etag),
    /// If there is such a profile, it has this etag.
    MustMatchIfPresent(Etag),
}

impl Precondition {
    /// Whether it compares etags.
    pub fn has_etag(&self) -> bool {
        matches!(self, Self::MustMatch(_) | Self::MustMatchIfPresent(_))
    }
}

/// What became of a write that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The profile was created or changed and is now this.
    Stored(Record),
    /// The profile already was as wanted; nothing was written.
    Unchanged(Record),
    /// The profile was removed.
    Deleted(Revision),
    /// There was nothing to remove.
    Absent,
    /// The request was made before and not again; this is the profile as it now is, if there still is one. After a
    /// delete there is none, whatever was made since.
    Repeated(Option<Record>),
}

impl Outcome {
    /// The profile after the write, if there is one.
    pub fn into_record(self) -> Option<Record> {
        match self {
            Self::Stored(record) | Self::Unchanged(record) => Some(record),
            Self::Repeated(record) => record,
            Self::Deleted(_) | Self::Absent => None,
        }
    }
}

/// Why a write was refused. A refused write changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The precondition asked for a profile and there is none.
    #[error("there is no such profile")]
    NotFound,
    /// The precondition asked for absence and there is a profile.
    #[error("there already is a profile with this id")]
    AlreadyExists,
    /// E-mails are unique in this store and another profile has this one.
    #[error("another profile has this e-mail")]
    EmailInUse,
    /// The profile has another etag.
    #[error("the profile has another etag")]
    EtagMismatch {
        /// The etag that the profile has now.
        current: Etag,
    },
    /// The update's function refused, or its result is not a valid profile.
    #[error("{0}")]
    Invalid(Violations),
    /// The same atomic commit has two writes of this profile.
    #[error("the same profile is written twice in one atomic commit")]
    DuplicateId,
}

impl Write {
    /// A put under a condition.
    pub fn put(draft: Draft, precondition: Precondition) -> Self {
        let size_bytes = draft.encoded().len() + PER_WRITE_BYTES;
        Self { id: draft.id().clone(), action: Action::Put(draft), precondition, size_bytes }
    }

    /// An update by a function; `size_bytes` is the size of the caller's request.
    pub fn update(id: ProfileId, function: UpdateFn, precondition: Precondition, size_bytes: usize) -> Self {
        let size_bytes = size_bytes + PER_WRITE_BYTES;
        Self { id, action: Action::Update(function), precondition, size_bytes }
    }

    /// A delete under a condition.
    pub fn delete(id: ProfileId, precondition: Precondition) -> Self {
        Self { id, action: Action::Delete, precondition, size_bytes: PER_WRITE_BYTES }
    }
}

/// What a write costs beside its profile: keys, header, etag, times.
const PER_WRITE_BYTES: usize = 256;

impl fmt::Debug for Write {
    /// Never shows the content, which is personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Put(_) => "put",
            Action::Update(_) => "update",
            Action::Delete => "delete",
        };
        f.debug_struct("Write").field("action", &action).field("precondition", &self.precondition).finish()
    }
}
