//! What a store tells about the reads that run and wait in it.

use super::SledStore;
use crate::engine::sled::scan_pool::PoolFigures;
use crate::store::StoreError;

impl SledStore {
    /// What the pools of reads do, by name.
    pub fn pools(&self) -> [(&'static str, PoolFigures); 5] {
        [
            ("scans", self.scans.figures()),
            ("look_ups", self.look_ups.figures()),
            ("near_log_reads", self.near_log_reads.figures()),
            ("far_log_reads", self.far_log_reads.figures()),
            ("log_look_ups", self.log_look_ups.figures()),
        ]
    }

    /// The bytes of the log behind what is held longest; 0 when nothing is held.
    pub async fn held_log_bytes(&self) -> Result<u64, StoreError> {
        self.holds.held_bytes().await
    }
}
