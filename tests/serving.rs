//! The serving loop's promises: every answer whole and in order whatever the client does, everything bounded, and
//! an end that comes. One file per kind of promise.
//!
//! What needs a condition of time runs on a paused clock over a pipe in memory; what needs threads and a listener
//! runs over loopback sockets.

mod common;

#[path = "serving/at_once.rs"]
mod at_once;
#[path = "serving/back_pressure.rs"]
mod back_pressure;
#[path = "serving/bounds.rs"]
mod bounds;
#[path = "serving/drains.rs"]
mod drains;
#[path = "serving/harness.rs"]
mod harness;
#[path = "serving/hostile_frames.rs"]
mod hostile_frames;
#[path = "serving/patience.rs"]
mod patience;
#[path = "serving/raw_frames.rs"]
mod raw_frames;
#[path = "serving/request_bytes.rs"]
mod request_bytes;
#[path = "serving/shutdown.rs"]
mod shutdown;
#[path = "serving/unread_answers.rs"]
mod unread_answers;
#[path = "serving/untaken.rs"]
mod untaken;
#[path = "serving/watches_without_room.rs"]
mod watches_without_room;
