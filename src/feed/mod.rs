//! Watching a store's changes: from now, from the oldest that is kept, or from where an earlier watch stopped,
//! all of them or those of a domain, with or without the current profiles first.
//!
//! Everything that a watcher is sent comes from [`Store::changes_after`], in one way for all: near the head from the
//! tail, a bounded run of the latest changes that one task reads for all watchers, and further back by reads of its
//! own. A watcher asks when it can send, so a slow one waits for nobody and nobody waits for it. It is woken by changes of
//! its domain only.
//!
//! In reading order: [`Filter`] and [`Place`], `event` (an event is encoded once for all), `tail`, `topics` and `follower`,
//! [`Subscription`] and `snapshot`.
//!
//! Invariants: a watcher's place moves on only when what lies before it was given to it or does not concern it;
//! the tail has no gap; what is kept for each watcher is one message at most.

mod event;
mod filter;
mod follower;
mod place;
pub mod publisher;
mod snapshot;
mod standing;
mod subscription;
mod tail;
mod topics;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use filter::Filter;
pub use place::Place;
pub use subscription::{Batch, Step, Subscription};

use self::standing::Standings;
use self::tail::Tail;
use self::topics::Topics;
use crate::model::CommitTime;
use crate::store::places::{self, NoPlace, Places};
use crate::store::{ChangeBounds, Hold, Position, Store, StoreError};

/// The bytes of one message at most, unless its only event has more.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// The bounds of one message, and so of what is read for one.
const MESSAGE: ChangeBounds = ChangeBounds { max_changes: 1000, max_bytes: MAX_MESSAGE_BYTES, through: None };

/// The most watchers, unless a setting says otherwise.
pub const MAX_WATCHERS: usize = 10_000;

/// Why a watch ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// There are as many watchers as there may be.
    #[error("there are {limit} watchers already")]
    TooManyWatchers {
        /// The bound.
        limit: usize,
    },
    /// There is room, but no more than who asks has watchers already.
    #[error("of {limit} watchers the rest is for others")]
    LeftToOthers {
        /// The bound on all.
        limit: usize,
    },
    /// The store failed, or the watcher's place is no longer kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The changes that can be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The oldest position to go on from.
    pub oldest: Position,
    /// When the first change after it was committed; `None` when there is none.
    pub oldest_time: Option<CommitTime>,
    /// The newest position.
    pub newest: Position,
    /// The number of watchers now.
    pub watchers: usize,
    /// The places that are held.
    pub holds: Vec<Hold>,
}

/// The changes of a store, for many watchers. Ends with its watches when it is closed or dropped.
pub struct Feed<S> {
    shared: Arc<Shared<S>>,
    _end: DropGuard,
}

/// What the watchers and the follower share.
struct Shared<S> {
    store: Arc<S>,
    /// Guards the latest changes; held for a look-up or an addition only.
    tail: Mutex<Tail>,
    /// Wakes the watchers when the tail has something for them.
    topics: Arc<Topics>,
    places: Arc<Places>,
    /// The number of watchers, for who waits for one.
    watchers: watch::Sender<usize>,
    standings: Arc<Standings>,
    closing: CancellationToken,
}

impl<S: Store> Shared<S> {
    /// The newest position, as far as it was announced. A copy: who asked the store for anything while it holds the announced
    /// one could wait for ever, since a store may announce under the lock that it answers under.
    fn newest(&self) -> Position {
        *self.store.watch_head().borrow()
    }
}

/// A place among the watchers, given back when it is dropped.
struct Registration<S>(
    Arc<Shared<S>>,
    #[expect(dead_code, reason = "it is given back when it is dropped")] places::Place,
);

impl<S: Store> Feed<S> {
    /// The feed of a store, for at most so many watchers at a time.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, on which it follows the store.
    pub fn start(store: Arc<S>, max_watchers: usize) -> Self {
        let closing = CancellationToken::new();
        let head = *store.watch_head().borrow();
        let shared = Arc::new(Shared {
            store,
            tail: Mutex::new(Tail::new(head)),
            topics: Arc::default(),
            places: Places::new(max_watchers),
            watchers: watch::Sender::new(0),
            standings: Arc::default(),
            closing: closing.clone(),
        });
        tokio::spawn(follower::follow(shared.clone()));
        Self { shared, _end: closing.drop_guard() }
    }

    /// Begins a watch of the changes made from now on.
    pub async fn watch_from_now(&self, filter: Filter) -> Result<Subscription<S>, FeedError> {
        let registration = self.register()?;
        let head = self.shared.store.head().await?;
        Ok(Subscription::new(registration, filter, Place::Changes(head)))
    }

    /// Begins a watch that sends all current matches first.
    pub async fn watch_with_snapshot(&self, filter: Filter) -> Result<Subscription<S>, FeedError> {
        let registration = self.register()?;
        let head = self.shared.store.head().await?;
        Ok(Subscription::new(registration, filter, Place::snapshot(head)))
    }

    /// Begins a watch of all changes that are kept.
    pub async fn watch_from_oldest(&self, filter: Filter) -> Result<Subscription<S>, FeedError> {
        let registration = self.register()?;
        let oldest = self.shared.store.oldest_position().await?;
        Ok(Subscription::new(registration, filter, Place::Changes(oldest)))
    }

    /// Goes on with a watch of the same filter.
    pub async fn watch_from(&self, filter: Filter, place: Place) -> Result<Subscription<S>, FeedError> {
        Ok(Subscription::new(self.register()?, filter, place))
    }

    /// What can be followed.
    pub async fn window(&self) -> Result<Window, StoreError> {
        let store = &self.shared.store;
        let holds = store.holds().await?;
        let mut oldest = store.oldest_position().await?;
        let first = loop {
            match store.changes_after(&oldest, ChangeBounds { max_changes: 1, ..MESSAGE }).await {
                // The log was trimmed between the two questions.
                Err(StoreError::Truncated { oldest: later }) if later != oldest => oldest = later,
                first => break first?,
            }
        };
        Ok(Window {
            oldest,
            oldest_time: first.changes.first().map(|change| change.time),
            newest: store.head().await?,
            watchers: *self.shared.watchers.borrow(),
            holds,
        })
    }

    /// The number of watchers now.
    pub fn watchers(&self) -> usize {
        *self.shared.watchers.borrow()
    }

    /// The newest position, as far as it was announced.
    pub fn newest(&self) -> Position {
        self.shared.newest()
    }

    /// By how many changes the slowest watcher is behind the newest one; 0 without watchers, and where changes are not
    /// numbered.
    pub fn slowest_lag(&self) -> u64 {
        let store = &self.shared.store;
        let slowest = self.shared.standings.positions().iter().filter_map(|at| store.changes_before(at)).min();
        // The head after the positions, which are never beyond it.
        let newest = store.changes_before(&self.newest());
        slowest.zip(newest).map_or(0, |(slowest, newest)| newest.saturating_sub(slowest))
    }

    /// The most watchers at a time.
    pub fn max_watchers(&self) -> usize {
        self.shared.places.limit()
    }

    /// Cancelled, it asks all watches to end with what is there then, and keeps new ones out.
    pub fn closing(&self) -> &CancellationToken {
        &self.shared.closing
    }

    fn register(&self) -> Result<Registration<S>, FeedError> {
        if self.shared.closing.is_cancelled() {
            return Err(StoreError::Closed.into());
        }
        let limit = self.max_watchers();
        let place = self.shared.places.take().map_err(|none| match none {
            NoPlace::Full => FeedError::TooManyWatchers { limit },
            NoPlace::LeftToOthers => FeedError::LeftToOthers { limit },
        })?;
        self.shared.watchers.send_modify(|watchers| *watchers += 1);
        Ok(Registration(self.shared.clone(), place))
    }
}

impl<S> Drop for Registration<S> {
    fn drop(&mut self) {
        self.0.watchers.send_modify(|watchers| *watchers -= 1);
    }
}
