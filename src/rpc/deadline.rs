//! Deadlines: `grpc-timeout` ends a call with DEADLINE_EXCEEDED, while it is computed and while it is sent.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tower::{Layer, Service};

use super::error::{deadline_exceeded, invalid_fields};
use crate::model::Violations;

const HEADER: &str = "grpc-timeout";

/// Puts [`Deadline`] around a service.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// A service whose calls end at their deadline.
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = match timeout(request.headers()) {
            Ok(None) => return Box::pin(self.inner.call(request)),
            Ok(Some(timeout)) => Instant::now() + timeout,
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        let call = self.inner.call(request);
        Box::pin(async move {
            match tokio::time::timeout_at(deadline, call).await {
                Ok(response) => response.map(|response| {
                    response.map(|body| tonic::body::Body::new(BodyWithDeadline::new(body, deadline)))
                }),
                // The call's future is dropped here, which stops a scan.
                Err(_) => Ok(deadline_exceeded().into_http()),
            }
        })
    }
}

/// The time that the caller gives: at most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse_timeout);
    parsed.map(Some).ok_or_else(|| {
        invalid_fields(Violations::one(HEADER, "must be 1 to 8 digits and one of the units H, M, S, m, u, n"))
    })
}

fn parse_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// A response body that ends with DEADLINE_EXCEEDED when it is not sent in time.
struct BodyWithDeadline {
    inner: tonic::body::Body,
    sleep: Pin<Box<Sleep>>,
    ended: bool,
}

impl BodyWithDeadline {
    fn new(inner: tonic::body::Body, deadline: Instant) -> Self {
        Self { inner, sleep: Box::pin(tokio::time::sleep_until(deadline)), ended: false }
    }
}

impl Body for BodyWithDeadline {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(self.sleep.as_mut().poll(context));
        self.ended = true;
        let mut trailers = HeaderMap::new();
        if deadline_exceeded().add_header(&mut trailers).is_err() {
            return Poll::Ready(Some(Err(deadline_exceeded())));
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (value, expected) in [
            ("1S", Duration::from_secs(1)),
            ("100m", Duration::from_millis(100)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(parse_timeout(value), Some(expected), "{value}");
        }
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "1 S", "ü", "1ü"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
