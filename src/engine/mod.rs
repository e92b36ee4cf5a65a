//! Implementations of the seam.
//!
//! [`memory`] keeps profiles in ordered maps, for tests and as the simplest statement of what a store does.
//! [`sled`] keeps them on disk: [`commit_log`] is the point of commit, sled the state behind it, and a [`snapshot`]
//! with the log after it is the whole store once more. Both decide writes by the same pure rules ([`decision`]) and share the index's entries and ranges ([`entry`]).

pub mod commit_log;
pub mod decision;
mod digest;
mod disk;
mod durable_file;
pub mod entry;
mod kept_changes;
pub mod memory;
mod request_memory;
mod sequence;
pub mod sled;
pub mod snapshot;

mod storage_pb {
    //! The generated messages of `profilestore.storage.v1`: what is inside the commit log and snapshots.
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/storage/profilestore.storage.v1.rs"));
}

pub use disk::{Disk, Point};

/// What an engine must know to decide writes.
#[derive(Debug, Clone)]
pub struct EngineRules {
    /// Refuse a second profile with the same canonical e-mail.
    pub unique_email: bool,
    /// The source of commit times.
    pub clock: crate::store::Clock,
}

impl Default for EngineRules {
    fn default() -> Self {
        Self { unique_email: false, clock: crate::store::Clock::system() }
    }
}
