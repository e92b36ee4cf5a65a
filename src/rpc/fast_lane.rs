//! The fast lane: answers the hottest calls from the cache, past the generated services.
//!
//! A `GetProfile` without a mask whose profile is in the cache, and a `BatchGetProfiles` without a mask whose
//! profiles all are, are answered with the cached bytes as they are. Everything else (a miss, an absent
//! profile, a mask, a bad id, a compressed or split or malformed message, a deadline that is over) goes to the
//! services behind, together with what was read of its body.
//!
//! Invariant: nobody can tell from an answer which way it took. What is not certain here is not answered here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::answers::{Answers, Held, SMALL_ANSWER_BYTES};
use super::deadline::timeout_of;
use super::lane_body::{LaneBody, Message, ReplayBody};
use super::lane_request;
use crate::cache::{HotCache, Lookup};

const GET_PROFILE: &str = "/profilestore.v1.ProfileService/GetProfile";
const BATCH_GET_PROFILES: &str = "/profilestore.v1.ProfileService/BatchGetProfiles";
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// A call with less time left than this is not answered here: whether its time is over must be asked of the clock.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(5);

/// A service with the fast lane beside it. Without a cache there is no lane.
///
/// Every connection has a clone of its own. A clone shares no reference count with the others, because calls count
/// up and down on every thread.
pub struct FastLane<S> {
    lane: Arc<Lane<S>>,
}

struct Lane<S> {
    inner: S,
    cache: Option<Arc<HotCache>>,
    answers: Arc<Answers>,
}

/// The calls that the lane knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Get,
    BatchGet,
}

impl<S> FastLane<S> {
    /// The lane beside a service that answers from a store behind this cache, and charges large answers as the lane does.
    pub fn new(inner: S, cache: Option<Arc<HotCache>>, answers: Arc<Answers>) -> Self {
        Self { lane: Arc::new(Lane { inner, cache, answers }) }
    }
}

impl<S: Clone> Clone for FastLane<S> {
    fn clone(&self) -> Self {
        Self::new(self.lane.inner.clone(), self.lane.cache.clone(), self.lane.answers.clone())
    }
}

impl<S, B, R> Service<Request<B>> for FastLane<S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes> + Unpin,
    R: Body<Data = Bytes>,
{
    type Response = Response<LaneBody<R>>;
    type Error = S::Error;
    type Future = LaneFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The service behind is asked when a call goes there.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> LaneFuture<S, B> {
        let state = match (&self.lane.cache, eligible(&request)) {
            (Some(_), Some(call)) => State::Reading { call, lane: self.lane.clone(), request: Some(request) },
            _ => State::Inner { answer: self.lane.inner.clone().oneshot(request.map(ReplayBody::untouched)) },
        };
        LaneFuture { state }
    }
}

/// Whether the lane may look at a request, by its head alone.
fn eligible<B>(request: &Request<B>) -> Option<Call> {
    let call = match request.uri().path() {
        GET_PROFILE => Call::Get,
        BATCH_GET_PROFILES => Call::BatchGet,
        _ => return None,
    };
    let headers = request.headers();
    let plain = request.method() == Method::POST
        && headers.get(header::CONTENT_TYPE) == Some(&CONTENT_TYPE)
        && !headers.contains_key("grpc-encoding");
    let in_time = match timeout_of(headers) {
        Ok(timeout) => timeout.is_none_or(|timeout| timeout >= SHORTEST_TIMEOUT),
        Err(_) => false,
    };
    (plain && in_time).then_some(call)
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
        Reading { call: Call, lane: Arc<Lane<S>>, request: Option<Request<B>> },
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
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<LaneBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Inner { answer } => {
                    return answer.poll(cx).map_ok(|response| response.map(|body| LaneBody::Inner { body }));
                }
                StateProjection::Reading { call, lane, request } => {
                    let Some(mut taken) = request.take() else { return Poll::Pending };
                    let read = match Pin::new(taken.body_mut()).poll_frame(cx) {
                        // A deadline runs only in the service behind, so it is there that the wait is bounded.
                        Poll::Pending if !taken.headers().contains_key("grpc-timeout") => {
                            *request = Some(taken);
                            return Poll::Pending;
                        }
                        Poll::Pending => None,
                        Poll::Ready(frame) => Some(frame),
                    };
                    if let Some(Some(Ok(frame))) = &read
                        && let Some(data) = frame.data_ref()
                        && taken.body().is_end_stream()
                        && let Some(cache) = &lane.cache
                        && let Some(message) = answer(*call, cache, data)
                        && let Some(held) = hold(&message, &lane.answers)
                    {
                        return Poll::Ready(Ok(respond(message.holding(held), data.len())));
                    }
                    lane.inner.clone().oneshot(taken.map(|body| ReplayBody::after(body, read)))
                }
            };
            state.set(State::Inner { answer: next });
        }
    }
}

/// The answer to a request's whole body, if the cache has it.
fn answer(call: Call, cache: &HotCache, body: &[u8]) -> Option<Message> {
    let message = lane_request::message(body)?;
    match call {
        Call::Get => match cache.lookup(lane_request::id(message)?) {
            Lookup::Hit(record) => Message::profile(record.profile()),
            Lookup::Absent | Lookup::Miss => None,
        },
        Call::BatchGet => Message::profiles(&cache.lookup_all(&lane_request::distinct_ids(message)?)?),
    }
}

/// Charges a large answer. `None` when there is no room for it: the service behind refuses it.
fn hold(message: &Message, answers: &Arc<Answers>) -> Option<Option<Held>> {
    match message.remaining() {
        small if small <= SMALL_ANSWER_BYTES => Some(None),
        large => answers.take(large).map(Some),
    }
}

fn respond<R>(message: Message, answered: usize) -> Response<LaneBody<R>> {
    let mut response = Response::new(LaneBody::answer(message, answered));
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    *response.headers_mut() = headers;
    response
}
