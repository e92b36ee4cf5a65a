//! profilestore keeps user profiles in an embedded store and serves them over gRPC.
pub mod model;
pub mod pb;
