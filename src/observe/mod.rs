//! What the store tells about its own work.
//!
//! [`hot_keys`]: which profiles and domains are read most. Nothing here knows the cache, the feed, the engine or the
//! services: they tell, or are asked by the server, which knows them all.

pub mod hot_keys;
