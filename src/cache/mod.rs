//! A store around a store: hot records are answered from memory, and never with an old one.
//!
//! [`HotCache`] keeps records by id in shards; [`CachedStore`] asks it before it asks the store inside. The
//! engine tells the cache of every commit ([`CommitObserver`](crate::store::CommitObserver)), so the two are
//! built in this order: the cache, the engine with the cache as its observer, the cached store around both.
//!
//! # Coherence
//!
//! No read may return a record older than one that anybody has seen or that a returned commit has made. Each
//! shard has one lock, never held across an await or a call of the store inside, and under it a `generation`
//! that counts what happened to the shard and `pending`, the number of changes announced and not yet applied.
//!
//! 1. *Out before visible.* `before_apply` takes the ids of a group out of the cache, raises `pending` and moves
//!    the generation. When a new record becomes visible inside, the old one can no longer be met here.
//! 2. *Nothing in while a change is under way.* A miss may fill the cache only with a token, which is given
//!    out only while nothing is pending and which is void once the generation has moved. So a record read
//!    before a commit is never installed after it.
//! 3. *Back in when visible.* `after_apply` installs the new record, or the absence after a delete, but only of
//!    an id that was in the cache when it was taken out: an import does not push out the hot set. While
//!    several groups with one id are under way, which end in any order, the last of them to finish installs the
//!    record with the largest revision of all.
//! 4. *Never backwards.* An install is refused when what is there has a larger revision. An absence that a
//!    delete left behind keeps the revision of the delete.
//! 5. *One load for many.* Simultaneous misses of one id share one load. A caller joins a load only while rule
//!    2 would let that load fill the cache: then nothing has changed since the load began, and its result
//!    is no older than the caller's own would be. When the loading caller goes away, the others try again;
//!    when it does not get on for [`JOIN_PATIENCE`], they load by themselves.
//! 6. *No thread sleeps for a change.* A miss beside changes under way waits until they are visible, and tries once more: the
//!    id of a hot record is among them by rule 1, and a store inside may let readers of its own sleep meanwhile.
//! 7. *Closed is empty.* Closing empties every shard for good; from then on the store inside answers.
//!
//! An engine that fails between `before_apply` and `after_apply` leaves the touched shards pending for ever. They
//! then cache nothing, nobody waits for them after the first who waited in vain, and what is visible is again only what
//! the store inside says.
//!
//! # Bounds
//!
//! Records are bounded in bytes and in number, absences in number, each shard by its share. Absences have a
//! region of their own: ids that do not exist, however many are asked for, push out no record. Ids that are
//! asked for once, however many, push out only each other and what else is new: a record is protected from them
//! once it has been asked for again. Pages and counts go past the records; answers to queries by domain have a cache of
//! their own with its own rules ([`PageCache`]). The time to live is an upper bound on the stay of a record that nobody changes; it is
//! not what keeps the cache coherent.

mod cached_store;
mod figures;
mod ghosts;
mod hot_cache;
mod lru_region;
mod options;
mod page_cache;
#[cfg(test)]
mod schedules;
mod shard;
#[cfg(test)]
mod tests;

pub use cached_store::{CachedStore, JOIN_PATIENCE, LOOK_UP, OUTCOME};
pub use figures::CacheFigures;
pub use hot_cache::{HotCache, Lookup};
pub use options::CacheOptions;
pub use page_cache::{PageCache, PageFigures, Ticket};
