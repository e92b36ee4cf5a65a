//! Who is told about each call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::calls::Calls;
use super::code::Code;
use super::method::Method;
use crate::store::AnswerSource;

/// What went over the wire for a call in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of the messages with their prefixes, as they were sent: compressed ones count as they are.
    pub bytes: u64,
    /// Whole messages.
    pub messages: u64,
}

/// A call that has ended.
#[derive(Debug, Clone)]
pub struct EndedCall {
    /// Which.
    pub method: Method,
    /// How.
    pub code: Code,
    /// When its head was there.
    pub started: Instant,
    /// From then until its end was handed to the connection, or nobody waited any more.
    pub elapsed: Duration,
    /// What the caller sent.
    pub received: Traffic,
    /// What the caller was sent.
    pub sent: Traffic,
    /// What gave the answer, as far as somebody said so.
    pub source: Option<AnswerSource>,
}

/// Somebody who looks at single calls, such as the slow ones. It is called on the serving thread for each call, so it
/// decides at once and waits for nothing.
pub trait CallSink: Send + Sync {
    /// A call has ended.
    fn ended(&self, call: &EndedCall);
}

/// Who is told about each call, in this order: the cells, then the sinks.
#[derive(Clone, Default)]
pub struct Observer {
    calls: Option<Arc<Calls>>,
    sinks: Vec<Arc<dyn CallSink>>,
}

impl Observer {
    /// Nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with cells that count all calls.
    pub fn with_calls(self, calls: Arc<Calls>) -> Self {
        Self { calls: Some(calls), ..self }
    }

    /// The same with one more sink, behind those before it.
    pub fn with_sink(mut self, sink: Arc<dyn CallSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Whether anybody wants to know. If not, no clock is read for calls.
    pub fn is_on(&self) -> bool {
        self.calls.is_some() || !self.sinks.is_empty()
    }

    /// A call has begun.
    pub fn begun(&self, method: Method) {
        if let Some(calls) = &self.calls {
            calls.begun(method);
        }
    }

    /// Something was received and sent for a call that goes on.
    pub fn moved(&self, method: Method, received: Traffic, sent: Traffic) {
        if let Some(calls) = &self.calls {
            calls.moved(method, received, sent);
        }
    }

    /// A call has ended whose traffic was told by [`moved`](Observer::moved) already.
    pub fn ended(&self, call: &EndedCall) {
        self.tell(call, Traffic::default(), Traffic::default());
    }

    /// A call was answered at once: all of its traffic is told here.
    pub fn answered(&self, call: &EndedCall) {
        self.tell(call, call.received, call.sent);
    }

    fn tell(&self, call: &EndedCall, received: Traffic, sent: Traffic) {
        if let Some(calls) = &self.calls {
            calls.ended(call, received, sent);
        }
        for sink in &self.sinks {
            sink.ended(call);
        }
    }
}
