//! Many profiles at once.

pub mod profile_json;
