//! The task that publishes.
//!
//! It publishes, has nothing to publish, or is delayed, and logs one line for each change of state or of its reason. After
//! a delay it begins anew behind the last acknowledged change, with one message until that is acknowledged.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::broker::{Acknowledged, Broker, Delay, Session};
use super::figures::SharedFigures;
use super::message::MessageOptions;
use super::window::Window;
use crate::store::{ChangeBounds, HoldName, Position, Store, StoreError};

/// What is read at a time.
const PAGE: ChangeBounds = ChangeBounds { max_changes: 1000, max_bytes: 128 * 1024, through: None };
/// How often the place is stored and the lag looked at. After a crash the changes of so long are sent again.
const KEEP_PLACE_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits for the answers in flight.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a stop waits for the place to be stored.
const LAST_PLACE: Duration = Duration::from_secs(2);
/// The name of the publisher's hold.
const HOLD: &str = "publisher";

/// Where a publisher begins that has no place yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// With the oldest change that is kept.
    #[default]
    Oldest,
    /// With the next change; with the oldest that is kept if a place may have been lost by damage.
    Now,
}

/// How a publisher works.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// What the messages look like.
    pub message: MessageOptions,
    /// Where it begins the first time.
    pub start: Start,
    /// The most messages in flight.
    pub max_in_flight: usize,
}

/// A publisher that has its place and does not publish yet.
pub struct Publisher<S> {
    store: Arc<S>,
    options: PublisherOptions,
    hold: HoldName,
    place: Position,
    figures: Arc<SharedFigures>,
}

impl<S: Store> Publisher<S> {
    /// Takes the place where the last publisher of this store stopped, or makes one: at the start that was chosen, or at
    /// the oldest change when damage may have taken a place. From then on the store keeps what
    /// comes after it.
    pub async fn prepare(store: Arc<S>, options: PublisherOptions) -> Result<Self, StoreError> {
        let hold = HoldName::new(HOLD).unwrap_or_else(|| unreachable!("the name is a good one"));
        let known = store.holds().await?.into_iter().find(|known| known.name == hold);
        let place = match (known, options.start) {
            (Some(known), _) => known.position,
            (None, Start::Now) if store.has_lost_holds() => {
                tracing::warn!(
                    "the publisher's place may be lost, so that it begins with the oldest change that is kept"
                );
                hold_oldest(&*store, &hold).await?
            }
            (None, Start::Oldest) => hold_oldest(&*store, &hold).await?,
            (None, Start::Now) => {
                let head = store.head().await?;
                store.hold(&hold, &head).await?;
                head
            }
        };
        Ok(Self { store, options, hold, place, figures: Arc::default() })
    }

    /// Gives up the place that a publisher has kept, so that it holds the log no longer. Returns whether there was one.
    pub async fn forget(store: &S) -> Result<bool, StoreError> {
        match HoldName::new(HOLD) {
            Some(hold) => store.release_hold(&hold).await,
            None => Ok(false),
        }
    }

    /// The figures that this publisher keeps.
    pub fn figures(&self) -> Arc<SharedFigures> {
        self.figures.clone()
    }

    /// What is needed to begin anew.
    pub(super) fn again(&self) -> Again<S> {
        Again { store: self.store.clone(), options: self.options.clone(), figures: self.figures.clone() }
    }

    /// Publishes until `stop` is cancelled; then takes the answers that come within two seconds and stores the place.
    pub(super) async fn publish<B: Broker>(self, broker: &B, stop: &CancellationToken) {
        let mut task = Task::begin(self, Window::<<B::Session as Session>::Answer>::default());
        loop {
            match task.attempt(broker, stop).await {
                Ok(()) => break,
                Err(delay) => {
                    task.begin_anew(delay, broker.address());
                    if !task.pause(stop).await {
                        break;
                    }
                }
            }
        }
        if timeout(LAST_PLACE, task.keep_place()).await.is_err() {
            tracing::warn!("the publisher's last place could not be stored in time; some changes will be sent again");
        }
    }
}

/// A publisher that is not there at present.
pub(super) struct Again<S> {
    store: Arc<S>,
    options: PublisherOptions,
    figures: Arc<SharedFigures>,
}

impl<S: Store> Again<S> {
    /// The publisher at its stored place, with the figures of the one before.
    pub async fn prepare_again(&self) -> Result<Publisher<S>, StoreError> {
        let publisher = Publisher::prepare(self.store.clone(), self.options.clone()).await?;
        Ok(Publisher { figures: self.figures.clone(), ..publisher })
    }
}

/// Holds everything that is kept. What is trimmed meanwhile is not missed: nobody was told of it.
async fn hold_oldest<S: Store>(store: &S, hold: &HoldName) -> Result<Position, StoreError> {
    let mut oldest = store.oldest_position().await?;
    loop {
        match store.hold(hold, &oldest).await {
            Ok(()) => return Ok(oldest),
            Err(StoreError::Truncated { oldest: later }) if later != oldest => oldest = later,
            Err(error) => return Err(error),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    /// The broker is there and there is nothing to publish: whether it takes messages is not known.
    Connected,
    /// The broker has acknowledged something over this connection.
    Publishing,
    Delayed(Delay),
}

struct Task<S, A> {
    publisher: Publisher<S>,
    /// The changes up to here were read.
    read: Position,
    /// The changes up to here are acknowledged.
    acknowledged: Position,
    /// The place that is stored.
    held: Position,
    /// How many changes were acknowledged since the place was stored.
    changes_since_held: u64,
    window: Window<A>,
    state: State,
    /// The broker has acknowledged something over this connection.
    confirmed: bool,
    /// The last attempt to store the place came to something.
    place_is_kept: bool,
    /// The last read of the changes came to nothing.
    is_unreadable: bool,
    backoff: Backoff,
}

impl<S: Store, A: Future<Output = Result<Acknowledged, Delay>> + Send + Unpin> Task<S, A> {
    fn begin(publisher: Publisher<S>, window: Window<A>) -> Self {
        let place = publisher.place;
        Self {
            publisher,
            read: place,
            acknowledged: place,
            held: place,
            changes_since_held: 0,
            window,
            state: State::Starting,
            confirmed: false,
            place_is_kept: true,
            is_unreadable: false,
            backoff: Backoff::default(),
        }
    }

    /// Publishes over one connection. Ends well when it should stop.
    async fn attempt<B>(&mut self, broker: &B, stop: &CancellationToken) -> Result<(), Delay>
    where
        B: Broker,
        B::Session: Session<Answer = A>,
    {
        let mut head = self.publisher.store.watch_head();
        let session = tokio::select! {
            session = broker.connect() => session?,
            () = stop.cancelled() => return Ok(()),
        };
        self.confirmed = false;
        let mut tick = interval(KEEP_PLACE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            head.borrow_and_update();
            if self.window.wants_more() {
                self.fill().await?;
            }
            if self.window.is_empty() && !self.confirmed {
                self.enter(State::Connected, broker.address());
            }
            let max_in_flight = if self.confirmed { self.publisher.options.max_in_flight } else { 1 };
            while let Some((message, ticket)) = self.window.next_to_send(max_in_flight) {
                let answer = tokio::select! {
                    answer = session.publish(message) => answer?,
                    // The place stays before this message; the next publisher sends it.
                    () = stop.cancelled() => return Ok(()),
                };
                self.window.sent(ticket, answer);
            }
            let (is_in_flight, wants_more) = (self.window.is_in_flight(), self.window.wants_more());
            tokio::select! {
                answer = first_answer(&mut self.window), if is_in_flight => self.take(answer?, broker.address())?,
                changed = head.changed(), if wants_more => changed.map_err(|_| Delay::Unreadable)?,
                _ = tick.tick() => self.keep_place().await,
                delay = session.lost() => return Err(delay),
                () = stop.cancelled() => {
                    // What does not come in time is sent again by the next publisher.
                    let _ = timeout(DRAIN, self.drain(broker.address())).await;
                    return Ok(());
                }
            }
        }
    }

    async fn drain(&mut self, address: &str) -> Result<(), Delay> {
        while self.window.is_in_flight() {
            let answer = first_answer(&mut self.window).await?;
            self.take(answer, address)?;
        }
        Ok(())
    }

    /// Takes an acknowledgement, and those that have come behind it.
    fn take(&mut self, first: Acknowledged, address: &str) -> Result<(), Delay> {
        let mut next = Some(first);
        while let Some(answer) = next {
            self.take_one(answer);
            let following = self.window.first_answer().and_then(FutureExt::now_or_never);
            next = following.transpose()?;
        }
        self.confirmed = true;
        self.enter(State::Publishing, address);
        Ok(())
    }

    fn take_one(&mut self, answer: Acknowledged) {
        let Some(ticket) = self.window.acknowledge() else { return };
        if ticket.last_of_change {
            self.acknowledged = ticket.position;
            self.changes_since_held += 1;
        }
        if self.window.is_empty() {
            // There may be positions without changes behind the last one.
            self.acknowledged = self.read;
        }
        self.publisher.figures.update(|figures| {
            figures.acknowledged += 1;
            figures.duplicates += u64::from(answer.duplicate);
            figures.last_acknowledged = Some(ticket.time);
        });
    }

    /// Reads the next changes, if there are any.
    async fn fill(&mut self) -> Result<(), Delay> {
        match self.publisher.store.changes_after(&self.read, PAGE).await {
            Ok(page) => {
                let extended = self.window.extend(&page.changes, &self.publisher.options.message);
                extended.map_err(|error| self.unreadable(&error))?;
                self.read = page.next;
                self.is_unreadable = false;
                if self.window.is_empty() {
                    self.acknowledged = page.next;
                }
                Ok(())
            }
            // First what is in flight: that was not lost.
            Err(StoreError::Truncated { .. }) if self.window.is_in_flight() => Ok(()),
            Err(StoreError::Truncated { .. }) => {
                self.skip_what_is_lost().await.map_err(|error| self.unreadable(&error))
            }
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    /// Says so once, whatever else delays publishing meanwhile.
    fn unreadable(&mut self, error: &StoreError) -> Delay {
        if *error != StoreError::Closed && !std::mem::replace(&mut self.is_unreadable, true) {
            tracing::error!(%error, "the publisher cannot read the changes");
        }
        Delay::Unreadable
    }

    /// Goes on from the oldest change that is kept.
    async fn skip_what_is_lost(&mut self) -> Result<(), StoreError> {
        let Publisher { store, hold, figures, .. } = &self.publisher;
        let lost = store.holds().await?.into_iter().find(|held| held.name == *hold).map_or(0, |held| held.lost);
        let lost = lost.saturating_sub(self.changes_since_held);
        let oldest = hold_oldest(&**store, hold).await?;
        tracing::error!(
            lost_changes = lost,
            "changes are gone that were not published; publishing goes on from the oldest that is kept"
        );
        figures.update(|figures| figures.lost += lost);
        (self.read, self.acknowledged, self.held, self.changes_since_held) = (oldest, oldest, oldest, 0);
        Ok(())
    }

    /// Stores the place if it has moved, and looks how far it is behind.
    async fn keep_place(&mut self) {
        let Publisher { store, hold, figures, .. } = &self.publisher;
        if self.acknowledged != self.held {
            let kept = store.hold(hold, &self.acknowledged).await;
            match &kept {
                Ok(()) => (self.held, self.changes_since_held) = (self.acknowledged, 0),
                Err(error) if self.place_is_kept => {
                    tracing::warn!(%error, "the publisher's place cannot be stored; after a restart changes are sent again");
                }
                Err(_) => {}
            }
            self.place_is_kept = kept.is_ok();
        }
        let Ok(holds) = store.holds().await else { return };
        let lag = holds.into_iter().find(|held| held.name == *hold).map_or(0, |held| held.lag);
        let oldest_unpublished = self.window.oldest();
        figures.update(|figures| {
            figures.lag_changes = lag.saturating_sub(self.changes_since_held);
            figures.oldest_unpublished = oldest_unpublished;
        });
    }

    /// Forgets what is in flight, to send it again.
    fn begin_anew(&mut self, delay: Delay, address: &str) {
        self.window = Window::default();
        self.read = self.acknowledged;
        self.publisher.figures.update(|figures| figures.failures += 1);
        self.enter(State::Delayed(delay), address);
    }

    /// Waits for the next attempt; `false` when it should stop.
    async fn pause(&mut self, stop: &CancellationToken) -> bool {
        let until = Instant::now() + self.backoff.next();
        // So that it is known since when the oldest change waits.
        let _ = self.fill().await;
        loop {
            self.keep_place().await;
            tokio::select! {
                () = sleep_until(until) => return true,
                () = sleep(KEEP_PLACE_EVERY) => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    fn enter(&mut self, state: State, address: &str) {
        let delayed = matches!(state, State::Delayed(_));
        if !delayed {
            self.backoff.reset();
        }
        if self.state == state {
            return;
        }
        match state {
            State::Connected => {
                tracing::info!(broker = address, "the broker is there; nothing waits to be published")
            }
            State::Publishing => tracing::info!(broker = address, "changes are published"),
            State::Delayed(reason) => tracing::warn!(broker = address, %reason, "publishing is delayed"),
            State::Starting => {}
        }
        self.state = state;
        self.publisher.figures.update(|figures| figures.publishing = !delayed);
    }
}

async fn first_answer<A: Future + Unpin>(window: &mut Window<A>) -> A::Output {
    match window.first_answer() {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
