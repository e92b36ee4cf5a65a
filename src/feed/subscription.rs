//! One watch: what it is sent next.

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::event::{FeedChange, framed_len};
use super::filter::Filter;
use super::place::{Listing, Place};
use super::standing::Standing;
use super::tail::{After, Chunk};
use super::{FeedError, MESSAGE, Registration};
use crate::store::{Position, Store};

/// How many changes are looked at before somebody else has a turn.
const MAX_SCANNED: usize = 4096;

/// One message to a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Encoded events, in order.
    pub events: Vec<Bytes>,
    /// Where the watch stands behind them.
    pub place: Place,
    /// The snapshot ended just before.
    pub current: bool,
}

/// What came of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is something to send.
    Batch(Batch),
    /// The watch has moved on over changes that do not concern it, and there may be more.
    Scanned,
    /// There is nothing more at present.
    UpToDate,
}

/// One watch.
pub struct Subscription<S> {
    pub(super) registration: Registration<S>,
    pub(super) filter: Filter,
    pub(super) place: Place,
    /// The steps over changes since the last page of a snapshot.
    pub(super) steps_over_changes: u32,
    /// The head when the last profile of a snapshot had been read: with the changes up to here it is complete.
    pub(super) snapshot_end: Option<Position>,
    tail_changed: watch::Receiver<()>,
    standing: Standing,
}

impl<S: Store> Subscription<S> {
    pub(super) fn new(registration: Registration<S>, filter: Filter, place: Place) -> Self {
        let tail_changed = registration.0.tail_changed.subscribe();
        let standing = registration.0.standings.add(place.position());
        Self { registration, filter, place, steps_over_changes: 0, snapshot_end: None, tail_changed, standing }
    }

    /// Where the watch stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Takes one bounded step. When the future is dropped the watch stands where it stood.
    pub async fn advance(&mut self) -> Result<Step, FeedError> {
        let step = match self.place {
            Place::Changes(_) => self.advance_over_changes().await,
            Place::Snapshot { listing: Listing::End, .. } => self.end_snapshot().await,
            Place::Snapshot { .. } => self.advance_in_snapshot().await,
        };
        self.standing.set(self.place.position());
        step
    }

    /// Waits until there may be more than at the last step.
    pub async fn changed(&mut self) {
        // The sender is in what this watch shares, so it cannot go away before it.
        let _ = self.tail_changed.changed().await;
    }

    /// Cancelled when the feed is closing.
    pub fn closing(&self) -> &CancellationToken {
        &self.registration.0.closing
    }

    /// The oldest place from which a watch still goes on.
    pub async fn oldest_place(&self) -> Result<Place, FeedError> {
        Ok(Place::Changes(self.registration.0.store.oldest_position().await?))
    }

    /// A step over the log, from the tail if the watch stands in it.
    pub(super) async fn advance_over_changes(&mut self) -> Result<Step, FeedError> {
        self.tail_changed.mark_unchanged();
        let (mut message, mut scanned) = (Message::default(), 0);
        while scanned < MAX_SCANNED && !message.full {
            let position = self.place.position();
            let after = self.registration.0.tail.lock().after(&position);
            match after {
                After::Changes(chunk, from) => {
                    scanned += 1 + chunk.changes.len() - from;
                    self.take(&chunk.changes[from..], chunk.next, &mut message);
                }
                // A feed that closes adds nothing to its tail any more.
                After::Nothing if scanned == 0 && !self.closing().is_cancelled() => return Ok(Step::UpToDate),
                After::Nothing | After::Unknown if scanned == 0 => return self.read_changes(None).await,
                After::Nothing | After::Unknown => break,
            }
        }
        Ok(self.step(message))
    }

    /// A step by a read of its own, up to a position or to the head.
    pub(super) async fn read_changes(&mut self, through: Option<Position>) -> Result<Step, FeedError> {
        let position = self.place.position();
        let bounds = crate::store::ChangeBounds { through, ..MESSAGE };
        let page = self.registration.0.store.changes_after(&position, bounds).await?;
        if page.next == position {
            return Ok(Step::UpToDate);
        }
        let (chunk, mut message) = (Chunk::new(page), Message::default());
        self.take(&chunk.changes, chunk.next, &mut message);
        Ok(self.step(message))
    }

    /// Puts into the message what concerns the watcher, and moves on as far as it took.
    fn take(&mut self, changes: &[FeedChange], next: Position, message: &mut Message) {
        for each in changes {
            if let Some(event_type) = self.filter.event_type(&each.change) {
                let event = each.event(event_type);
                if !message.push(event) {
                    return;
                }
            }
            self.place.set_position(each.change.position);
        }
        self.place.set_position(next);
    }

    fn step(&self, message: Message) -> Step {
        if message.events.is_empty() {
            return Step::Scanned;
        }
        Step::Batch(Batch { events: message.events, place: self.place.clone(), current: false })
    }
}

/// A message in the making.
#[derive(Default)]
struct Message {
    events: Vec<Bytes>,
    bytes: usize,
    full: bool,
}

impl Message {
    /// Adds an event, unless the message is full. The first one always fits.
    fn push(&mut self, event: Bytes) -> bool {
        let bytes = self.bytes + framed_len(&event);
        let fits = self.events.is_empty() || (self.events.len() < MESSAGE.max_changes && bytes <= MESSAGE.max_bytes);
        if fits {
            self.bytes = bytes;
            self.events.push(event);
        } else {
            self.full = true;
        }
        fits
    }
}
