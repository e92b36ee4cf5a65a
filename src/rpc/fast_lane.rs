//! The fast lane: answers the hottest calls from the cache, past the generated services.
//!
//! A `GetProfile` without a mask whose profile is in the cache, a `BatchGetProfiles` without a mask whose
//! profiles all are, and a `QueryProfilesByDomain` whose page is, are answered with the cached bytes as they are.
//! Everything else (a miss, an absent
//! profile, a mask, a bad id, a compressed or split or malformed message, a deadline that is over) goes to the
//! services behind, together with what was read of its body.
//!
//! Invariants: nobody can tell from an answer which way it took; what is not certain here is not answered here. And nobody can
//! hold anything here: it is in the services behind that requests are charged and have their time, so a call of which something
//! was read waits there for its rest.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::at_once::{self, AtOnce};
use super::deadline::timeout_of;
use super::first_piece::{FirstPiece, ReplayBody, is_plain};
use super::lane_body::{LaneBody, Message, ProfilesMessage};
use super::lane_request;
use crate::cache::{HotCache, LOOK_UP, Lookup, OUTCOME};
use crate::observe::hot_keys::HotKeys;
use crate::trace;

const GET_PROFILE: &str = "/profilestore.v1.ProfileService/GetProfile";
const BATCH_GET_PROFILES: &str = "/profilestore.v1.ProfileService/BatchGetProfiles";
const QUERY_PROFILES_BY_DOMAIN: &str = "/profilestore.v1.ProfileService/QueryProfilesByDomain";
/// A call with less time left than this is not answered here: whether its time is over must be asked of the clock.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(5);
/// A call whose head came alone may wait here for so long for the rest, which is mostly on its way.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A service with the fast lane beside it. Without a cache there is no lane.
///
/// Every connection has a clone of its own. A clone shares no reference count with the others, because calls count
/// up and down on every thread.
pub struct FastLane<S> {
    lane: Arc<Lane<S>>,
    /// Whether the request that comes next was looked up in vain.
    looked_up: bool,
}

struct Lane<S> {
    inner: S,
    cache: Option<Arc<HotCache>>,
    hot_keys: Arc<HotKeys>,
}

/// The calls that the lane knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Get,
    BatchGet,
    Query,
}

impl<S> FastLane<S> {
    /// The lane beside a service that answers from a store behind this cache. What it answers it notes in `hot_keys`.
    pub fn new(inner: S, cache: Option<Arc<HotCache>>, hot_keys: Arc<HotKeys>) -> Self {
        Self { lane: Arc::new(Lane { inner, cache, hot_keys }), looked_up: false }
    }
}

impl<S: Clone> Clone for FastLane<S> {
    fn clone(&self) -> Self {
        Self::new(self.lane.inner.clone(), self.lane.cache.clone(), self.lane.hot_keys.clone())
    }
}

impl<S, B, R> Service<Request<B>> for FastLane<S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes> + Unpin,
    R: Body<Data: Into<Message>>,
{
    type Response = Response<LaneBody<R>>;
    type Error = S::Error;
    type Future = LaneFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The service behind is asked when a call goes there.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> LaneFuture<S, B> {
        let looked_up = std::mem::take(&mut self.looked_up);
        let state = match (&self.lane.cache, eligible(&request)) {
            (Some(_), Some(call)) if !looked_up => {
                let request = Some(request.map(FirstPiece::new));
                State::Reading { call, lane: self.lane.clone(), request, too_late: None }
            }
            _ => State::Inner { answer: self.lane.inner.clone().oneshot(request.map(ReplayBody::untouched)) },
        };
        LaneFuture { state }
    }
}

impl<S> AtOnce<Message> for FastLane<S> {
    fn at_once<B>(&mut self, request: &Request<B>, body: &Bytes) -> Option<Message> {
        let cache = self.lane.cache.as_ref()?;
        let message = answer(eligible(request)?, cache, &self.lane.hot_keys, body);
        self.looked_up = message.is_none();
        message
    }
}

/// Whether the lane may look at a request, by its head alone.
fn eligible<B>(request: &Request<B>) -> Option<Call> {
    let call = match request.uri().path() {
        GET_PROFILE => Call::Get,
        BATCH_GET_PROFILES => Call::BatchGet,
        QUERY_PROFILES_BY_DOMAIN => Call::Query,
        _ => return None,
    };
    let in_time = match timeout_of(request.headers()) {
        Ok(timeout) => timeout.is_none_or(|timeout| timeout >= SHORTEST_TIMEOUT),
        Err(_) => false,
    };
    (in_time && is_plain(request)).then_some(call)
}

pin_project! {
    /// A call that is in the lane, or has left it.
    pub struct LaneFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
        B: Body,
    {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
        B: Body,
    {
        Reading {
            call: Call,
            lane: Arc<Lane<S>>,
            request: Option<Request<FirstPiece<B>>>,
            // There while nothing of the body has come.
            too_late: Option<Pin<Box<Sleep>>>,
        },
        Inner {
            #[pin]
            answer: Oneshot<S, Request<ReplayBody<B>>>,
        },
    }
}

impl<S, B, R> Future for LaneFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes> + Unpin,
    R: Body<Data: Into<Message>>,
{
    type Output = Result<Response<LaneBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Inner { answer } => {
                    return answer.poll(cx).map_ok(|response| response.map(|body| LaneBody::Inner { body }));
                }
                StateProjection::Reading { call, lane, request, too_late } => {
                    let Some(mut taken) = request.take() else { return Poll::Pending };
                    let is_single = match taken.body_mut().poll_single(cx) {
                        Poll::Ready(is_single) => is_single,
                        // Its deadline too runs only behind.
                        Poll::Pending if !taken.body().is_untouched() || has_timeout(&taken) => false,
                        Poll::Pending => {
                            let too_late = too_late.get_or_insert_with(|| Box::pin(sleep(LONGEST_WAIT)));
                            if too_late.as_mut().poll(cx).is_pending() {
                                *request = Some(taken);
                                return Poll::Pending;
                            }
                            false
                        }
                    };
                    if is_single
                        && let Some(data) = taken.body().data()
                        && let Some(cache) = &lane.cache
                        && let Some(message) = answer(*call, cache, &lane.hot_keys, data)
                    {
                        return Poll::Ready(Ok(respond(message, data.len())));
                    }
                    lane.inner.clone().oneshot(taken.map(FirstPiece::replay))
                }
            };
            state.set(State::Inner { answer: next });
        }
    }
}

fn has_timeout<B>(request: &Request<B>) -> bool {
    request.headers().contains_key("grpc-timeout")
}

/// The answer to a request's whole body, if the cache has it.
fn answer(call: Call, cache: &HotCache, hot_keys: &HotKeys, body: &[u8]) -> Option<Message> {
    let message = lane_request::message(body)?;
    match call {
        Call::Get => {
            let id = lane_request::id(message)?;
            let look_up = trace::step(LOOK_UP);
            let found = cache.lookup(id);
            look_up.end(OUTCOME, found.word());
            let Lookup::Hit(record) = found else { return None };
            let message = Message::encoded(record.profile())?;
            hot_keys.note_id(id);
            Some(message)
        }
        Call::BatchGet => {
            let ids = lane_request::ids(message)?;
            let look_up = trace::step(LOOK_UP);
            let mut profiles = ProfilesMessage::of(ids.len());
            let found = cache.look_at_all(&ids, |record| profiles.push(record));
            look_up.end(OUTCOME, if found { "hit" } else { "miss" });
            let message = profiles.finish().filter(|_| found)?;
            hot_keys.note_ids(ids.iter().copied());
            Some(message)
        }
        Call::Query => {
            let look_up = trace::step(LOOK_UP);
            let found = cache.pages().get(message);
            look_up.end(OUTCOME, if found.is_some() { "hit" } else { "miss" });
            let page = found?;
            let message = Message::encoded(page.answer)?;
            hot_keys.note_domain(&page.domain);
            Some(message)
        }
    }
}

/// The answer with one message to a request of so many bytes.
pub(super) fn respond<R>(message: Message, answered: usize) -> Response<LaneBody<R>> {
    let mut response = Response::new(LaneBody::answer(message, answered));
    *response.headers_mut() = at_once::head();
    response
}
