//! `WatchProfiles`: a feed's messages with their tokens, heartbeats, and the end when the server drains.
//!
//! The first response comes at once, or when its read waits, as the first heartbeat, so that a watcher has a token from the
//! beginning. The next message is made when the transport takes it, so a slow watcher costs no more than one. Where there is
//! no room for a whole one ([`RoomOfStream`]), messages are so small that they need none, so that a watcher goes on
//! whatever others hold.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::answer_room::{NoRoom, RoomOfStream, SMALL};
use super::error::RpcError;
use super::heartbeats::{HEARTBEAT, Heartbeats, heartbeat};
use super::page_token::{CallFingerprint, PageToken};
use super::request::scope_fingerprint;
use super::wire;
use crate::feed::{Batch, Feed, FeedError, Filter, MAX_MESSAGE_BYTES, Place, Step, Subscription};
use crate::model::{Domain, Violations};
use crate::pb;
use crate::pb::WatchStart;
use crate::pb::watch_profiles_request::Start;
use crate::store::{Cursor, Position, Store, StoreError};

/// The events of a message that needs no room; its token comes on top.
const EVENTS_WITHOUT_ROOM: usize = SMALL - 1024;
/// How soon a watch looks again for room for an event that is larger.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(50);
/// How long a draining server goes on to send a watcher what it has not seen.
const DRAIN: Duration = Duration::from_secs(2);

/// The responses of a watch.
pub async fn watch<S: Store>(
    feed: Arc<Feed<S>>,
    request: pb::WatchProfilesRequest,
) -> Result<impl Stream<Item = Result<wire::WatchProfilesResponse, Status>> + Send, RpcError> {
    let (filter, beginning) = parse(request)?;
    let call = call_of(&filter);
    let begun = match beginning {
        Beginning::Now => feed.watch_from_now(filter).await,
        Beginning::Snapshot => feed.watch_with_snapshot(filter).await,
        Beginning::Oldest => feed.watch_from_oldest(filter).await,
        Beginning::After(place) => feed.watch_from(filter, place).await,
    };
    let subscription = begun.map_err(|error| refused(error, call))?;
    let beginning = token(call, subscription.place());
    let room = RoomOfStream::of_this_call(MAX_MESSAGE_BYTES);
    let sent = Instant::now();
    let watch = Watch { subscription, call, room, had_room: true, sent, begun: false, end: None, over: false };
    let mut responses =
        Box::pin(stream::try_unfold(watch, |mut watch| async move { Ok(Some((watch.next().await?, watch))) }));
    // Here and not in the stream: a token that is no good fails the call itself, unless it takes long to find out.
    let first = match timeout(HEARTBEAT, responses.next()).await {
        Ok(first) => first.ok_or(StoreError::Closed)??,
        Err(_) => heartbeat(&beginning),
    };
    let rest = Heartbeats::after(first.resume_token.clone(), responses);
    Ok(stream::once(async { Ok(first) }).chain(rest))
}

/// The token of the unfiltered watch that stands behind a position.
pub fn token_of(position: Position) -> String {
    token(call_of(&Filter::all()), &Place::Changes(position))
}

/// Where a watch begins.
enum Beginning {
    Now,
    Snapshot,
    Oldest,
    After(Place),
}

fn parse(request: pb::WatchProfilesRequest) -> Result<(Filter, Beginning), RpcError> {
    let mut violations = Violations::new();
    let filter = match request.domain.as_str() {
        "" => Some(Filter::all()),
        domain => {
            let domain = violations.check(Domain::parse(domain, "domain"));
            domain.map(|domain| Filter::domain(&domain, request.include_subdomains))
        }
    };
    let (start, resume_token) = match request.start {
        None => (WatchStart::Now, None),
        Some(Start::ResumeToken(token)) => (WatchStart::Unspecified, Some(token)),
        Some(Start::StartAt(start)) => {
            let known = WatchStart::try_from(start);
            if known.is_err() {
                violations.add("start_at", "must be one of the values of WatchStart");
            }
            (known.ok().filter(|start| *start != WatchStart::Unspecified).unwrap_or(WatchStart::Now), None)
        }
    };
    if request.include_snapshot && start != WatchStart::Now {
        violations.add("include_snapshot", "must be false unless the watch starts at WATCH_START_NOW");
    }
    let place = resume_token.map(|token| {
        let token = PageToken::decode(&token)?.cursor_for(call_of(filter.as_ref()?))?;
        Place::decode(&token.0)
    });
    let Some(filter) = filter.filter(|_| violations.is_empty()) else { return Err(violations.into()) };
    let beginning = match (place, start) {
        (Some(None), _) => return Err(RpcError::InvalidResumeToken),
        (Some(Some(place)), _) => Beginning::After(place),
        (None, WatchStart::Oldest) => Beginning::Oldest,
        (None, _) if request.include_snapshot => Beginning::Snapshot,
        (None, _) => Beginning::Now,
    };
    Ok((filter, beginning))
}

fn call_of(filter: &Filter) -> CallFingerprint {
    scope_fingerprint("WatchProfiles", filter.scope())
}

fn token(call: CallFingerprint, place: &Place) -> String {
    PageToken::new(call, Cursor(place.encode())).encode()
}

fn refused(error: FeedError, call: CallFingerprint) -> RpcError {
    match error {
        FeedError::TooManyWatchers { limit } => RpcError::TooManyWatchers { limit },
        FeedError::LeftToOthers { limit } => RpcError::WatchersLeftToOthers { limit },
        FeedError::Store(StoreError::Truncated { oldest }) => {
            RpcError::FeedTruncated { oldest_token: token(call, &Place::Changes(oldest)) }
        }
        FeedError::Store(StoreError::InvalidPosition | StoreError::InvalidCursor) => RpcError::InvalidResumeToken,
        FeedError::Store(error) => error.into(),
    }
}

/// One watch and what it has sent.
struct Watch<S> {
    subscription: Subscription<S>,
    call: CallFingerprint,
    room: RoomOfStream,
    /// There was room at the last step.
    had_room: bool,
    /// When the last response was made.
    sent: Instant,
    /// The first response was made.
    begun: bool,
    /// When the server, which drains, sends no more.
    end: Option<Instant>,
    /// The last response was made.
    over: bool,
}

impl<S: Store> Watch<S> {
    async fn first(&mut self) -> Result<wire::WatchProfilesResponse, RpcError> {
        let step = self.advance().await?;
        Ok(self.response(match step {
            Step::Batch(batch) => Some(batch),
            Step::Scanned | Step::UpToDate | Step::TooLarge => None,
        }))
    }

    /// The next response; a heartbeat when there is nothing else.
    async fn next(&mut self) -> Result<wire::WatchProfilesResponse, RpcError> {
        if !std::mem::replace(&mut self.begun, true) {
            return self.first().await;
        }
        if self.over {
            return Err(StoreError::Closed.into());
        }
        loop {
            if self.end.is_none() && self.subscription.closing().is_cancelled() {
                self.end = Some(Instant::now() + DRAIN);
            }
            match self.advance().await? {
                Step::Batch(batch) => return Ok(self.response(Some(batch))),
                // A long way through what does not concern the watcher must not hold up the others.
                Step::Scanned => tokio::task::yield_now().await,
                Step::UpToDate if self.end.is_some() => {
                    self.over = true;
                    return Ok(self.response(None));
                }
                // What is sent after a wait has the token of the place behind it.
                Step::UpToDate if self.sent.elapsed() < HEARTBEAT => {
                    self.wait().await;
                    continue;
                }
                Step::UpToDate => {}
                Step::TooLarge => self.wait_for_room().await,
            }
            if self.sent.elapsed() >= HEARTBEAT {
                return Ok(self.response(None));
            }
        }
    }

    /// Goes one step on, as far as there is room for what it brings.
    async fn advance(&mut self) -> Result<Step, RpcError> {
        // The codec gathers what is there into one piece, which would need room.
        if !self.had_room {
            tokio::task::yield_now().await;
        }
        let (max_bytes, _kept) = match self.room.keep() {
            Ok(kept) => (MAX_MESSAGE_BYTES, kept),
            Err(NoRoom) => (EVENTS_WITHOUT_ROOM, None),
        };
        self.had_room = max_bytes == MAX_MESSAGE_BYTES;
        self.subscription.advance(max_bytes).await.map_err(|error| refused(error, self.call))
    }

    /// Waits a moment for room, or until it is time for a heartbeat.
    async fn wait_for_room(&self) {
        tokio::time::sleep_until((self.sent + HEARTBEAT).min(Instant::now() + LOOK_FOR_ROOM)).await;
    }

    /// Waits for more, for the time of a heartbeat, or for the end.
    async fn wait(&mut self) {
        let closing = self.subscription.closing().clone();
        tokio::select! {
            () = self.subscription.changed() => {}
            () = closing.cancelled() => {}
            () = tokio::time::sleep_until(self.sent + HEARTBEAT) => {}
        }
    }

    fn response(&mut self, batch: Option<Batch>) -> wire::WatchProfilesResponse {
        self.sent = Instant::now();
        // A watcher that is still far behind goes on elsewhere.
        self.over |= self.end.is_some_and(|end| end <= self.sent);
        let Batch { events, place, current } = batch.unwrap_or_else(|| Batch {
            events: Vec::new(),
            place: self.subscription.place().clone(),
            current: false,
        });
        wire::WatchProfilesResponse { events, resume_token: token(self.call, &place), current }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineRules;
    use crate::engine::memory::MemoryStore;
    use crate::model::{Canonicalization, Draft, Precondition, Profile, Write};
    use crate::store::{Commit, NoObserver, PageBounds};

    #[tokio::test(start_paused = true)]
    async fn an_idle_watch_sends_a_token_each_second_neither_sooner_nor_later() {
        let store = Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)));
        let feed = Arc::new(Feed::start(store, 10));
        let mut responses = Box::pin(watch(feed.clone(), pb::WatchProfilesRequest::default()).await.unwrap());
        let begun = Instant::now();
        for second in 0..10 {
            assert!(responses.next().await.unwrap().unwrap().events.is_empty());
            let elapsed = begun.elapsed().as_millis() as u64;
            assert!((second * 1000..=second * 1010).contains(&elapsed), "{second}: {elapsed} ms");
        }
    }

    #[tokio::test]
    async fn a_snapshot_token_whose_cursor_is_of_another_list_is_refused() {
        let store = Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)));
        let put = |id: &str| {
            let profile = Profile { id: id.into(), email: format!("{id}@x.example"), ..Profile::default() };
            Write::put(Draft::from_profile(profile, Canonicalization::default(), "p").unwrap(), Precondition::None)
        };
        store.commit(Commit::all(["a", "b"].map(put).into())).await.unwrap();
        let of_domain = Filter::domain(&Domain::parse("x.example", "domain").unwrap(), false);
        let one = PageBounds { max_records: 1, max_bytes: usize::MAX };
        let cursor = async |filter: &Filter| store.list(filter.scope(), None, one).await.unwrap().next.unwrap();
        let cursors = [cursor(&Filter::all()).await, cursor(&of_domain).await];
        let position = store.head().await.unwrap();
        let feed = Arc::new(Feed::start(store, 10));
        for (cursor, is_good) in cursors.into_iter().zip([true, false]) {
            // A snapshot in the middle of its list, as `Place` writes it, under the right fingerprint and checksum.
            let mut place = vec![2, position.as_bytes().len() as u8];
            place.extend_from_slice(position.as_bytes());
            place.extend_from_slice(&cursor.0);
            let place = Place::decode(&place.into()).unwrap();
            let start = Some(Start::ResumeToken(token(call_of(&Filter::all()), &place)));
            let begun = watch(feed.clone(), pb::WatchProfilesRequest { start, ..Default::default() }).await;
            match begun {
                Ok(_) => assert!(is_good),
                Err(error) => assert!(!is_good && matches!(error, RpcError::InvalidResumeToken), "{error:?}"),
            }
        }
    }
}
