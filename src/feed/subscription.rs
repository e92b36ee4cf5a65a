//! One watch: what it is sent next.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::event::{FeedChange, framed_len};
use super::filter::Filter;
use super::place::{Listing, Place};
use super::standing::Standing;
use super::tail::{After, Chunk, End};
use super::topics::Listener;
use super::{FeedError, MESSAGE, Registration};
use crate::store::{ChangeBounds, Position, Store, StoreError};

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
    /// What is next has more bytes than the step could bring.
    TooLarge,
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
    /// The bytes of a message.
    pub(super) max_bytes: usize,
    listener: Listener,
    /// The end of the tail when the watch was last there.
    seen: Option<End>,
    /// Whether the last step came to the end of what there was.
    is_up_to_date: bool,
    standing: Standing,
}

impl<S: Store> Subscription<S> {
    pub(super) fn new(registration: Registration<S>, filter: Filter, place: Place) -> Self {
        let topics = &registration.0.topics;
        let listener = Listener::new(topics.clone(), topics.of_filter(filter.prefix()));
        let standing = registration.0.standings.add(place.position());
        Self {
            registration,
            filter,
            place,
            steps_over_changes: 0,
            snapshot_end: None,
            max_bytes: MESSAGE.max_bytes,
            listener,
            seen: None,
            is_up_to_date: false,
            standing,
        }
    }

    /// Where the watch stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Takes one bounded step, which brings up to so many bytes of events. With [`MAX_MESSAGE_BYTES`](super::MAX_MESSAGE_BYTES)
    /// nothing is too large. When the future is dropped the watch stands where it stood.
    pub async fn advance(&mut self, max_bytes: usize) -> Result<Step, FeedError> {
        if let Some(step) = self.advance_in_tail(max_bytes) {
            return Ok(step);
        }
        let step = match self.place {
            Place::Changes(_) => self.read_changes(None).await,
            Place::Snapshot { listing: Listing::End, .. } => self.end_snapshot().await,
            Place::Snapshot { .. } => self.advance_in_snapshot().await,
        };
        self.is_up_to_date = matches!(step, Ok(Step::UpToDate));
        self.standing.set(self.place.position());
        step
    }

    /// Takes a step as [`advance`](Self::advance) does, if it needs no read of its own.
    pub fn advance_in_tail(&mut self, max_bytes: usize) -> Option<Step> {
        self.max_bytes = max_bytes;
        self.is_up_to_date = false;
        if !matches!(self.place, Place::Changes(_)) {
            return None;
        }
        let step = self.step_in_tail();
        self.standing.set(self.place.position());
        step
    }

    /// Ready when there may be more for it than at the last step.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_up_to_date { self.listener.poll_woken(cx) } else { Poll::Ready(()) }
    }

    /// Waits until there may be more for it than at the last step.
    pub async fn changed(&mut self) {
        poll_fn(|cx| self.poll_changed(cx)).await;
    }

    /// Whether the feed has closed: nothing more wakes the watch, which ends when it has had all that there is.
    pub fn is_closed(&self) -> bool {
        self.listener.is_closed()
    }

    /// The oldest place from which a watch still goes on.
    pub async fn oldest_place(&self) -> Result<Place, FeedError> {
        Ok(Place::Changes(self.registration.0.store.oldest_position().await?))
    }

    /// A step over the log, from the tail if the watch stands in it.
    pub(super) async fn advance_over_changes(&mut self) -> Result<Step, FeedError> {
        let step = self.step_in_tail();
        // Whoever asks for this has more to do than that.
        self.is_up_to_date = false;
        match step {
            Some(step) => Ok(step),
            None => self.read_changes(None).await,
        }
    }

    /// A step over what the tail has; `None` when the watch does not stand in it, or must look for itself.
    fn step_in_tail(&mut self) -> Option<Step> {
        self.listener.rearm();
        let (mut message, mut scanned) = (Message::of(self.max_bytes), 0);
        while scanned < MAX_SCANNED && !message.full {
            let position = self.place.position();
            let after = self.registration.0.tail.lock().after(&position, self.seen, &self.listener);
            match after {
                After::Changes(chunk, from) => {
                    scanned += 1 + chunk.changes.len() - from;
                    self.take(&chunk.changes[from..], chunk.next, &mut message);
                }
                After::Nothing(end) => {
                    self.place.set_position(end.position);
                    self.seen = Some(end);
                    // A feed that has closed adds nothing to its tail any more.
                    let closed = self.listener.is_closed();
                    self.is_up_to_date = !closed;
                    match (scanned, closed) {
                        (0, true) => return None,
                        (0, false) => return Some(Step::UpToDate),
                        _ => break,
                    }
                }
                After::Unknown if scanned == 0 => return None,
                After::Unknown => break,
            }
        }
        Some(self.step(message))
    }

    /// A step by a read of its own, up to a position or to the head.
    pub(super) async fn read_changes(&mut self, through: Option<Position>) -> Result<Step, FeedError> {
        let position = self.place.position();
        let bounds = ChangeBounds { through, max_bytes: self.max_bytes, ..MESSAGE };
        let store = &self.registration.0.store;
        let page = match store.changes_after(&position, bounds).await {
            // A place in another life of the store, from before a restore: as with one that is too old, nothing leads on
            // from it, and the watcher must start over.
            Err(StoreError::InvalidPosition) => {
                return Err(StoreError::Truncated { oldest: store.oldest_position().await? }.into());
            }
            page => page?,
        };
        if page.next == position {
            return Ok(Step::UpToDate);
        }
        let (chunk, mut message) = (Chunk::new(page, Box::default()), Message::of(self.max_bytes));
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
            return if message.full { Step::TooLarge } else { Step::Scanned };
        }
        Step::Batch(Batch { events: message.events, place: self.place.clone(), current: false })
    }
}

/// A message in the making.
struct Message {
    events: Vec<Bytes>,
    bytes: usize,
    max_bytes: usize,
    full: bool,
}

impl Message {
    fn of(max_bytes: usize) -> Self {
        Self { events: Vec::new(), bytes: 0, max_bytes, full: false }
    }

    /// Adds an event, unless the message is full. The first one always fits into a message of the usual size.
    fn push(&mut self, event: Bytes) -> bool {
        let bytes = self.bytes + framed_len(&event);
        let always_fits = self.events.is_empty() && self.max_bytes >= MESSAGE.max_bytes;
        let fits = always_fits || (self.events.len() < MESSAGE.max_changes && bytes <= self.max_bytes);
        if fits {
            self.bytes = bytes;
            self.events.push(event);
        } else {
            self.full = true;
        }
        fits
    }
}
