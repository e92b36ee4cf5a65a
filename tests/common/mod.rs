//! What the test files share.

// Each test file compiles its own copy and none uses all of it.
#![allow(dead_code)]

pub mod gated;
pub mod profiles;
pub mod server;
pub mod stacks;
