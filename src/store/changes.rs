//! Positions, and the changes after one.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::model::{CommitTime, IndexKey, ProfileId, Record};
use crate::trace::TraceParent;

/// A place in the order of a store's changes. Opaque: only the engine that made it can read it; others may ask
/// whether two are the same.
#[derive(Clone, Copy)]
pub struct Position {
    length: u8,
    bytes: [u8; Self::MAX_BYTES],
}

impl Position {
    /// The longest position, in bytes.
    pub const MAX_BYTES: usize = 31;

    /// A position of these bytes; made by engines. `None` when there are too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut position = Self { length: u8::try_from(bytes.len()).ok()?, bytes: [0; Self::MAX_BYTES] };
        position.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(position)
    }

    /// The position's bytes, for the engine, and for those who hand it to callers in some form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl PartialEq for Position {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Position {}

impl Hash for Position {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Position(")?;
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// The bounds of a page of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeBounds {
    /// The most changes; at least 1.
    pub max_changes: usize,
    /// The most bytes, counted by [`CommittedChange::cost`].
    pub max_bytes: usize,
    /// No change after this position, though there may be some.
    pub through: Option<Position>,
}

impl ChangeBounds {
    /// Whether a page of so many changes and bytes has room for another change.
    pub fn has_room_for(&self, change: &CommittedChange, changes: usize, bytes: usize) -> bool {
        changes == 0 || (changes < self.max_changes && bytes + change.cost() <= self.max_bytes)
    }
}

/// One change of one profile, as it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedChange {
    /// The change's own position.
    pub position: Position,
    /// When it was committed.
    pub time: CommitTime,
    /// The profile's id.
    pub id: ProfileId,
    /// The new record; `None` for a delete.
    pub record: Option<Record>,
    /// The index key before the change, when it was another one; `None` when it was the same or there was none.
    pub previous_index_key: Option<IndexKey>,
    /// The span that made the change, if its trace is recorded.
    pub trace: Option<TraceParent>,
}

impl CommittedChange {
    /// About how many bytes the change takes on its way to a follower.
    pub fn cost(&self) -> usize {
        self.record.as_ref().map_or(0, Record::profile_len) + PER_CHANGE_BYTES
    }
}

/// What a change costs beside its profile: the id, the position, the time, the index key before.
const PER_CHANGE_BYTES: usize = 128;

/// The changes after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangePage {
    /// The changes in order.
    pub changes: Vec<CommittedChange>,
    /// Where the next page goes on. The position asked for when nothing came after it. May lie behind the last
    /// change, or be a new one without any change.
    pub next: Position,
}
