//! The cache never shows a record older than one that has been seen or acknowledged: every race that could
//! break this, one by one on an engine that can be held anywhere, and all of them together under load.

mod common;

#[path = "coherence/pages.rs"]
mod pages;
#[path = "coherence/races.rs"]
mod races;
#[path = "coherence/single_flight.rs"]
mod single_flight;
#[path = "coherence/under_load.rs"]
mod under_load;
