//! Profiles on disk: a commit log in front, sled behind it.
//!
//! The commit log is the point of commit. One committer thread takes what is queued, decides it as a group,
//! appends one frame to the log and syncs it, and only then applies one batch to sled, where reads look. So
//! no read can see what is not durable, and sled is state that the log completes after a crash. What sled
//! 0.34 does wrong by itself, and how it is held here, stands at each place: `sync_hook`, `open`,
//! `commit_thread`.
//!
//! ```text
//! data directory   LOCK   FORMAT   commit-log/   sled/
//! ```

mod commit_thread;
mod committer;
mod data_dir;
mod head;
mod keys;
mod open;
mod scan_pool;
mod store;
mod sync_hook;
mod tree;
mod verify;

pub use committer::QueueBounds;
pub use data_dir::DataDirError;
pub use open::{OpenError, SledOptions};
pub use store::SledStore;
