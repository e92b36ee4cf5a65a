//! The bytes of all requests that are being read or answered, and their bound.
//!
//! A call is charged for what was read of its body, at most for one message of the largest size: that is what is
//! held of it. A compressed body is charged for what it can become. The charge is given back when the call is answered
//! and its body dropped; that of a stream when it ends. A call for which there is no room is refused with
//! `RESOURCE_EXHAUSTED` instead of waiting: it would wait for calls that may wait for their callers.
//!
//! What the client has sent and nobody has read yet is not charged here; the flow control of HTTP/2 bounds it for
//! each connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::Service;

use super::error::RpcError;
use crate::model::limits::MAX_REQUEST_BYTES;
use crate::store::StoreError;

/// The bound where nothing else is said.
pub const REQUEST_BYTES_IN_FLIGHT: usize = 256 * 1024 * 1024;
/// Deflate makes at most this many bytes of one.
const MAX_INFLATION: usize = 1032;

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

    fn take(&self, more: usize) -> bool {
        let room = |bytes: usize| bytes.checked_add(more).filter(|bytes| *bytes <= self.limit);
        more == 0 || self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }
}

/// What one call is charged.
#[derive(Debug)]
struct Charge {
    in_flight: Arc<InFlight>,
    bytes: AtomicUsize,
    inflation: usize,
}

impl Charge {
    fn new<B>(in_flight: Arc<InFlight>, request: &Request<B>) -> Arc<Self> {
        let inflation = if request.headers().contains_key("grpc-encoding") { MAX_INFLATION } else { 1 };
        Arc::new(Self { in_flight, bytes: AtomicUsize::new(0), inflation })
    }

    /// Charges more bytes of the body. Only the body calls this, so there are no two at a time.
    fn add(&self, read: usize) -> bool {
        let before = self.bytes.load(Ordering::Relaxed);
        let after = before.saturating_add(read.saturating_mul(self.inflation)).min(MAX_REQUEST_BYTES).max(before);
        let has_room = self.in_flight.take(after - before);
        if has_room {
            self.bytes.store(after, Ordering::Relaxed);
        }
        has_room
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.in_flight.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
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
        let call = self.inner.call(request.map(|body| ChargedBody { body, charge: charge.clone() }));
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
    }
}

impl<B> Body for ChargedBody<B>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = self.project();
        let Some(frame) = ready!(this.body.poll_frame(cx)) else { return Poll::Ready(None) };
        let frame = frame.map_err(Into::into)?;
        let read = frame.data_ref().map_or(0, |data| data.remaining());
        if this.charge.add(read) {
            return Poll::Ready(Some(Ok(frame)));
        }
        let refusal = Status::from(RpcError::Store(StoreError::Overloaded));
        Poll::Ready(Some(Err(refusal.into())))
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
    use http::HeaderValue;

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
    fn a_compressed_call_is_charged_for_what_it_can_become() {
        let in_flight = InFlight::new(usize::MAX);
        let compressed = charge(&in_flight, Some("gzip"));
        assert!(compressed.add(10));
        assert_eq!(in_flight.bytes(), 10 * MAX_INFLATION);
        assert!(compressed.add(usize::MAX));
        assert_eq!(in_flight.bytes(), MAX_REQUEST_BYTES);
    }
}
