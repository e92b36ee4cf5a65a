//! One look at a server.

use std::time::{Instant, SystemTime};

use crate::client::{Client, ClientError, GetHotKeysResponse, GetStatusResponse};

/// What a server said at one time.
#[derive(Debug, Clone)]
pub struct Look {
    pub at: Instant,
    pub time: SystemTime,
    pub status: GetStatusResponse,
    pub hot: GetHotKeysResponse,
}

impl Look {
    /// Looks now.
    pub async fn at(client: &Client, limit: u32) -> Result<Self, ClientError> {
        let hot = client.hot_keys(limit).await?;
        // The figures that are compared come last, next to the time.
        let status = client.status().await?;
        Ok(Self { at: Instant::now(), time: SystemTime::now(), status, hot })
    }
}
