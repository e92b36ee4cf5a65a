//! The seam between those who serve profiles and those who keep them.
//!
//! [`Store`] is the contract: each sentence of its documentation is a promise that the acceptance suite
//! (`tests/contract.rs`) holds every engine and every wrapped store to. The seam speaks only of the model;
//! no byte of a format, no transaction, no engine's word crosses it.

mod backup;
mod changes;
mod clock;
mod commit;
mod error;
mod hold;
mod observer;
mod page;
pub mod places;
pub mod source;
mod verification;

use std::future::Future;

use tokio::sync::watch;

pub use backup::Backup;
pub use changes::{ChangeBounds, ChangePage, CommittedChange, Position};
pub use clock::Clock;
pub use commit::{Commit, CommitMode, Outcomes, RequestId, RequestMark};
pub use error::{Corruption, StoreError};
pub use hold::{Hold, HoldName, MAX_HOLDS};
pub use observer::{CommitObserver, NoObserver};
pub use page::{Cursor, DomainCount, DomainOrder, DomainPage, Page, PageBounds, Scope};
pub use source::AnswerSource;
pub use verification::{Problem, VerifyProgress, VerifyReport};

use crate::model::{Domain, ProfileId, Record};

/// What the store can say about itself at no cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// The engine's name.
    pub engine: &'static str,
    /// What it holds.
    pub totals: Totals,
    /// The number of commits that wait to be made.
    pub queued_commits: usize,
    /// Whether writes are accepted.
    pub state: StoreState,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// The number of profiles.
    pub profiles: u64,
    /// The number of domains that have at least one profile.
    pub domains: u64,
    /// The bytes of the encoded profiles.
    pub profile_bytes: u64,
}

/// Whether a store takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// It does.
    Open,
    /// A write failed in a way that leaves its outcome unknown. Reads go on; writes fail until the store has
    /// been opened anew.
    Failed {
        /// What happened, for the log.
        cause: String,
    },
    /// It was closed.
    Closed,
}

/// A store of profiles.
///
/// **Durability.** When [`commit`](Store::commit) returns `Ok`, its changes survive a crash of the process
/// and of the machine. No read ever returns what a crash could still take back. (The memory engine promises
/// only the order, not the survival.)
///
/// **Consistency.** Reads and writes of one profile are linearizable: a read that begins after a commit
/// returned shows it or a later one, and whoever has seen a value, by any method, never sees an older one
/// afterwards. An atomic commit is seen whole or not at all by a single `get_many` or page only as far as
/// each profile goes; several profiles read together are not one snapshot.
///
/// **Dropped futures.** A read whose future is dropped stops soon and leaves nothing behind. A commit whose
/// future is dropped after its first poll may still be made, and then it is made as a whole.
///
/// **Errors.** Every method may return [`StoreError::Corrupt`] when stored bytes fail their check: wrong data is
/// never returned. After [`StoreError::Failed`] no write succeeds until the store has been opened anew; reads
/// go on. After [`close`](Store::close) every method returns [`StoreError::Closed`].
pub trait Store: Send + Sync + 'static {
    /// The current record of a profile; `None` when there is none.
    fn get(&self, id: &ProfileId) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send;

    /// The current records of several profiles, one for each id, in the order of the ids.
    fn get_many(&self, ids: &[ProfileId]) -> impl Future<Output = Result<Vec<Option<Record>>, StoreError>> + Send;

    /// The one door for every change. Writes are decided in order, each against the state that the writes
    /// before it left, and each is made or refused as a whole.
    ///
    /// `All`: the outcomes are all `Ok`, or the commit fails with [`StoreError::Rejected`] for the first refused
    /// write and nothing was changed. Two writes of one profile are refused.
    /// `Each`: one outcome or rejection per write, in order; a refused write does not touch the others.
    ///
    /// A put or update that leaves the profile as it is writes nothing and keeps its etag. A new etag and a
    /// larger revision come with every change; the create time stays until the profile is deleted; the
    /// update time never goes back.
    ///
    /// A commit has at most [`MAX_COMMIT_WRITES`](crate::model::limits::MAX_COMMIT_WRITES) writes, otherwise it
    /// fails with [`StoreError::TooManyWrites`], and is not larger than the engine takes, otherwise it fails with
    /// [`StoreError::TooLarge`]. Either way nothing was changed.
    ///
    /// A commit whose every write was made is remembered by its [`RequestMark`], if it has one, for ten minutes, or
    /// until a million others have been, where each id made for one counts as another. A commit with the same id and fingerprint is not made again: each of its
    /// outcomes is [`Outcome::Repeated`](crate::model::Outcome::Repeated) with the profile as it now is, or without one
    /// where the write is a delete. With the same id and another fingerprint it fails with [`StoreError::RequestIdReused`].
    ///
    /// When too much is queued the commit fails at once with [`StoreError::Overloaded`] and was not made. While the disk
    /// is nearly full it fails with [`StoreError::DiskLow`] and was not made.
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Outcomes, StoreError>> + Send;

    /// The records of a scope, in its order, after a cursor. The page shows every commit that returned
    /// before the call began, and each of its records is current and in the scope when it is read.
    ///
    /// A page holds at most `bounds.max_records` records and `bounds.max_bytes` bytes, but at least one
    /// record unless the scope is exhausted. Without a next cursor the scope is exhausted. Pages together
    /// are not a snapshot, but a profile that stays in its place is met exactly once.
    ///
    /// A cursor is good for the scope that it came from, for ever: it survives restarts and the deletion of
    /// what it points at. A cursor that this store cannot read gives [`StoreError::InvalidCursor`].
    fn list(
        &self,
        scope: &Scope,
        after: Option<&Cursor>,
        bounds: PageBounds,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// The domains that have at least one profile, with the number of profiles of exactly that domain:
    /// `parent` and all domains below it, or all domains.
    ///
    /// In index order a page has a cursor like [`list`](Store::list). In the order of counts the page holds
    /// the largest, ties in index order, and has no next cursor; to give it one is [`StoreError::InvalidCursor`].
    fn list_domains(
        &self,
        parent: Option<&Domain>,
        order: DomainOrder,
        after: Option<&Cursor>,
        max_domains: usize,
    ) -> impl Future<Output = Result<DomainPage, StoreError>> + Send;

    /// The number of profiles of a scope: all, a domain or a subtree in constant time; an e-mail by counting.
    fn count(&self, scope: &Scope) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// The changes after a position, in the order in which they were committed, each once and with none left out:
    /// of all profiles together an order that every call agrees on, and the changes of an atomic commit without
    /// others between them.
    ///
    /// A change is among them only when it is durable and reads show it, and every change is that was committed by
    /// a commit that returned before the call began. A position is good for ever, over restarts, until what
    /// follows it is no longer kept: then it gives [`StoreError::Truncated`]. A position of another store, or of
    /// another life of this one, or that nobody made, gives [`StoreError::InvalidPosition`].
    ///
    /// A page holds at most `bounds.max_changes` changes and `bounds.max_bytes` bytes, but at least one change
    /// unless none follows. With `bounds.through` it ends there at the latest.
    fn changes_after(
        &self,
        after: &Position,
        bounds: ChangeBounds,
    ) -> impl Future<Output = Result<ChangePage, StoreError>> + Send;

    /// The newest position. It covers every change that any read has shown which returned before this call began.
    fn head(&self) -> impl Future<Output = Result<Position, StoreError>> + Send;

    /// The oldest position that [`changes_after`](Store::changes_after) still goes on from.
    fn oldest_position(&self) -> impl Future<Output = Result<Position, StoreError>> + Send;

    /// Keeps the changes after a position for somebody who must not be overtaken, under a name: however old they
    /// become, they are not trimmed while the name holds them. A name holds one position; to hold another one moves
    /// it, forwards or back.
    ///
    /// When the call returns `Ok` the hold is durable, as a commit is, and holds over restarts until it is moved or
    /// released. A position whose changes are no longer all kept gives [`StoreError::Truncated`], one that this store did
    /// not make [`StoreError::InvalidPosition`], and a name too many ([`MAX_HOLDS`]) [`StoreError::TooManyHolds`]; what
    /// the name held before it holds still.
    ///
    /// Held changes have a bound in bytes, which the engine is opened with. With more the oldest go all the same, and
    /// the engine logs an error: then [`holds`](Store::holds) says how many are lost, and
    /// [`changes_after`](Store::changes_after) gives [`StoreError::Truncated`]. A backup has no holds.
    ///
    /// Each call may cost a sync of the disk: whoever moves a hold often does so once a second and not for each change.
    fn hold(&self, name: &HoldName, position: &Position) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives a hold up, durably. Returns whether there was one.
    fn release_hold(&self, name: &HoldName) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// All holds, in the order of their names.
    fn holds(&self) -> impl Future<Output = Result<Vec<Hold>, StoreError>> + Send;

    /// Whether holds were lost by damage before this store was opened. Then a name that holds nothing may have held
    /// something, and whoever it belongs to begins with the oldest change.
    fn has_lost_holds(&self) -> bool {
        false
    }

    /// Wakes whoever waits for changes. It holds the newest position whose changes can be read; since it carries no
    /// changes, nobody who looks at it late misses any. It holds it before the commit's caller is answered.
    fn watch_head(&self) -> watch::Receiver<Position>;

    /// The position of the change that made this version of a profile.
    fn position_of(&self, record: &Record) -> Position;

    /// How many numbers of changes lie before a position, for figures: the difference of two tells how far they are
    /// apart. `None` where changes are not numbered, or when the position is not this store's.
    fn changes_before(&self, position: &Position) -> Option<u64> {
        let _ = position;
        None
    }

    /// Figures that cost nothing.
    fn status(&self) -> StoreStatus;

    /// The bytes that the store takes on disk; 0 for one in memory.
    fn disk_bytes(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// The store's state and every change of it. A server watches it to stop when a write has failed.
    fn watch_state(&self) -> watch::Receiver<StoreState>;

    /// Checks everything that is stored against everything else: each index entry against its record, each
    /// record against its index entry, all counters and all checksums. While others write it reports nothing that
    /// is not wrong, but counts what it could not settle. `progress` is told what has been found.
    ///
    /// One check goes on at a time: another one fails with [`StoreError::Overloaded`].
    fn verify_with(&self, progress: VerifyProgress) -> impl Future<Output = Result<VerifyReport, StoreError>> + Send;

    /// [`verify_with`](Store::verify_with) for those who wait for its end.
    fn verify(&self) -> impl Future<Output = Result<VerifyReport, StoreError>> + Send {
        self.verify_with(VerifyProgress::default())
    }

    /// A consistent copy of everything as of one change, made now while others write. An engine that keeps nothing
    /// cannot be backed up: [`StoreError::NoBackups`]. One backup goes on at a time: another one fails with
    /// [`StoreError::Overloaded`].
    fn backup(&self) -> impl Future<Output = Result<Backup, StoreError>> + Send {
        async { Err(StoreError::NoBackups) }
    }

    /// Makes the commits that were accepted, refuses new ones, and lets go of everything. Afterwards the
    /// data can be opened again. A second call does nothing.
    fn close(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}
