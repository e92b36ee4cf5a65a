//! Generated code: the messages of `profilestore.v1` and the clients of its services.
//!
//! The messages are documented in `proto/`, which is the reference for callers.

#![allow(missing_docs, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/pb/profilestore.v1.rs"));

/// The descriptors of `profilestore.v1` and all that it imports, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/profilestore.v1.descriptors.bin"));
