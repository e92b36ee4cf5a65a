//! The settings of what the server tells about itself.

use serde::{Deserialize, Serialize};

/// What the server tells about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObserveSettings {
    /// Count calls and their latencies, and show everything at `/metrics`.
    pub metrics: bool,
}

impl Default for ObserveSettings {
    fn default() -> Self {
        Self { metrics: true }
    }
}
