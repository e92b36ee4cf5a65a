//! Every change to a message broker, in order for each profile and at least once.
//!
//! One task reads the changes as every follower does ([`Store::changes_after`](crate::store::Store::changes_after)), keeps a bounded number of messages in
//! flight, takes the acknowledgements in order, and keeps its place by a hold ([`Store::hold`](crate::store::Store::hold)), so that the log is not
//! trimmed past it. A broker that is away, slow or full delays this and nothing else.
//!
//! In reading order: `message` (subjects and CloudEvents), `broker` (what is needed of one), `window` (what is in flight),
//! `backoff`, `figures`, `run` (the task), `supervisor`, and `nats` (the one broker that there is).
//!
//! Invariants: everything before the place is acknowledged; two messages of one profile are never in flight together, so
//! whatever fails and is sent again, each profile's messages come in order; a message that is sent again has the same id.

mod backoff;
mod broker;
mod figures;
mod message;
#[cfg(feature = "nats")]
pub mod nats;
mod run;
mod supervisor;
mod window;

pub use broker::{Acknowledged, Broker, Delay, Session};
pub use figures::{Figures, SharedFigures};
pub use message::{Message, MessageOptions, is_subject_prefix};
pub use run::{Publisher, PublisherOptions, Start};
