//! The settings of the store on disk.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::sled::CheckAtOpen;

const MIB: u64 = 1024 * 1024;

/// The store on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// The data directory.
    pub data_dir: PathBuf,
    /// sled's page cache, in bytes on disk; the memory is several times more.
    pub sled_cache_bytes: u64,
    /// The most commits that wait; more are refused.
    pub queued_commits: usize,
    /// The most bytes of the commits that wait.
    pub queued_bytes: usize,
    /// How many pages are read at a time.
    pub running_scans: u32,
    /// How many pages may wait to be read; more are refused.
    pub waiting_scans: usize,
    /// A snapshot is made when the log since the last one has more bytes than this and than the profiles.
    pub snapshot_after_bytes: u64,
    /// Changes older than this may leave the log, once a snapshot covers them.
    #[serde(with = "humantime_serde")]
    pub log_keep_age: Duration,
    /// Changes with more bytes of log behind them than this may leave the log too, however young they are.
    pub log_keep_bytes: u64,
    /// Changes that a follower holds stay in the log beyond that, but may leave it with more bytes of log behind them than this.
    pub held_log_bytes: u64,
    /// With fewer free bytes on the disk writes are refused.
    pub min_free_bytes: u64,
    /// The size of a file that is given up to open the store when the disk is full; 0: none.
    pub ballast_bytes: u64,
    /// How long a sync of the disk may take until the server ends for a restart.
    #[serde(with = "humantime_serde")]
    pub sync_timeout: Duration,
    /// When the whole state is checked at the start.
    pub check_at_open: CheckAtOpen,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("profilestore-data"),
            sled_cache_bytes: 192 * MIB,
            queued_commits: 4096,
            queued_bytes: 64 * MIB as usize,
            running_scans: 4,
            waiting_scans: 1024,
            snapshot_after_bytes: 1024 * MIB,
            log_keep_age: Duration::from_secs(24 * 3600),
            log_keep_bytes: 1024 * MIB,
            held_log_bytes: 4 * 1024 * MIB,
            min_free_bytes: 256 * MIB,
            ballast_bytes: 128 * MIB,
            sync_timeout: Duration::from_secs(30),
            check_at_open: CheckAtOpen::Always,
        }
    }
}

impl StoreSettings {
    /// Names each value that is out of its bounds.
    pub(super) fn check(&self, require: &mut impl FnMut(bool, &str)) {
        require(self.sled_cache_bytes >= MIB, "store.sled_cache_bytes must be at least 1048576");
        require((1..=1_000_000).contains(&self.queued_commits), "store.queued_commits must be 1 to 1000000");
        require(self.queued_bytes >= 2 * MIB as usize, "store.queued_bytes must be at least 2097152");
        require((1..=64).contains(&self.running_scans), "store.running_scans must be 1 to 64");
        require((1..=100_000).contains(&self.waiting_scans), "store.waiting_scans must be 1 to 100000");
        require(self.snapshot_after_bytes >= MIB, "store.snapshot_after_bytes must be at least 1048576");
        require(
            self.log_keep_age >= Duration::from_secs(600),
            "store.log_keep_age must be at least 10m, for which request ids are remembered",
        );
        require(self.held_log_bytes >= MIB, "store.held_log_bytes must be at least 1048576");
        require(
            self.ballast_bytes == 0 || (MIB..=64 * 1024 * MIB).contains(&self.ballast_bytes),
            "store.ballast_bytes must be 0 or 1048576 to 68719476736",
        );
        require(
            (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.sync_timeout),
            "store.sync_timeout must be 1s to 1h",
        );
    }
}
