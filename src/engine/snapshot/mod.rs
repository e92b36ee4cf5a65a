//! Snapshots: files with every record as of one sequence.
//!
//! The newest snapshot and the commit log after it are the whole store, whatever becomes of the state that is
//! served from. A snapshot is read off a state that changes meanwhile: first every record whose revision is not
//! above the sequence at which the scan began, then the changes of the log from there to the end of the scan. Taken in
//! the order of the file they give the state at the end sequence exactly, and totals and a digest of that state
//! stand in the end mark. `layout.rs` has the bytes.
//!
//! ```text
//! snapshots/   00000000000000000042.snapshot   as of sequence 42
//!              snapshot.tmp                    one in the making
//! ```
//!
//! Invariants:
//!
//! * A file gets its name when it is whole, synced, and read back without a fault; before, it counts for nothing.
//! * Every block has a checksum, and the end mark has one over the whole file; a file without its end mark is damaged.
//! * An older snapshot is removed only when a newer one has its name.

mod directory;
mod layout;
mod reader;
mod writer;

pub use directory::{SnapshotDir, SnapshotError};
pub use layout::{SnapshotEnd, SnapshotHeader, VERSION};
pub use reader::{SnapshotReader, SnapshotRow};
pub use writer::SnapshotWriter;

#[cfg(test)]
mod tests;
