//! Answers that are known at once: without a future, a task and a body for each.
//!
//! The serving loop asks for one when a call's whole request is there as the call is accepted. Most answers it gets this
//! way are hits of the fast lane.
//!
//! Invariant: nobody can tell from an answer which way it took. A request for which there was no answer is given to the
//! same service's `call` next, before any other request: what was found out about it is not found out again.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::first_piece::CONTENT_TYPE;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// A service that may know an answer without waiting for anything.
pub trait AtOnce<M> {
    /// The message that answers the request with this whole body, under [`head`] and before [`trailers`]; `None` when the
    /// request must be called.
    fn at_once<B>(&mut self, request: &Request<B>, body: &Bytes) -> Option<M>;
}

/// A service that knows no answer without waiting.
#[derive(Debug, Clone, Copy)]
pub struct NeverAtOnce<S>(pub S);

impl<S, M> AtOnce<M> for NeverAtOnce<S> {
    fn at_once<B>(&mut self, _: &Request<B>, _: &Bytes) -> Option<M> {
        None
    }
}

impl<S: tower::Service<R>, R> tower::Service<R> for NeverAtOnce<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

/// The head of an answer with a message.
pub fn head() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers
}

/// The end of an answer that is well.
pub fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, OK);
    trailers
}
