//! What is noted about a call on its way through the services behind the fast lane: what its caller sent, and where
//! its answer came from. `observed`, around everything, reads it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::Service;

use super::message_ends::MessageEnds;
use crate::observe::{Method, Observer, Traffic};
use crate::store::AnswerSource;
use crate::store::source::{Sourced, sourced};

/// What is noted about one call.
#[derive(Debug, Default)]
pub struct CallNotes {
    received_bytes: AtomicU64,
    received_messages: AtomicU64,
    source: OnceLock<AnswerSource>,
}

impl CallNotes {
    /// What was read of the request.
    pub fn received(&self) -> Traffic {
        Traffic {
            bytes: self.received_bytes.load(Ordering::Relaxed),
            messages: self.received_messages.load(Ordering::Relaxed),
        }
    }

    /// What gave the answer, if anybody said so.
    pub fn source(&self) -> Option<AnswerSource> {
        self.source.get().copied()
    }
}

/// A service whose calls are noted.
pub struct Noted<S> {
    inner: S,
    /// This clone's own, so that the threads share no reference count.
    observer: Arc<Observer>,
}

impl<S> Noted<S> {
    /// Notes the calls of a service.
    pub fn new(inner: S, observer: Arc<Observer>) -> Self {
        Self { inner, observer }
    }
}

impl<S: Clone> Clone for Noted<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::new(Observer::clone(&self.observer)))
    }
}

impl<S, B, R> Service<Request<B>> for Noted<S>
where
    S: Service<Request<NotedRequestBody<B>>, Response = Response<R>>,
{
    type Response = Response<NotedBody<R>>;
    type Error = S::Error;
    type Future = NotedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let notes = Arc::<CallNotes>::default();
        let method = Method::of_path(request.uri().path());
        let request = request.map(|body| NotedRequestBody {
            body,
            ends: MessageEnds::default(),
            notes: notes.clone(),
            method,
            observer: self.observer.clone(),
        });
        NotedFuture { call: sourced(self.inner.call(request)), notes: Some(notes) }
    }
}

pin_project! {
    /// A call that is noted.
    pub struct NotedFuture<F> {
        #[pin]
        call: Sourced<F>,
        // Handed on to the body.
        notes: Option<Arc<CallNotes>>,
    }
}

impl<F, R, E> Future for NotedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<NotedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let answer = ready!(this.call.as_mut().poll(cx));
        let notes = this.notes.take().unwrap_or_default();
        if let Some(source) = this.call.take_value().and_then(std::cell::Cell::into_inner) {
            let _ = notes.source.set(source);
        }
        Poll::Ready(answer.map(|response| response.map(|body| NotedBody { body, notes })))
    }
}

pin_project! {
    /// A request's body whose messages are noted.
    pub struct NotedRequestBody<B> {
        #[pin]
        body: B,
        ends: MessageEnds,
        notes: Arc<CallNotes>,
        method: Method,
        observer: Arc<Observer>,
    }
}

impl<B: Body<Data = Bytes>> Body for NotedRequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let more = Traffic { bytes: data.len() as u64, messages: this.ends.follow(data) as u64 };
            this.notes.received_bytes.fetch_add(more.bytes, Ordering::Relaxed);
            this.notes.received_messages.fetch_add(more.messages, Ordering::Relaxed);
            this.observer.moved(*this.method, more, Traffic::default());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// An answer's body with what is noted about its call.
    pub struct NotedBody<R> {
        #[pin]
        body: R,
        notes: Arc<CallNotes>,
    }
}

impl<R> NotedBody<R> {
    /// What is noted about the call.
    pub fn notes(&self) -> &Arc<CallNotes> {
        &self.notes
    }
}

impl<R: Body> Body for NotedBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
