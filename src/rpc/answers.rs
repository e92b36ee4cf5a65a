//! The bytes of all large answers that are on their way, and their bound.
//!
//! A client may ask for pages and not read them: each then waits in memory for as long as its connection lasts. So a call
//! whose answer is large says how large, and is charged for it until its bytes have left for the client: the charge goes with
//! them, because the connection takes them from the body long before it can send them. Without room the answer is dropped and the call refused with `RESOURCE_EXHAUSTED`, instead of waiting for
//! clients that may never read. A batch of writes is refused before it is made, and its answer is never dropped. Small answers, such as single profiles, are not charged: those of one connection are bounded by
//! the number of its calls.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::Service;

use super::error::RpcError;
use crate::store::StoreError;

/// The bound where nothing else is said.
pub const ANSWER_BYTES_IN_FLIGHT: usize = 256 * 1024 * 1024;
/// An answer of at most so many bytes is not charged: any single profile with what surrounds it.
pub const SMALL_ANSWER_BYTES: usize = 32 * 1024;

/// The call whose answer is large and must reach its caller.
const BATCH_WRITE: &str = "/profilestore.v1.ProfileService/BatchWriteProfiles";

/// How large an answer is; an extension of the response.
#[derive(Debug, Clone, Copy)]
pub struct AnswerBytes(usize);

/// Puts a large answer's size on its response.
pub fn sized<T>(message: T, bytes: usize) -> tonic::Response<T> {
    let mut response = tonic::Response::new(message);
    if bytes > SMALL_ANSWER_BYTES {
        response.extensions_mut().insert(AnswerBytes(bytes));
    }
    response
}

/// The bytes of all large answers.
#[derive(Debug)]
pub struct Answers {
    bytes: AtomicUsize,
    limit: usize,
}

impl Answers {
    /// None yet, and at most `limit`.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), limit })
    }

    /// The bytes of those that are on their way now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Room for an answer; `None` when there is none.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let room = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.limit);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Held { answers: self.clone(), bytes })
    }

    /// Room that is taken whether it is there or not.
    fn take_anyway(self: &Arc<Self>, bytes: usize) -> Held {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Held { answers: self.clone(), bytes }
    }

    fn is_full(&self) -> bool {
        self.bytes() >= self.limit
    }
}

/// The room that an answer takes; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    answers: Arc<Answers>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.answers.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A service whose large answers are charged.
#[derive(Debug, Clone)]
pub struct Answered<S> {
    inner: S,
    answers: Arc<Answers>,
}

impl<S> Answered<S> {
    /// Charges the answers of a service.
    pub fn new(inner: S, answers: Arc<Answers>) -> Self {
        Self { inner, answers }
    }
}

impl<S, Req, Res> Service<Request<Req>> for Answered<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: Body<Data = Bytes> + Default,
{
    type Response = Response<HeldBody<Res>>;
    type Error = S::Error;
    type Future = AnsweredFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let is_write = request.uri().path() == BATCH_WRITE;
        let call = if is_write && self.answers.is_full() { None } else { Some(self.inner.call(request)) };
        AnsweredFuture { call, is_write, answers: self.answers.clone() }
    }
}

pin_project! {
    /// A call whose answer will be charged.
    pub struct AnsweredFuture<F> {
        // `None` when the call was refused before it began.
        #[pin]
        call: Option<F>,
        is_write: bool,
        answers: Arc<Answers>,
    }
}

impl<F, B, E> Future for AnsweredFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Default,
{
    type Output = Result<Response<HeldBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(call) = this.call.as_pin_mut() else { return Poll::Ready(Ok(refusal())) };
        let response = ready!(call.poll(cx))?;
        let held = match response.extensions().get() {
            None => None,
            Some(AnswerBytes(bytes)) if *this.is_write => Some(this.answers.take_anyway(*bytes)),
            Some(AnswerBytes(bytes)) => match this.answers.take(*bytes) {
                Some(held) => Some(held),
                None => return Poll::Ready(Ok(refusal())),
            },
        };
        Poll::Ready(Ok(response.map(|body| HeldBody { body, held: held.map(Arc::new) })))
    }
}

/// The whole answer in one block of headers.
fn refusal<B: Default>() -> Response<HeldBody<B>> {
    let status = Status::from(RpcError::from(StoreError::Overloaded));
    status.into_http().map(|body| HeldBody { body, held: None })
}

pin_project! {
    /// A body that is charged until it and all that it gave are dropped.
    #[derive(Debug, Default)]
    pub struct HeldBody<B> {
        #[pin]
        body: B,
        held: Option<Arc<Held>>,
    }
}

/// Bytes of an answer with their charge.
struct HeldBytes {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<B: Body<Data = Bytes>> Body for HeldBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        let Some(held) = this.held else { return polled };
        let charged = |bytes| Bytes::from_owner(HeldBytes { bytes, _held: held.clone() });
        polled.map_ok(|frame| frame.map_data(charged))
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
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};

    use super::*;

    type Answer = Response<HeldBody<Full<Bytes>>>;

    /// Calls a service that answers with so many bytes.
    async fn answer(answers: &Arc<Answers>, path: &'static str, bytes: usize) -> Answer {
        let inner = tower::service_fn(move |_: Request<()>| async move {
            let mut response = Response::new(Full::new(Bytes::from(vec![0; bytes])));
            *response.extensions_mut() = sized((), bytes).into_parts().2;
            Ok::<_, Infallible>(response)
        });
        let request = Request::builder().uri(path).body(()).unwrap();
        Answered::new(inner, answers.clone()).call(request).await.unwrap()
    }

    fn is_refused(answer: &Answer) -> bool {
        answer.headers().get("grpc-status").is_some_and(|status| status == "8")
    }

    #[tokio::test]
    async fn large_answers_are_charged_until_they_are_gone_and_refused_without_room() {
        let answers = Answers::new(250_000);
        let (first, second) = (answer(&answers, "/", 100_000).await, answer(&answers, "/", 150_000).await);
        assert_eq!(answers.bytes(), 250_000);
        assert!(!is_refused(&first) && !is_refused(&second));
        let refused = answer(&answers, "/", SMALL_ANSWER_BYTES + 1).await;
        assert!(is_refused(&refused));
        let small = answer(&answers, "/", SMALL_ANSWER_BYTES).await;
        assert!(!is_refused(&small));
        drop(first);
        assert_eq!(answers.bytes(), 150_000);
        let third = answer(&answers, "/", 100_000).await;
        assert!(!is_refused(&third));
        drop((second, third, refused, small));
        assert_eq!(answers.bytes(), 0);
    }

    #[tokio::test]
    async fn the_bytes_of_an_answer_are_charged_also_when_its_body_is_gone() {
        let answers = Answers::new(100_000);
        let mut bytes = answer(&answers, "/", 100_000).await.into_body().collect().await.unwrap().to_bytes();
        drop(bytes.split_to(60_000));
        assert_eq!((answers.bytes(), bytes.len()), (100_000, 40_000));
        assert!(is_refused(&answer(&answers, "/", 50_000).await));
        drop(bytes);
        assert_eq!(answers.bytes(), 0);
    }

    #[tokio::test]
    async fn a_write_is_refused_before_it_is_made_and_its_answer_is_never_dropped() {
        let answers = Answers::new(100_000);
        let first = answer(&answers, BATCH_WRITE, 90_000).await;
        // There was room for some when it began.
        let second = answer(&answers, BATCH_WRITE, 90_000).await;
        assert!(!is_refused(&first) && !is_refused(&second));
        assert_eq!(answers.bytes(), 180_000);
        assert!(is_refused(&answer(&answers, BATCH_WRITE, 90_000).await));
        drop((first, second));
        assert_eq!(answers.bytes(), 0);
    }
}
