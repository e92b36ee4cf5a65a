//! The bytes of all requests that are being read or answered, and their bound.
//!
//! A call is charged for what was read of its message, at most for one of the largest size: that is what is held of
//! it. A compressed message is charged for what it can become. The charge is given back when the call is answered
//! and its body dropped; that of an import also when it asks for its next message, since the one before has gone into
//! the commit queue, which has bounds of its own. A call for which there is no room is refused with
//! `RESOURCE_EXHAUSTED` instead of waiting: it would wait for calls that may wait for their callers. A request that does
//! not come to its end in time is refused, so that nobody can hold room for ever; of a stream, its first message, and each other
//! that is begun. That goes for one of which there is only the head, too: heads are not charged.
//! No connection gets more than its `share`, but for what small calls take, for which some room is kept
//! besides: many connections with a large request each do not stop them.
//! A whole message is not the end: the service behind waits for that of the body. Health is never refused.
//!
//! What the client has sent and nobody has read yet is not charged here; the flow control of HTTP/2 bounds it for
//! each connection. The lanes read too, but hand on what they have read as soon as they would have to wait for more.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tower::Service;

use super::error::RpcError;
use super::message_ends::MessageEnds;
use super::share::{self, Connection, is_fair};
use crate::model::limits::MAX_REQUEST_BYTES;
use crate::store::StoreError;

/// The bound where nothing else is said.
pub const REQUEST_BYTES_IN_FLIGHT: usize = 256 * 1024 * 1024;
/// A request, or a message of a stream, must have come to its end within this time after its rest was first waited for. A
/// caller may take longer between the messages of a stream, but not before the first.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// The calls whose callers send a stream of messages: imports, and reflection.
const STREAMS: [&str; 2] = ["/profilestore.v1.ProfileService/ImportProfiles", "/grpc.reflection."];
/// Probes must be answered when the server has too much to do.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Deflate makes at most this many bytes of one.
const MAX_INFLATION: usize = 1032;
/// A call that is charged no more than this is not bounded by its connection's share, and finds room that others do not;
/// one request of the largest size is not bounded by the share either.
const SMALL: usize = 16 * 1024;

/// The bytes in flight of all calls.
#[derive(Debug)]
pub struct InFlight {
    bytes: AtomicUsize,
    limit: usize,
}

impl InFlight {
    /// None yet, and at most `limit`.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), limit })
    }

    /// The bytes that are in flight now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes more if there is room. Of what is beyond one request of the largest size an eighth is for small calls only.
    fn take(&self, more: usize, is_small: bool) -> bool {
        let kept = if is_small { 0 } else { self.limit.saturating_sub(MAX_REQUEST_BYTES) / 8 };
        let room = |bytes: usize| bytes.checked_add(more).filter(|bytes| *bytes <= self.limit - kept);
        more == 0 || self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }
}

/// What one call is charged.
#[derive(Debug)]
struct Charge {
    in_flight: Arc<InFlight>,
    connection: Option<Arc<Connection>>,
    bytes: AtomicUsize,
    inflation: usize,
}

impl Charge {
    fn new<B>(in_flight: Arc<InFlight>, request: &Request<B>) -> Arc<Self> {
        let compressed = request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity");
        let inflation = match request.uri().path() {
            path if path.starts_with(HEALTH) => 0,
            _ if compressed => MAX_INFLATION,
            _ => 1,
        };
        Arc::new(Self { in_flight, connection: share::current(), bytes: AtomicUsize::new(0), inflation })
    }

    /// Charges more bytes of the body. Only the body calls this, so there are no two at a time.
    fn add(&self, read: usize) -> bool {
        let before = self.bytes.load(Ordering::Relaxed);
        let after = before.saturating_add(read.saturating_mul(self.inflation)).min(MAX_REQUEST_BYTES).max(before);
        let has_room = self.is_fair(after, after - before) && self.in_flight.take(after - before, after <= SMALL);
        if has_room {
            self.bytes.store(after, Ordering::Relaxed);
            if let Some(connection) = &self.connection {
                connection.requests.fetch_add(after - before, Ordering::Relaxed);
            }
        }
        has_room
    }

    /// Whether the connection may hold `more` for this call, which is then charged `after`.
    fn is_fair(&self, after: usize, more: usize) -> bool {
        let own = self.connection.as_ref().map_or(0, |connection| connection.requests.load(Ordering::Relaxed));
        after <= SMALL
            || own + more <= MAX_REQUEST_BYTES
            || is_fair(own, more, self.in_flight.bytes(), self.in_flight.limit)
    }

    /// Gives everything back. Only the body calls this, and the last who drops the charge.
    fn give_back(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        if bytes == 0 {
            return;
        }
        self.in_flight.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(connection) = &self.connection {
            connection.requests.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// A service whose calls are charged.
#[derive(Debug, Clone)]
pub struct Charged<S> {
    inner: S,
    in_flight: Arc<InFlight>,
}

impl<S> Charged<S> {
    /// Charges the calls of a service.
    pub fn new(inner: S, in_flight: Arc<InFlight>) -> Self {
        Self { inner, in_flight }
    }
}

impl<S, B, R> Service<Request<B>> for Charged<S>
where
    S: Service<Request<ChargedBody<B>>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ChargedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let charge = Charge::new(self.in_flight.clone(), &request);
        let path = request.uri().path();
        let is_stream = STREAMS.iter().any(|stream| path.starts_with(stream));
        let charged = |body| ChargedBody {
            body,
            charge: charge.clone(),
            ends: MessageEnds::default(),
            is_stream,
            is_due: true,
            too_late: None,
        };
        let call = self.inner.call(request.map(charged));
        ChargedFuture { call, _charge: charge }
    }
}

pin_project! {
    /// A call that is charged until it is answered.
    pub struct ChargedFuture<F> {
        #[pin]
        call: F,
        _charge: Arc<Charge>,
    }
}

impl<F: Future> Future for ChargedFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().call.poll(cx)
    }
}

pin_project! {
    /// A request's body that is charged for what is read of it, until it is dropped.
    pub struct ChargedBody<B> {
        #[pin]
        body: B,
        charge: Arc<Charge>,
        ends: MessageEnds,
        is_stream: bool,
        // Whether more must come: but for what is between the messages of a stream.
        is_due: bool,
        // There while the rest of it is waited for.
        too_late: Option<Pin<Box<Sleep>>>,
    }
}

impl<B> Body for ChargedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = self.project();
        let refused = |error: RpcError| Poll::Ready(Some(Err(Status::from(error).into())));
        if *this.is_stream && this.ends.is_between() {
            this.charge.give_back();
        }
        let frame = match this.body.poll_frame(cx) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(frame)) => frame.map_err(Into::into)?,
            Poll::Pending if !*this.is_due => return Poll::Pending,
            Poll::Pending => {
                let too_late = this.too_late.get_or_insert_with(|| Box::pin(sleep(MESSAGE_TIMEOUT)));
                return if too_late.as_mut().poll(cx).is_ready() {
                    refused(RpcError::MessageTooSlow)
                } else {
                    Poll::Pending
                };
            }
        };
        if let Some(data) = frame.data_ref() {
            if !this.charge.add(data.len()) {
                return refused(RpcError::Store(StoreError::Overloaded));
            }
            let has_ended = this.ends.follow(data) > 0;
            if *this.is_stream && has_ended {
                // The next message has a time of its own.
                *this.too_late = None;
            }
            // An empty piece is no message and the end of none.
            if !data.is_empty() {
                *this.is_due = !*this.is_stream || !this.ends.is_between();
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http::HeaderValue;
    use http_body_util::{BodyExt, StreamBody};

    use super::super::answer_room::HeldAnswers;
    use super::*;

    fn charge(in_flight: &Arc<InFlight>, encoding: Option<&'static str>) -> Arc<Charge> {
        let mut request = Request::new(());
        if let Some(encoding) = encoding {
            request.headers_mut().insert("grpc-encoding", HeaderValue::from_static(encoding));
        }
        Charge::new(in_flight.clone(), &request)
    }

    #[test]
    fn a_call_is_charged_for_what_is_read_and_at_most_for_one_message() {
        let in_flight = InFlight::new(MAX_REQUEST_BYTES + 100);
        let (small, large) = (charge(&in_flight, None), charge(&in_flight, None));
        assert!(small.add(60) && small.add(0));
        // A stream may be of any length.
        assert!((0..10).all(|_| large.add(MAX_REQUEST_BYTES / 2)));
        assert_eq!(in_flight.bytes(), MAX_REQUEST_BYTES + 60);
        assert!(!small.add(41), "there is no room for more");
        assert!(small.add(40));
        drop(large);
        assert_eq!(in_flight.bytes(), 100);
        drop(small);
        assert_eq!(in_flight.bytes(), 0);
    }

    #[test]
    fn a_connection_gets_one_request_of_the_largest_size_or_its_share() {
        let in_flight = InFlight::new(16 * MAX_REQUEST_BYTES);
        let mut connection = Some(Connection::new(HeldAnswers::new(0)));
        let of_one = |connection: &mut _| share::around(connection, || charge(&in_flight, None));
        let taken: Vec<_> =
            (0..16).map(|_| of_one(&mut connection)).take_while(|call| call.add(usize::MAX)).collect();
        assert_eq!(taken.len(), 3, "three of thirteen, but not four of twelve");
        assert!(of_one(&mut connection).add(SMALL), "small ones go on");
        let others: Vec<_> = (0..16)
            .map(|_| of_one(&mut Some(Connection::new(HeldAnswers::new(0)))))
            .take_while(|call| call.add(usize::MAX))
            .collect();
        assert_eq!(others.len(), 11, "many have one each");
        assert!(of_one(&mut connection).add(SMALL), "and small ones still go on");
        drop(others);
        assert!(of_one(&mut Some(Connection::new(HeldAnswers::new(0)))).add(usize::MAX), "and so do others");
        drop(taken);
        assert_eq!(in_flight.bytes(), 0);
        assert_eq!(connection.unwrap().requests.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_come_to_its_end_in_time_gives_its_room_back() {
        let in_flight = InFlight::new(usize::MAX);
        let begun = Frame::data(Bytes::from_static(b"\0\0\0\0\x09a"));
        let frames = stream::iter([Ok::<_, std::convert::Infallible>(begun)]).chain(stream::pending());
        let request = Request::new(StreamBody::new(frames));
        let read = |request: Request<ChargedBody<_>>| async move {
            let read = BodyExt::collect(request.into_body()).await;
            let error = read.map(|_| ()).unwrap_err();
            assert_eq!(error.downcast_ref::<Status>().unwrap().code(), tonic::Code::DeadlineExceeded);
            Ok::<_, std::convert::Infallible>(Response::new(()))
        };
        let started = tokio::time::Instant::now();
        Charged::new(tower::service_fn(read), in_flight.clone()).call(request).await.unwrap();
        assert!(started.elapsed() >= MESSAGE_TIMEOUT);
        assert_eq!(in_flight.bytes(), 0);
    }

    #[test]
    fn health_is_never_refused() {
        let in_flight = InFlight::new(0);
        let request = Request::builder().uri("http://a/grpc.health.v1.Health/Check").body(()).unwrap();
        assert!(Charge::new(in_flight.clone(), &request).add(100));
        assert!(!charge(&in_flight, None).add(100));
        // An encoding that is none makes no more of it.
        let large = InFlight::new(usize::MAX);
        let identity = charge(&large, Some("identity"));
        assert!(identity.add(100));
        assert_eq!(large.bytes(), 100);
    }

    #[test]
    fn a_compressed_call_is_charged_for_what_it_can_become() {
        let in_flight = InFlight::new(usize::MAX);
        let compressed = charge(&in_flight, Some("gzip"));
        assert!(compressed.add(10));
        assert_eq!(in_flight.bytes(), 10 * MAX_INFLATION);
        assert!(compressed.add(usize::MAX));
        assert_eq!(in_flight.bytes(), MAX_REQUEST_BYTES);
    }
}
