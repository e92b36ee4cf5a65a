//! The caller's deadline, from the `grpc-timeout` header, around the whole service stack.
//!
//! A call without the header runs as long as it takes. When the time is over, the call's future is dropped
//! and the caller gets `DEADLINE_EXCEEDED`: as the whole answer when there is none yet, or as the trailers
//! of a response that has begun. A write that was already handed to the store may still be made.
//!
//! Invariant: after the deadline not one more message is taken from the answer's body. One that was taken before and waits for
//! its client's window is still sent, and only then the trailers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tower::{Layer, Service};

use super::error::RpcError;
use crate::model::Violations;

const TIMEOUT_HEADER: &str = "grpc-timeout";
/// The gRPC protocol's bound, which keeps every product below far from overflow.
const MAX_DIGITS: usize = 8;

/// Puts [`Deadline`] around a service.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// A service whose calls end at their callers' deadlines.
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
}

impl<S, Req, Res> Service<Request<Req>> for Deadline<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: Body + Default,
{
    type Response = Response<DeadlineBody<Res>>;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        match timeout_of(request.headers()) {
            Err(violations) => DeadlineFuture::refused(violations.into()),
            // Nobody waits any more, so nothing is begun.
            Ok(Some(Duration::ZERO)) => DeadlineFuture::refused(RpcError::DeadlineExceeded),
            Ok(timeout) => DeadlineFuture::running(self.inner.call(request), timeout),
        }
    }
}

pin_project! {
    /// A call with its deadline.
    pub struct DeadlineFuture<F> {
        // `None` when the call was refused before it began.
        #[pin]
        call: Option<F>,
        // Completes at the deadline; handed on to the body.
        timeout: Option<Pin<Box<Sleep>>>,
        // Why the call was refused; taken when it is answered.
        refusal: Option<RpcError>,
    }
}

impl<F> DeadlineFuture<F> {
    fn running(call: F, timeout: Option<Duration>) -> Self {
        let timeout = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
        Self { call: Some(call), timeout, refusal: None }
    }

    fn refused(error: RpcError) -> Self {
        Self { call: None, timeout: None, refusal: Some(error) }
    }
}

impl<F, B, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body + Default,
{
    type Output = Result<Response<DeadlineBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(call) = this.call.as_pin_mut() else {
            return Poll::Ready(Ok(refusal(this.refusal.take().unwrap_or(RpcError::DeadlineExceeded))));
        };
        // The timer is good to a millisecond and a call can be ready at once, so look at the clock itself.
        if this.timeout.as_ref().is_some_and(|timeout| timeout.deadline() <= Instant::now()) {
            return Poll::Ready(Ok(refusal(RpcError::DeadlineExceeded)));
        }
        if let Poll::Ready(answer) = call.poll(cx) {
            let timeout = this.timeout.take();
            return Poll::Ready(
                answer.map(|response| response.map(|body| DeadlineBody { body, timeout, over: false })),
            );
        }
        match this.timeout {
            None => Poll::Pending,
            Some(timeout) => {
                ready!(timeout.as_mut().poll(cx));
                Poll::Ready(Ok(refusal(RpcError::DeadlineExceeded)))
            }
        }
    }
}

/// The whole answer in one block of headers.
fn refusal<B: Default>(error: RpcError) -> Response<DeadlineBody<B>> {
    Status::from(error).into_http().map(|body| DeadlineBody { body, timeout: None, over: false })
}

pin_project! {
    /// The body of a response that ends at the deadline.
    #[derive(Default)]
    pub struct DeadlineBody<B> {
        #[pin]
        body: B,
        timeout: Option<Pin<Box<Sleep>>>,
        // Whether the deadline has ended the body.
        over: bool,
    }
}

impl<B> DeadlineBody<B> {
    /// The body that the deadline may end.
    pub fn inner(&self) -> &B {
        &self.body
    }
}

impl<B: Body> Body for DeadlineBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if *this.over {
            return Poll::Ready(None);
        }
        // The deadline first: a stream that always has more would otherwise never meet it.
        if let Some(timeout) = this.timeout
            && timeout.as_mut().poll(cx).is_ready()
        {
            *this.over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(RpcError::DeadlineExceeded.into())))));
        }
        this.body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // A body that the deadline may cut must not promise its size.
        if self.timeout.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

/// A status as the trailers of a response that has begun.
pub(super) fn trailers(status: Status) -> HeaderMap {
    let (mut parts, ()) = status.into_http::<()>().into_parts();
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers
}

/// The time that a call may take; `None` without a bound.
pub(super) fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, Violations> {
    headers.get(TIMEOUT_HEADER).map(|value| parse_timeout(value.as_bytes())).transpose()
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
fn parse_timeout(value: &[u8]) -> Result<Duration, Violations> {
    let malformed = || {
        let description = "must be 1 to 8 digits and one of the units H, M, S, m, u and n";
        Violations::one(TIMEOUT_HEADER, description)
    };
    let (unit, digits) = value.split_last().ok_or_else(malformed)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(number * 60 * 60)),
        b'M' => Ok(Duration::from_secs(number * 60)),
        b'S' => Ok(Duration::from_secs(number)),
        b'm' => Ok(Duration::from_millis(number)),
        b'u' => Ok(Duration::from_micros(number)),
        b'n' => Ok(Duration::from_nanos(number)),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{pending, poll_fn, ready};

    use bytes::Bytes;
    use tower::service_fn;

    use super::*;

    /// A body that gives a number of frames, and then hangs.
    #[derive(Default)]
    struct Frames(usize);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.0 == 0 {
                return Poll::Pending;
            }
            self.0 -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    fn request(timeout: &str) -> Request<()> {
        Request::builder().header(TIMEOUT_HEADER, timeout).body(()).unwrap()
    }

    fn status(headers: &HeaderMap) -> (tonic::Code, String) {
        use tonic_types::StatusExt;
        let status = Status::from_header_map(headers).unwrap();
        let reason = status.get_error_details().error_info().unwrap().reason.clone();
        (status.code(), reason)
    }

    async fn frame(response: &mut Response<DeadlineBody<Frames>>) -> Option<Frame<Bytes>> {
        poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await.map(|frame| frame.unwrap())
    }

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        for (value, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("6n", 6),
            ("00000007n", 7),
            ("0S", 0),
        ] {
            assert_eq!(parse_timeout(value.as_bytes()).unwrap(), Duration::from_nanos(nanos), "{value}");
        }
        assert_eq!(parse_timeout(b"99999999H").unwrap(), Duration::from_secs(99_999_999 * 3600));
        for bad in ["", "1", "S", "100000000n", "1s", "1 S", "-1S", "+1S", "1.5S", "1SS", "١S", "1S "] {
            let violations = parse_timeout(bad.as_bytes()).unwrap_err();
            assert_eq!(violations.iter().next().unwrap().field, TIMEOUT_HEADER, "{bad:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_longer_is_answered_at_its_deadline() {
        let hangs = service_fn(|_: Request<()>| pending::<Result<Response<Frames>, Infallible>>());
        let started = tokio::time::Instant::now();
        let response = DeadlineLayer.layer(hangs).call(request("250m")).await.unwrap();
        assert_eq!(started.elapsed().as_millis(), 250);
        assert_eq!(status(response.headers()), (tonic::Code::DeadlineExceeded, "DEADLINE".into()));
    }

    #[tokio::test]
    async fn a_call_whose_time_is_over_or_unreadable_is_not_begun() {
        let unreached = service_fn(|_: Request<()>| -> std::future::Ready<Result<Response<Frames>, Infallible>> {
            unreachable!()
        });
        let mut service = DeadlineLayer.layer(unreached);
        let response = service.call(request("0m")).await.unwrap();
        assert_eq!(status(response.headers()), (tonic::Code::DeadlineExceeded, "DEADLINE".into()));
        let response = service.call(request("soon")).await.unwrap();
        assert_eq!(status(response.headers()), (tonic::Code::InvalidArgument, "INVALID_FIELD".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_has_begun_ends_with_the_deadlines_trailers() {
        let streams = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Frames(2)))));
        let started = tokio::time::Instant::now();
        let mut response = DeadlineLayer.layer(streams).call(request("1S")).await.unwrap();
        assert!(frame(&mut response).await.unwrap().is_data());
        assert!(frame(&mut response).await.unwrap().is_data());
        let trailers = frame(&mut response).await.unwrap().into_trailers().unwrap();
        assert_eq!(started.elapsed().as_secs(), 1);
        assert_eq!(status(&trailers), (tonic::Code::DeadlineExceeded, "DEADLINE".into()));
        assert!(!trailers.contains_key(header::CONTENT_TYPE));
        assert!(response.body().is_end_stream() && frame(&mut response).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_always_has_more_still_meets_its_deadline() {
        let streams = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Frames(usize::MAX)))));
        let mut response = DeadlineLayer.layer(streams).call(request("1S")).await.unwrap();
        assert!(frame(&mut response).await.unwrap().is_data());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(frame(&mut response).await.unwrap().is_trailers());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_deadline_runs_on() {
        let streams = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Frames(2)))));
        let mut response = DeadlineLayer.layer(streams).call(Request::new(())).await.unwrap();
        tokio::time::advance(Duration::from_secs(1_000_000)).await;
        assert!(frame(&mut response).await.unwrap().is_data());
    }
}
