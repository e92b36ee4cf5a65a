//! The commit log: an append-only sequence of commit groups on disk, and the point of commit.
//!
//! A group that [`CommitLog::append`] returned for is durable. Segment files hold the groups; each is named
//! by the sequence number of its first change. `frame.rs` has the byte layout.
//!
//! Invariants:
//!
//! * A group is whole or absent: one frame, one checksum.
//! * Sequence numbers count on without a gap, within a frame, from frame to frame, from file to file.
//! * Only the last frame of the last segment can be torn, because a frame is synced before the next one is
//!   written. A torn tail is cut off, and the cut synced, before anything is appended. A bad frame anywhere
//!   else, or one with good frames behind it, is corruption and is reported, never skipped.
//! * A clean close leaves a mark with the last sequence number; a log that is shorter than its mark has lost
//!   something. The mark is removed before the next append.
//! * Files are 0600 in a directory of 0700; a new file's directory entry is synced before the file is used.

mod check;
mod close_mark;
mod codec;
mod frame;
mod frame_walk;
mod kept;
mod log;
mod range;
mod reach;
mod reader;
mod recent;
mod segment;
mod trim;

pub use check::{DamageAt, LogProblem, check_log};
pub use close_mark::{CloseMark, read as close_mark, set_aside as set_close_mark_aside};
pub use codec::{LoggedChange, LoggedGroup, sequence_numbers};
pub use kept::{KeptEnd, KeptLogError, Until, read_kept};
pub use log::{CommitLog, LogError, LogOptions, was_left_open};
pub use range::{first_sequence, read_range};
pub use reach::LogReach;
pub use reader::{LogPage, LogReader, ReadError};
pub use trim::{HeldLog, Retention, Trimmed, bytes_after, trim};
