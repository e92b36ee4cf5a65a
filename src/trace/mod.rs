//! The trace that a call belongs to, as it follows the call through the floors.
//!
//! The call layer makes a span for a call that is sampled and puts it into OpenTelemetry's context of the thread while the call is
//! polled. What works for the call asks here for a span below it, and gets none when there is no trace: then all that
//! is paid is a look at the thread's context. Whoever has no OpenTelemetry exporter has no tracer, and no spans; a
//! caller's context still goes with its writes.
//!
//! Invariants: a span has no id, e-mail, name or attribute of a profile; a call has at most [`MAX_CHILDREN`] spans below its
//! own, however long it streams.

mod parent;

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::SystemTime;

use opentelemetry::global::{BoxedSpan, BoxedTracer};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use pin_project_lite::pin_project;

pub use parent::{Parent, TraceParent};

/// The most spans below that of one call. A stream could make any number of them.
pub const MAX_CHILDREN: u32 = 200;

/// What makes the process's spans; empty without an exporter.
static TRACER: OnceLock<BoxedTracer> = OnceLock::new();

/// How many spans below a call's own may still be made.
#[derive(Debug)]
struct Budget(AtomicU32);

/// From now on the process makes spans with this. A second tracer is not taken.
pub fn install(tracer: BoxedTracer) {
    let _ = TRACER.set(tracer);
}

/// What makes the process's spans, if they are exported.
pub fn tracer() -> Option<&'static BoxedTracer> {
    TRACER.get()
}

/// A context for a call's own span.
pub fn call_context(span: BoxedSpan) -> Context {
    Context::new().with_span(span).with_value(Budget(AtomicU32::new(MAX_CHILDREN)))
}

/// The span that what is done now belongs to, if the trace is recorded.
pub fn current() -> Option<TraceParent> {
    Context::map_current(|context| {
        if context.has_active_span() { TraceParent::of(context.span().span_context()) } else { None }
    })
}

/// Begins a span below the current one. `None` when there is no trace.
fn begin_span(name: &'static str) -> Option<BoxedSpan> {
    Context::map_current(|context| {
        if !context.has_active_span() {
            return None;
        }
        let Budget(left) = context.get::<Budget>()?;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        Some(TRACER.get()?.start_with_context(name, context))
    })
}

/// A piece of work that takes no await.
#[must_use]
pub struct Step(Option<BoxedSpan>);

/// Begins a span for a piece of work.
pub fn step(name: &'static str) -> Step {
    Step(begin_span(name))
}

impl Step {
    /// Ends it, with a word about what came of it.
    pub fn end(self, key: &'static str, word: &'static str) {
        if let Some(mut span) = self.0 {
            span.set_attribute(KeyValue::new(key, word));
            span.end();
        }
    }
}

/// Runs a future within a span of its own, if there is a trace. `has_failed` says whether the span is an error.
pub fn within<F: Future>(name: &'static str, future: F, has_failed: fn(&F::Output) -> bool) -> Within<F> {
    Within { future, name, has_failed, begun: false, context: None }
}

pin_project! {
    /// A future with its span.
    pub struct Within<F: Future> {
        #[pin]
        future: F,
        name: &'static str,
        has_failed: fn(&F::Output) -> bool,
        begun: bool,
        context: Option<Context>,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !*this.begun {
            *this.begun = true;
            *this.context = begin_span(this.name).map(|span| Context::current().with_span(span));
        }
        let Some(context) = this.context else { return this.future.poll(cx) };
        let polled = {
            let _attached = context.clone().attach();
            this.future.poll(cx)
        };
        if let Poll::Ready(output) = &polled {
            if (this.has_failed)(output) {
                context.span().set_status(Status::error(""));
            }
            // It ends when it is dropped as well, as when nobody waits for the future any more.
            context.span().end();
            *this.context = None;
        }
        polled
    }
}

/// When something began and ended.
pub type Stretch = (SystemTime, SystemTime);

/// A piece of work that many calls share: it has a trace of its own, with links to the spans of those whose work it is.
#[derive(Debug)]
pub struct Shared<'a> {
    /// The span's name.
    pub name: &'static str,
    /// When it was done.
    pub stretch: Stretch,
    /// For whom.
    pub links: &'a [TraceParent],
    /// Figures about it.
    pub figures: &'a [(&'static str, i64)],
    /// Its parts, which are spans below it.
    pub parts: &'a [(&'static str, Stretch)],
    /// Whether it went wrong.
    pub failed: bool,
}

impl Shared<'_> {
    /// Makes its spans. Without links nobody wants to know.
    pub fn record(&self) {
        let Some(tracer) = TRACER.get().filter(|_| !self.links.is_empty()) else { return };
        let link = |parent: &TraceParent| Link::with_context(parent.span_context(TraceState::default()));
        let figure = |&(key, value): &(&'static str, i64)| KeyValue::new(key, value);
        let mut span = SpanBuilder::from_name(self.name)
            .with_kind(SpanKind::Internal)
            .with_start_time(self.stretch.0)
            .with_links(self.links.iter().map(link).collect())
            .with_attributes(self.figures.iter().map(figure))
            .start_with_context(tracer, &Context::new());
        if self.failed {
            span.set_status(Status::Error { description: Cow::Borrowed("") });
        }
        let context = Context::new().with_remote_span_context(span.span_context().clone());
        for (name, (start, end)) in self.parts {
            let part = SpanBuilder::from_name(*name).with_start_time(*start);
            part.start_with_context(tracer, &context).end_with_timestamp(*end);
        }
        span.end_with_timestamp(self.stretch.1);
    }
}
