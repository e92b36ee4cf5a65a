//! What the store is about: ids, e-mails and domains, profiles, writes, and their limits.
//!
//! Pure values. Nothing here touches a disk, a socket or a clock, and nothing here can fail except by
//! validation. Everything above speaks in these types, and only this module knows how an address becomes
//! canonical or what a stored profile looks like.
//!
//! In reading order: [`limits`], [`Violations`], [`ProfileId`], [`Domain`], [`Canonicalization`] and
//! [`Email`], [`IndexKey`], [`Draft`] (what a caller gave), [`Record`] (what is stored), [`Write`] and its
//! [`Outcome`], [`Change`], and the field masks.

pub mod limits;

mod change;
mod domain;
mod draft;
mod email;
mod id;
mod index_key;
mod mask;
mod record;
mod time;
mod violation;
mod write;

pub use change::{Change, CounterDelta, counter_deltas};
pub use domain::Domain;
pub use draft::Draft;
pub use email::{Canonicalization, Email};
pub use id::ProfileId;
pub use index_key::{DomainKey, IndexKey};
pub use mask::{ReadMask, UpdateMask};
pub use record::{Etag, Incarnation, Record, Revision};
pub use time::CommitTime;
pub use violation::{Violation, Violations};
pub use write::{Action, Outcome, Precondition, Rejection, UpdateFn, Write};

/// The profile message of the public API, which is also what is stored.
pub use crate::pb::Profile;
