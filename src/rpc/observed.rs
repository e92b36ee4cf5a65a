//! The one layer around all of the services: what becomes of each call, told to an [`Observer`].
//!
//! A call begins when its head is there. It ends when its trailers (or a head that is all of its answer) are handed to
//! the connection, or when its future or body is dropped before that: then nobody waited for it any more, and it is
//! `CANCELLED`; unless it panicked, which is `INTERNAL`, or the server has cut its connection, which is `UNAVAILABLE`. An answer of the fast lane has its end in it, so its call ends at once and its body is not watched.
//!
//! Invariant: each call that began ends once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::Service;

use super::at_once::AtOnce;
use super::call_notes::{CallNotes, NotedBody};
use super::held_answers::HeldBody;
use super::lane_body::Message;
use super::message_ends::MessageEnds;
use crate::observe::traces::{Attached, CallTrace};
use crate::observe::{Code, EndedCall, Method, Observer, Origin, Traffic};
use crate::store::AnswerSource;

const GRPC_STATUS: &str = "grpc-status";

/// Services that are observed.
pub struct Observed<S> {
    inner: S,
    /// This clone's own: every connection has one, so the threads share no reference count.
    observer: Arc<Observer>,
    /// The call that comes next, begun when there was no answer at once.
    begun: Option<Running>,
}

impl<S> Observed<S> {
    /// Tells an observer about the calls of a service.
    pub fn new(inner: S, observer: Arc<Observer>) -> Self {
        Self { inner, observer, begun: None }
    }
}

impl<S: Clone> Clone for Observed<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::new(Observer::clone(&self.observer)))
    }
}

impl<S, B, R> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<HeldBody<NotedBody<R>>>>,
    R: Body<Data: Into<Message>, Error: Unpin> + Unpin,
{
    type Response = Response<ObservedBody<R>>;
    type Error = S::Error;
    type Future = ObservedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let begun = self.begun.take();
        let running = begun.or_else(|| self.observer.is_on().then(|| Running::begin(&self.observer, &request)));
        ObservedFuture { call: self.inner.call(request), running }
    }
}

impl<S: AtOnce<Message>> AtOnce<Message> for Observed<S> {
    fn at_once<B>(&mut self, request: &Request<B>, body: &Bytes) -> Option<Message> {
        if !self.observer.is_on() {
            return self.inner.at_once(request, body);
        }
        let running = Some(Running::begin(&self.observer, request));
        let answer = {
            let _attached = Running::attach(&running);
            self.inner.at_once(request, body)
        };
        match (answer, running) {
            (Some(message), Some(running)) => {
                running.end_in_the_lane(body.len(), message.remaining());
                Some(message)
            }
            (answer, running) => {
                self.begun = running;
                answer
            }
        }
    }
}

/// A call that has begun and not ended. Dropped, it ends all the same.
struct Running {
    observer: Arc<Observer>,
    method: Method,
    started: Instant,
    sent: Traffic,
    notes: Option<Arc<CallNotes>>,
    origin: Origin,
    /// There if the call's trace is recorded.
    trace: Option<Box<CallTrace>>,
    ended: bool,
}

impl Running {
    fn begin<B>(observer: &Arc<Observer>, request: &Request<B>) -> Self {
        let method = Method::of_path(request.uri().path());
        observer.begun(method);
        let trace = CallTrace::begin(method, request.headers());
        Self {
            observer: observer.clone(),
            method,
            started: Instant::now(),
            sent: Traffic::default(),
            notes: None,
            origin: Origin::of(request.headers(), trace.as_ref().map(|trace| trace.id())),
            trace,
            ended: false,
        }
    }

    fn as_ended(&self, code: Code) -> EndedCall {
        EndedCall {
            method: self.method,
            code,
            started: self.started,
            elapsed: self.started.elapsed(),
            received: self.notes.as_ref().map_or(Traffic::default(), |notes| notes.received()),
            sent: self.sent,
            source: self.notes.as_ref().and_then(|notes| notes.source()),
            origin: self.origin.clone(),
        }
    }

    /// While the guard is there, what is done on this thread belongs to the call's trace.
    fn attach(running: &Option<Self>) -> Option<Attached> {
        Some(running.as_ref()?.trace.as_ref()?.attach())
    }

    /// The span ends first, so that whoever is told of the call can find it.
    fn end_trace(&self, call: &EndedCall) {
        if let Some(trace) = &self.trace {
            trace.end(call);
        }
    }

    /// Ends with a code, unless it has ended already.
    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            let call = self.as_ended(code);
            self.end_trace(&call);
            self.observer.ended(&call);
        }
    }

    /// Ends with the answer of the fast lane.
    fn end_in_the_lane(mut self, received: usize, sent: usize) {
        let one = |bytes: usize| Traffic { bytes: bytes as u64, messages: 1 };
        self.ended = true;
        let source = Some(AnswerSource::Cache);
        let call = EndedCall { received: one(received), sent: one(sent), source, ..self.as_ended(Code::OK) };
        self.end_trace(&call);
        self.observer.answered(&call);
    }

    fn send(&mut self, more: Traffic) {
        self.sent.bytes += more.bytes;
        self.sent.messages += more.messages;
        self.observer.moved(self.method, Traffic::default(), more);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // A panic of the call drops it while it unwinds.
        self.end(match (std::thread::panicking(), self.origin.is_cut()) {
            (true, _) => Code::INTERNAL,
            (false, true) => Code::UNAVAILABLE,
            (false, false) => Code::CANCELLED,
        });
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|value| Code::of_header(value.as_bytes()))
}

pin_project! {
    /// A call that is observed.
    pub struct ObservedFuture<F> {
        #[pin]
        call: F,
        running: Option<Running>,
    }
}

impl<F, R, E> Future for ObservedFuture<F>
where
    F: Future<Output = Result<Response<HeldBody<NotedBody<R>>>, E>>,
    R: Body<Data: Into<Message>, Error: Unpin> + Unpin,
{
    type Output = Result<Response<ObservedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = {
            let _attached = Running::attach(this.running);
            this.call.poll(cx)
        };
        let response = match ready!(polled) {
            Ok(response) => response,
            Err(error) => {
                this.running.take().into_iter().for_each(|mut running| running.end(Code::UNKNOWN));
                return Poll::Ready(Err(error));
            }
        };
        let Some(mut running) = this.running.take() else {
            return Poll::Ready(Ok(response.map(ObservedBody::unobserved)));
        };
        if let Some((received, sent)) = response.body().lane_bytes() {
            running.end_in_the_lane(received, sent);
            return Poll::Ready(Ok(response.map(ObservedBody::unobserved)));
        }
        running.notes = response.body().inner().map(|body| body.notes().clone());
        match code_in(response.headers()) {
            // The head is all of the answer.
            Some(code) => running.end(code),
            None if response.body().is_end_stream() => running.end(Code::UNKNOWN),
            None => {}
        }
        let running = (!running.ended).then_some(running);
        Poll::Ready(Ok(response.map(|body| ObservedBody { body, running, ends: MessageEnds::default() })))
    }
}

pin_project! {
    /// The body of an answer, watched to its end.
    pub struct ObservedBody<R: Body> {
        #[pin]
        body: HeldBody<NotedBody<R>>,
        // `None` when the call has ended.
        running: Option<Running>,
        ends: MessageEnds,
    }
}

impl<R: Body> ObservedBody<R> {
    fn unobserved(body: HeldBody<NotedBody<R>>) -> Self {
        Self { body, running: None, ends: MessageEnds::default() }
    }

    /// Whether the fast lane answered.
    pub fn is_from_the_lane(&self) -> bool {
        self.body.is_from_the_lane()
    }

    /// What the services behind the fast lane answered.
    pub fn inner(&self) -> Option<&R> {
        self.body.inner().map(NotedBody::inner)
    }
}

impl<R> Body for ObservedBody<R>
where
    R: Body<Data: Into<Message>, Error: Unpin> + Unpin,
{
    type Data = Message;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Message>, R::Error>>> {
        let this = self.project();
        let polled = {
            let _attached = Running::attach(this.running);
            this.body.poll_frame(cx)
        };
        let frame = ready!(polled);
        if let Some(running) = this.running {
            let code = match &frame {
                Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                    (Some(message), _) => {
                        let (bytes, messages) = message.follow(this.ends);
                        running.send(Traffic { bytes: bytes as u64, messages: messages as u64 });
                        None
                    }
                    (None, Some(trailers)) => Some(code_in(trailers).unwrap_or(Code::UNKNOWN)),
                    (None, None) => None,
                },
                Some(Err(_)) | None => Some(Code::UNKNOWN),
            };
            if let Some(code) = code {
                running.end(code);
                *this.running = None;
            }
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
