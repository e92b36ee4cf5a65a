//! The responses of a watch: a feed's messages with their tokens, heartbeats, and the end when the server drains.
//!
//! The first response comes at once, or when its read waits, as the first heartbeat, so that a watcher has a token from the
//! beginning. The next message is made when the transport takes it, so a slow watcher costs no more than one. Where there is
//! no room for a whole one ([`RoomOfStream`]), messages are so small that they need none, so that a watcher goes on
//! whatever others hold.
//!
//! Most watches are at the end of the log most of the time, and thousands of them: what a change costs each is what the feed
//! can do at all. So a step that needs no read is no future, and a watch that waits has a flag and a timer and nothing that is
//! made anew for each message.
//!
//! Invariants: a read that is under way is polled on and never dropped for a heartbeat, so its place in line is kept; a
//! watcher is never left in silence for longer than [`HEARTBEAT`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

use super::answer_room::{NoRoom, RoomOfStream, SMALL};
use super::error::RpcError;
use super::page_token::CallFingerprint;
use super::watch::{refused, token};
use super::wire::WatchProfilesResponse;
use crate::feed::{MAX_MESSAGE_BYTES, Step, Subscription};
use crate::store::{Store, StoreError};

/// A stream without events sends a token so often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The events of a message that needs no room; its token comes on top.
const EVENTS_WITHOUT_ROOM: usize = SMALL - 1024;
/// How soon a watch looks again for room for an event that is larger.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(50);
/// How long a draining server goes on to send a watcher what it has not seen.
const DRAIN: Duration = Duration::from_secs(2);

/// A step that waits, and the watch that takes it.
type Away<S> = Pin<Box<dyn Future<Output = (Watch<S>, Result<Step, RpcError>)> + Send>>;

pin_project! {
    /// The responses of one watch.
    pub struct WatchResponses<S> {
        steps: Steps<S>,
        // The first response, until it is asked for.
        first: Option<WatchProfilesResponse>,
        // Goes off when there may have been silence for long enough.
        #[pin]
        timer: Sleep,
        // When the last response was made.
        sent: Instant,
        // When the server, which drains, sends no more.
        end: Option<Instant>,
        // The last response was made.
        is_over: bool,
        // The watcher was told so.
        has_ended: bool,
    }
}

impl<S: Store> WatchResponses<S> {
    /// Nothing is sent yet.
    pub fn of(subscription: Subscription<S>, call: CallFingerprint) -> Self {
        let room = RoomOfStream::of_this_call(MAX_MESSAGE_BYTES);
        let watch = Watch { subscription, call, room, pauses: false };
        Self {
            steps: Steps { token: String::new(), watch: Some(watch), away: None },
            first: None,
            timer: sleep(HEARTBEAT),
            sent: Instant::now(),
            end: None,
            is_over: false,
            has_ended: false,
        }
    }

    /// Ready when the first response is made; fails when there will be none.
    pub fn poll_first(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        let first = ready!(self.as_mut().poll_response(true, cx))?;
        *self.project().first = Some(first);
        Poll::Ready(Ok(()))
    }

    /// The next response. One without events is made when it is due, and when it is `wanted` and nothing has to be read.
    fn poll_response(
        self: Pin<&mut Self>,
        wanted: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<WatchProfilesResponse, RpcError>> {
        let mut this = self.project();
        if *this.is_over {
            return Poll::Ready(Err(StoreError::Closed.into()));
        }
        let is_due = poll_due(this.timer.as_mut(), *this.sent + HEARTBEAT, cx);
        let batch = loop {
            if this.end.is_none() && this.steps.is_closed() {
                *this.end = Some(Instant::now() + DRAIN);
            }
            let step = match this.steps.poll_step(is_due || wanted, cx) {
                Poll::Ready(step) => step?,
                Poll::Pending if is_due && this.steps.away.is_some() => break None,
                Poll::Pending => return Poll::Pending,
            };
            match step {
                Step::Batch(batch) => break Some(batch),
                Step::UpToDate if this.end.is_some() => {
                    *this.is_over = true;
                    break None;
                }
                _ if is_due || wanted => break None,
                // What is sent after a wait has the token of the place behind it.
                Step::UpToDate => {}
                // A long way through what does not concern the watcher must not hold up the others.
                Step::Scanned => {
                    after_the_others(cx);
                    return Poll::Pending;
                }
                Step::TooLarge => this.steps.go_away(Some(LOOK_FOR_ROOM)),
            }
        };
        *this.sent = Instant::now();
        // A watcher that is still far behind goes on elsewhere.
        *this.is_over |= this.end.is_some_and(|end| end <= *this.sent);
        let (events, current) = batch.map_or_else(Default::default, |batch| (batch.events, batch.current));
        Poll::Ready(Ok(WatchProfilesResponse { events, resume_token: this.steps.token(), current }))
    }
}

impl<S: Store> Stream for WatchResponses<S> {
    type Item = Result<WatchProfilesResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.as_mut().project();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if *this.has_ended {
            return Poll::Ready(None);
        }
        let response = ready!(self.as_mut().poll_response(false, cx));
        *self.project().has_ended = response.is_err();
        Poll::Ready(Some(response.map_err(Status::from)))
    }
}

/// Ready when there has been no response for long enough. The timer is moved when it goes off, and not with each response.
fn poll_due(mut timer: Pin<&mut Sleep>, due: Instant, cx: &mut Context<'_>) -> bool {
    while timer.as_mut().poll(cx).is_ready() {
        if due <= Instant::now() {
            return true;
        }
        timer.as_mut().reset(due);
    }
    false
}

/// Has this task polled again when the others of its thread had their turn.
fn after_the_others(cx: &mut Context<'_>) {
    // The runtime keeps the waker, though what asked for it is dropped here. Did it not, the watch would go on with its next
    // heartbeat.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

/// The steps of one watch, each after the other.
struct Steps<S> {
    /// `None` while it is away.
    watch: Option<Watch<S>>,
    away: Option<Away<S>>,
    /// The token of where the watch stood when it went away.
    token: String,
}

impl<S: Store> Steps<S> {
    /// Takes a step: `at_once` or when there may be something.
    fn poll_step(&mut self, at_once: bool, cx: &mut Context<'_>) -> Poll<Result<Step, RpcError>> {
        if self.away.is_none()
            && let Some(watch) = &mut self.watch
        {
            if std::mem::take(&mut watch.pauses) {
                after_the_others(cx);
                return Poll::Pending;
            }
            if !at_once {
                ready!(watch.subscription.poll_changed(cx));
            }
            if let Some(step) = watch.advance_in_tail() {
                return Poll::Ready(Ok(step));
            }
            self.go_away(None);
        }
        let Some(away) = &mut self.away else { return Poll::Ready(Err(StoreError::Closed.into())) };
        let (watch, step) = ready!(away.as_mut().poll(cx));
        (self.watch, self.away) = (Some(watch), None);
        Poll::Ready(step)
    }

    /// Begins a step that may have to read, after a pause.
    fn go_away(&mut self, pause: Option<Duration>) {
        let Some(mut watch) = self.watch.take() else { return };
        self.token = watch.token();
        self.away = Some(Box::pin(async move {
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            let step = watch.advance().await;
            (watch, step)
        }));
    }

    /// The token of where the watch stands, or stood when it went away.
    fn token(&self) -> String {
        self.watch.as_ref().map_or_else(|| self.token.clone(), Watch::token)
    }

    fn is_closed(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.subscription.is_closed())
    }
}

/// One watch.
struct Watch<S> {
    subscription: Subscription<S>,
    call: CallFingerprint,
    room: RoomOfStream,
    /// Nothing is ready before the next step, so that the codec, which gathers what is ready into one piece, hands on what it has: a
    /// larger piece would need room.
    pauses: bool,
}

impl<S: Store> Watch<S> {
    /// Goes one step on, as far as there is room for what it brings.
    async fn advance(&mut self) -> Result<Step, RpcError> {
        let (max_bytes, _kept) = match self.room.keep() {
            Ok(kept) => (MAX_MESSAGE_BYTES, kept),
            Err(NoRoom) => (EVENTS_WITHOUT_ROOM, None),
        };
        self.pauses = max_bytes < MAX_MESSAGE_BYTES;
        self.subscription.advance(max_bytes).await.map_err(|error| refused(error, self.call))
    }

    /// The same, if nothing has to be read for it.
    fn advance_in_tail(&mut self) -> Option<Step> {
        let has_room = self.room.is_there();
        self.pauses = !has_room;
        self.subscription.advance_in_tail(if has_room { MAX_MESSAGE_BYTES } else { EVENTS_WITHOUT_ROOM })
    }

    fn token(&self) -> String {
        token(self.call, self.subscription.place())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;

    use super::super::watch::watch;
    use super::*;
    use crate::engine::EngineRules;
    use crate::engine::memory::MemoryStore;
    use crate::feed::Feed;
    use crate::model::{Canonicalization, Draft, Precondition, Profile, Write};
    use crate::pb;
    use crate::store::{Commit, NoObserver};

    type Responses = Pin<Box<WatchResponses<MemoryStore>>>;

    async fn idle_watch() -> (Arc<MemoryStore>, Arc<Feed<MemoryStore>>, Responses) {
        let store = Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)));
        let feed = Arc::new(Feed::start(store.clone(), 10));
        let responses = watch(feed.clone(), pb::WatchProfilesRequest::default()).await.unwrap();
        (store, feed, responses)
    }

    async fn put(store: &MemoryStore, number: u64) {
        let profile = Profile { id: "a".into(), email: format!("u{number}@x.example"), ..Profile::default() };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "p").unwrap();
        store.commit(Commit::all(vec![Write::put(draft, Precondition::None)])).await.unwrap();
    }

    /// Responses without events, one a second, from the `first` second to the eighth.
    async fn one_a_second(responses: &mut Responses, first: u64) -> Vec<String> {
        let (begun, mut tokens) = (Instant::now(), Vec::new());
        for second in first..9 {
            let response = responses.next().await.unwrap().unwrap();
            assert!(response.events.is_empty());
            let elapsed = begun.elapsed().as_millis() as u64;
            assert!((second * 1000..=second * 1010).contains(&elapsed), "{second}: {elapsed} ms");
            tokens.push(response.resume_token);
        }
        tokens
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_watch_sends_a_token_each_second_neither_sooner_nor_later() {
        let (_store, _feed, mut responses) = idle_watch().await;
        one_a_second(&mut responses, 0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_whose_read_waits_sends_its_last_token_each_second_and_then_what_was_read() {
        let (_store, _feed, mut responses) = idle_watch().await;
        let first = responses.next().await.unwrap().unwrap().resume_token;
        let steps = responses.as_mut().project().steps;
        let watch = steps.watch.take().unwrap();
        steps.token = watch.token();
        steps.away = Some(Box::pin(async {
            sleep(HEARTBEAT * 19 / 2).await;
            (watch, Err(StoreError::Overloaded.into()))
        }));
        assert_eq!(one_a_second(&mut responses, 1).await, vec![first; 8]);
        assert!(responses.next().await.unwrap().is_ok(), "the ninth");
        assert!(responses.next().await.unwrap().is_err());
        assert!(responses.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_watch_sends_no_heartbeats_and_one_a_second_after_its_last_event() {
        let (store, _feed, mut responses) = idle_watch().await;
        assert!(responses.next().await.unwrap().unwrap().events.is_empty());
        for number in 0..10 {
            sleep(HEARTBEAT / 3).await;
            put(&store, number).await;
            let begun = Instant::now();
            assert_eq!(responses.next().await.unwrap().unwrap().events.len(), 1);
            assert_eq!(begun.elapsed(), Duration::ZERO);
        }
        one_a_second(&mut responses, 1).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_of_a_feed_that_closes_ends_with_a_token_and_says_why() {
        let (_store, feed, mut responses) = idle_watch().await;
        let first = responses.next().await.unwrap().unwrap();
        let begun = Instant::now();
        feed.closing().cancel();
        assert_eq!(responses.next().await.unwrap().unwrap(), first);
        assert_eq!(responses.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        assert!(responses.next().await.is_none());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
