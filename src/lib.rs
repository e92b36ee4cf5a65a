//! profilestore keeps user profiles in an embedded store and serves them over gRPC.
pub mod cache;
pub mod engine;
pub mod model;
pub mod pb;
pub mod store;
