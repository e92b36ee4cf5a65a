//! What the test files share.

// Each test file compiles its own copy and none uses all of it.
#![allow(dead_code)]

use std::future::Future;
use std::time::Duration;

pub mod files;
pub mod forward;
pub mod gated;
pub mod mortal_disk;
pub mod profiles;
pub mod raw_sled;
pub mod server;
pub mod stacks;

/// Waits for what must come soon, so that a test that fails does not hang instead.
pub async fn soon<F: Future>(awaited: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(60), awaited).await {
        Ok(output) => output,
        Err(_) => panic!("what must come has not come"),
    }
}
