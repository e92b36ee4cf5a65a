//! The call lane: single writes and queries by domain, past tonic's router and its generated service.
//!
//! It stands behind deadlines and charges, where the fast lane leads when it cannot answer. The message is decoded as
//! the generated service would, the handler is the same, and its answer goes out encoded; what falls away is a router,
//! three boxed bodies and two buffers for each call. A message that is compressed, in several pieces, or cannot be
//! decoded goes to the generated service behind, which says what is wrong with it.
//!
//! Invariant: nobody can tell from an answer which way it took.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tonic::Status;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::codec::{EncodedProfile, has_too_many_fields};
use super::error::RpcError;
use super::fast_lane::respond;
use super::first_piece::{FirstPiece, ReplayBody, is_plain};
use super::lane_body::{LaneBody, Message};
use super::lane_request;
use super::profile_service::ProfileHandler;
use crate::cache::HotCache;
use crate::store::Store;

/// The calls that the lane knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Create,
    Update,
    Delete,
    Query,
}

impl Call {
    fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/profilestore.v1.ProfileService/")? {
            "CreateProfile" => Some(Self::Create),
            "UpdateProfile" => Some(Self::Update),
            "DeleteProfile" => Some(Self::Delete),
            "QueryProfilesByDomain" => Some(Self::Query),
            _ => None,
        }
    }
}

/// An encoded answer, or why there is none.
type Answer = Pin<Box<dyn Future<Output = Result<Bytes, RpcError>> + Send>>;

/// What answers the calls of the lane.
pub trait LaneCalls: Send + Sync {
    /// Begins a call; `None` when its message cannot be decoded.
    fn begin(&self, call: Call, message: Bytes) -> Option<Answer>;
}

/// The calls of a handler, and the cache that keeps their pages.
pub struct HandlerCalls<S> {
    handler: Arc<ProfileHandler<S>>,
    cache: Option<Arc<HotCache>>,
}

impl<S> HandlerCalls<S> {
    /// The calls of this handler.
    pub fn new(handler: Arc<ProfileHandler<S>>, cache: Option<Arc<HotCache>>) -> Self {
        Self { handler, cache }
    }
}

impl<S: Store> LaneCalls for HandlerCalls<S> {
    fn begin(&self, call: Call, message: Bytes) -> Option<Answer> {
        let handler = self.handler.clone();
        let profile = |EncodedProfile(profile)| profile;
        Some(match call {
            Call::Create => {
                let request = decode(message)?;
                Box::pin(async move { handler.create(request).await.map(profile) })
            }
            Call::Update => {
                let request = decode(message)?;
                Box::pin(async move { handler.update(request).await.map(profile) })
            }
            Call::Delete => {
                let request = decode(message)?;
                Box::pin(async move { handler.delete(request).await.map(|()| Bytes::new()) })
            }
            Call::Query => {
                let request = decode(message.clone())?;
                let cache = self.cache.clone();
                Box::pin(async move { handler.encoded_query(message, request, cache.as_deref()).await })
            }
        })
    }
}

fn decode<M: prost::Message + Default>(message: Bytes) -> Option<M> {
    if has_too_many_fields(message.clone()) {
        return None;
    }
    M::decode(message).ok()
}

/// A service with the lane beside it.
pub struct CallLane<S> {
    lane: Arc<Lane<S>>,
}

struct Lane<S> {
    inner: S,
    calls: Arc<dyn LaneCalls>,
}

impl<S> Clone for CallLane<S> {
    fn clone(&self) -> Self {
        Self { lane: self.lane.clone() }
    }
}

impl<S> CallLane<S> {
    /// The lane beside a service that would answer the same calls.
    pub fn new(inner: S, calls: Arc<dyn LaneCalls>) -> Self {
        Self { lane: Arc::new(Lane { inner, calls }) }
    }
}

impl<S, B, R> Service<Request<B>> for CallLane<S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes> + Unpin,
    R: Body<Data: Into<Message>> + Default,
{
    type Response = Response<LaneBody<R>>;
    type Error = S::Error;
    type Future = CallFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The service behind is asked when a call goes there.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> CallFuture<S, B> {
        let state = match Call::of(request.uri().path()).filter(|_| is_plain(&request)) {
            Some(call) => {
                State::Reading { call, lane: self.lane.clone(), request: Some(request.map(FirstPiece::new)) }
            }
            None => State::Inner { answer: self.lane.inner.clone().oneshot(request.map(ReplayBody::untouched)) },
        };
        CallFuture { state }
    }
}

pin_project! {
    /// A call that is in the lane, or has left it.
    pub struct CallFuture<S, B>
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
        Reading { call: Call, lane: Arc<Lane<S>>, request: Option<Request<FirstPiece<B>>> },
        // The request's body stays until it is answered: so long it is charged.
        Answering { answer: Answer, _request: Request<FirstPiece<B>> },
        Inner {
            #[pin]
            answer: Oneshot<S, Request<ReplayBody<B>>>,
        },
    }
}

impl<S, B, R> Future for CallFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes> + Unpin,
    R: Body<Data: Into<Message>> + Default,
{
    type Output = Result<Response<LaneBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Inner { answer } => {
                    return answer.poll(cx).map_ok(|response| response.map(|body| LaneBody::Inner { body }));
                }
                StateProjection::Answering { answer, .. } => {
                    let answer = ready!(answer.as_mut().poll(cx)).map(Message::encoded);
                    return Poll::Ready(Ok(match answer {
                        Ok(Some(message)) => respond(message, 0),
                        Ok(None) => Status::out_of_range("the answer is too large").into_http(),
                        Err(error) => Status::from(error).into_http(),
                    }));
                }
                StateProjection::Reading { call, lane, request } => {
                    let Some(mut taken) = request.take() else { return Poll::Pending };
                    let Poll::Ready(is_single) = taken.body_mut().poll_single(cx) else {
                        *request = Some(taken);
                        return Poll::Pending;
                    };
                    let message = taken.body().data().filter(|_| is_single).and_then(lane_request::shared_message);
                    match message.and_then(|message| lane.calls.begin(*call, message)) {
                        Some(answer) => State::Answering { answer, _request: taken },
                        None => State::Inner { answer: lane.inner.clone().oneshot(taken.map(FirstPiece::replay)) },
                    }
                }
            };
            state.set(next);
        }
    }
}
