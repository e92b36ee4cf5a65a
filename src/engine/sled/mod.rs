//! Profiles on disk: a commit log in front, sled behind it.
//!
//! The commit log is the point of commit. One committer thread takes what is queued, decides it as a group,
//! appends one frame to the log and syncs it, and only then applies one batch to sled, where reads look. So
//! no read can see what is not durable, and sled is state that the log completes after a crash. What sled
//! 0.34 does wrong by itself, and how it is held here, stands at each place: `sync_hook`, `open`,
//! `commit_thread`.
//!
//! ```text
//! data directory   LOCK   FORMAT   commit-log/   sled/   snapshots/   holds   ballast
//! ```
//!
//! Behind that: `maintenance` makes snapshots and trims the log, `rebuild` replaces a damaged sled by a snapshot and
//! the log, `space` refuses writes before the disk is full, `watchdog` notices a disk that does not come back.
//! `verify` checks everything against everything else, `offline` and `repair` do it to a directory that nobody serves, and
//! `restore` makes a directory from a backup.

mod answers;
mod backed_up;
mod blobs;
mod check;
mod commit_thread;
mod committer;
mod data_dir;
mod domain_counts;
mod doubt;
mod figures;
mod flusher;
mod format_file;
mod gathering;
mod group_effect;
mod group_trace;
mod head;
mod holds;
// Open to the fuzz targets only (tests/fuzz).
#[doc(hidden)]
pub mod keys;
mod log_check;
mod maintenance;
mod offline;
mod open;
mod pacer;
mod proven;
mod read_watch;
mod rebuild;
mod recent_records;
mod repair;
mod restore;
mod restore_log;
mod scan_pool;
mod snapshotter;
mod space;
mod state;
mod store;
mod sync_hook;
mod tree;
mod verify;
mod watchdog;

pub use committer::QueueBounds;
pub use data_dir::DataDirError;
pub use figures::{OpenFigures, SledFigures};
pub use maintenance::SnapshotPolicy;
pub use offline::verify as verify_offline;
pub use open::{CheckAtOpen, OpenError, SledOptions};
pub use repair::{Repaired, repair};
pub use restore::{BackupFile, RestoreError, Restored, inspect, restore, restore_with_log};
pub use restore_log::KeptLog;
pub use scan_pool::PoolFigures;
pub use snapshotter::Snapshot;
pub use space::SpaceBounds;
pub use store::SledStore;
#[doc(hidden)]
pub use sync_hook::fail_syncs;
