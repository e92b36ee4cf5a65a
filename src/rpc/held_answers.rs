//! The bytes of all answers that were made and that the sockets have not taken yet, and their bound.
//!
//! HTTP/2 lets a client ask for more and take nothing: each of its calls could hold a page of megabytes for as long as its
//! connection lives. So each larger message of an answer is charged from when it is made until its last byte has gone to
//! the socket. A read for whose answer there is no room is refused with `RESOURCE_EXHAUSTED`, and so is the
//! rest of a stream, which can be gone on with; a watch makes do with what there is. What was written is always told, so a
//! write is refused before it begins: a single one when there is no room at all, a batch when there is none for what it will
//! answer at most ([`room_for`](answer_room::room_for)). No connection gets more than its [`share`](super::share).
//!
//! Invariant: the charge lives with the bytes ([`Message`]), so it is given back however they end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::Service;

use super::answer_room::{self, Charge, HeldAnswers, SMALL};
use super::at_once::AtOnce;
use super::deadline::trailers;
use super::error::RpcError;
use super::lane_body::{LaneBody, Message};
use super::share::{self, Connection};
use crate::model::limits::MAX_PAGE_BYTES;
use crate::store::StoreError;

/// Calls whose answers say what became of a write, and whether these can be large.
const WRITES: [(&str, bool); 5] = [
    ("CreateProfile", true),
    ("UpdateProfile", true),
    ("DeleteProfile", false),
    ("BatchWriteProfiles", true),
    ("ImportProfiles", false),
];
/// The stream that makes no message without room ([`RoomOfStream`](super::answer_room::RoomOfStream)), unless it is a small
/// one.
const STREAM_WITH_ROOM: &str = "WatchProfiles";

/// A service whose answers are charged while they are held.
#[derive(Debug)]
pub struct Holding<S> {
    inner: S,
    connection: Arc<Connection>,
}

impl<S: Clone> Clone for Holding<S> {
    /// Every connection has a clone of its own.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.connection.all_answers.clone())
    }
}

impl<S> Holding<S> {
    /// Charges the answers of a service.
    pub fn new(inner: S, held: Arc<HeldAnswers>) -> Self {
        Self { inner, connection: Connection::new(held) }
    }
}

impl<S, B, R> Service<Request<B>> for Holding<S>
where
    S: Service<Request<B>, Response = Response<LaneBody<R>>>,
    R: Body<Data: Into<Message>> + Default + Unpin,
{
    type Response = Response<HeldBody<R>>;
    type Error = S::Error;
    type Future = HoldingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next();
        let write = WRITES.iter().find(|(name, _)| Some(*name) == method);
        let may_be_refused = write.is_none() && method != Some(STREAM_WITH_ROOM);
        let begins = !write.is_some_and(|(_, is_large)| *is_large) || answer_room::is_there(&self.connection, 1);
        let call = begins.then(|| self.inner.call(request));
        HoldingFuture { call, connection: Some(self.connection.clone()), may_be_refused }
    }
}

impl<S: AtOnce<Message>> AtOnce<Message> for Holding<S> {
    fn at_once<B>(&mut self, request: &Request<B>, body: &Bytes) -> Option<Message> {
        // Where there may be no room, the answer is refused as it is made.
        if !answer_room::is_there(&self.connection, MAX_PAGE_BYTES) {
            return None;
        }
        let mut message = self.inner.at_once(request, body)?;
        if message.remaining() > SMALL
            && let Some(charge) = Charge::new(&self.connection, message.remaining(), false)
        {
            message.charge(charge);
        }
        Some(message)
    }
}

pin_project! {
    /// A call whose answer will be charged.
    pub struct HoldingFuture<F> {
        // `None` for a write that was refused.
        #[pin]
        call: Option<F>,
        connection: Option<Arc<Connection>>,
        may_be_refused: bool,
    }
}

impl<F, R, E> Future for HoldingFuture<F>
where
    F: Future<Output = Result<Response<LaneBody<R>>, E>>,
    R: Body<Data: Into<Message>> + Default + Unpin,
{
    type Output = Result<Response<HeldBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(call) = this.call.as_pin_mut() else {
            return Poll::Ready(Ok(Status::from(RpcError::Store(StoreError::Overloaded)).into_http()));
        };
        let response = ready!(share::around(this.connection, || call.poll(cx)))?;
        let Some(connection) = this.connection.take() else { return Poll::Pending };
        // An answer that is only a status ends with its head, and must go on saying so.
        let is_small =
            response.body().is_end_stream() || response.body().lane_bytes().is_some_and(|(_, bytes)| bytes <= SMALL);
        let holder = Holder { connection, may_be_refused: *this.may_be_refused };
        let mut response = response.map(|body| HeldBody { body, holder: Some(holder), first: None, is_over: false });
        if is_small {
            return Poll::Ready(Ok(response));
        }
        // HTTP/2 asks for the message when the client takes more, which may be never: it is there, and counts, from now
        // on. Nobody is woken by this look; a body that is not ready is looked at again.
        let body = response.body_mut();
        if let Poll::Ready(first) = body.poll_inner(&mut Context::from_waker(Waker::noop())) {
            match body.charged(first) {
                Ok(first) => body.first = Some(first),
                Err(refused) => return Poll::Ready(Ok(refused.into_http())),
            }
        }
        Poll::Ready(Ok(response))
    }
}

struct Holder {
    connection: Arc<Connection>,
    may_be_refused: bool,
}

/// What a poll of the body gives.
type Polled<E> = Option<Result<Frame<Message>, E>>;

/// A body whose larger messages are charged.
pub struct HeldBody<R: Body> {
    body: LaneBody<R>,
    /// `None` for an answer that is only a status.
    holder: Option<Holder>,
    /// What the first look gave.
    first: Option<Polled<R::Error>>,
    /// Whether the rest was refused.
    is_over: bool,
}

impl<R: Body> HeldBody<R> {
    /// Whether the fast lane answered.
    pub fn is_from_the_lane(&self) -> bool {
        self.body.is_from_the_lane()
    }

    /// What the service behind the fast lane answered.
    pub fn inner(&self) -> Option<&R> {
        self.body.inner()
    }

    /// The bytes of the request and of the answer, if the fast lane answered and none of it was taken yet.
    pub fn lane_bytes(&self) -> Option<(usize, usize)> {
        let (answered, rest) = self.body.lane_bytes()?;
        let looked_at = match &self.first {
            Some(Some(Ok(first))) => first.data_ref().map_or(0, Message::remaining),
            _ => 0,
        };
        Some((answered, looked_at + rest))
    }

    /// Charges what a poll gave; fails when there is no room for it.
    fn charged(&self, mut polled: Polled<R::Error>) -> Result<Polled<R::Error>, Status> {
        if let (Some(holder), Some(Ok(frame))) = (&self.holder, &mut polled)
            && let Some(message) = frame.data_mut()
            && message.remaining() > SMALL
        {
            let charge = Charge::new(&holder.connection, message.remaining(), holder.may_be_refused);
            message.charge(charge.ok_or_else(|| Status::from(RpcError::Store(StoreError::Overloaded)))?);
        }
        Ok(polled)
    }
}

impl<R> HeldBody<R>
where
    R: Body<Data: Into<Message>> + Unpin,
{
    /// Polls the body for its connection.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Polled<R::Error>> {
        let body = Pin::new(&mut self.body);
        match &self.holder {
            Some(holder) => holder.connection.asker.around(|| body.poll_frame(cx)),
            None => body.poll_frame(cx),
        }
    }
}

impl<R: Body + Default> Default for HeldBody<R> {
    fn default() -> Self {
        Self { body: LaneBody::default(), holder: None, first: None, is_over: false }
    }
}

impl<R> Body for HeldBody<R>
where
    R: Body<Data: Into<Message>> + Unpin,
    R::Error: Unpin,
{
    type Data = Message;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled<R::Error>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        if let Some(first) = this.first.take() {
            return Poll::Ready(first);
        }
        let polled = ready!(this.poll_inner(cx));
        Poll::Ready(this.charged(polled).unwrap_or_else(|refused| {
            this.is_over = true;
            Some(Ok(Frame::trailers(trailers(refused))))
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.first {
            Some(first) => first.is_none(),
            None => self.is_over || self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        // A body whose rest may be refused must not promise its size.
        if self.holder.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

#[cfg(test)]
#[path = "held_answers_tests.rs"]
mod tests;
