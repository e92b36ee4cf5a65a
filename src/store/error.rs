//! What can go wrong in a store.

use super::changes::Position;
use crate::model::Rejection;

/// A failure of a store.
///
/// There is no catch-all: a new way to fail gets its own variant, and with it its own gRPC code.
/// Cloneable, so that one failed load can answer all who waited for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// An atomic commit was refused; nothing was changed.
    #[error("write {index} was refused: {rejection}")]
    Rejected {
        /// Which of its writes was the first to be refused, from 0.
        index: usize,
        /// Why.
        rejection: Rejection,
    },
    /// A commit has the id of another one that was made; nothing was changed.
    #[error("the request id is that of another request")]
    RequestIdReused,
    /// A commit or a single write in it is larger than the store takes.
    #[error("the commit has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// The size of the commit, in bytes.
        bytes: usize,
        /// The bound, in bytes.
        limit: usize,
    },
    /// A commit has more writes than the store takes at once.
    #[error("the commit has {writes} writes; at most {limit} are allowed")]
    TooManyWrites {
        /// The number of writes.
        writes: usize,
        /// The bound.
        limit: usize,
    },
    /// The cursor was not made by this store.
    #[error("the cursor is not one of this store's")]
    InvalidCursor,
    /// The position was not made by this store, or by a former life of it.
    #[error("the position is not one of this store's")]
    InvalidPosition,
    /// What follows the position is no longer kept.
    #[error("the changes after the position are no longer kept")]
    Truncated {
        /// The oldest position that is still good.
        oldest: Position,
    },
    /// There are as many holds as there may be.
    #[error("there are {limit} holds already")]
    TooManyHolds {
        /// The bound.
        limit: usize,
    },
    /// Too much is waiting already. The call had no effect and may be repeated a little later.
    #[error("too many calls are waiting")]
    Overloaded,
    /// The disk is nearly full. The call had no effect; writes are taken again when there is room.
    #[error("the disk is nearly full")]
    DiskLow,
    /// This engine keeps nothing that a backup could be made of.
    #[error("this store cannot be backed up")]
    NoBackups,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A write failed in a way that leaves its outcome unknown; the store must be opened anew.
    #[error("the store has failed: {cause}")]
    Failed {
        /// What happened, for the log and not for callers.
        cause: String,
    },
    /// Stored bytes failed their check.
    #[error("stored data is damaged: {0}")]
    Corrupt(Corruption),
}

/// What was found damaged, for the log and not for callers. Holds no personal data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Corruption(pub String);
