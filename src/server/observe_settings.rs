//! The settings of what the server tells about itself.

use serde::{Deserialize, Serialize};

/// What the server tells about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObserveSettings {
    /// Count calls and their latencies, and show everything at `/metrics`.
    pub metrics: bool,
    /// Show the status page at `/` of the admin listener.
    pub status_page: bool,
    /// Show the ids of hot keys on the status page as they are. There is no authentication yet, and ids may be personal
    /// data.
    pub status_page_ids: bool,
}

impl Default for ObserveSettings {
    fn default() -> Self {
        Self { metrics: true, status_page: true, status_page_ids: false }
    }
}
