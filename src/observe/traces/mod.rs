//! Traces: which calls are recorded, and the span of each that is.
//!
//! Whoever has made the call decides: a call with a `traceparent` is recorded if its caller records it. Of the calls
//! without one a part is recorded, by chance. [`Exporter`] sends the spans to a collector; without one there are no
//! spans at all, and of a caller's context only what goes with a write is looked at.
//!
//! Invariants: a call that is not recorded costs one look for a header and no allocation; a span names nothing of a
//! profile.

mod exporter;
mod span_figures;

use std::cell::Cell;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanBuilder, SpanKind, Status, TraceContextExt, TraceState};
use opentelemetry::{Context, KeyValue};

/// While it is there, what is done on this thread belongs to a call's trace.
pub use opentelemetry::ContextGuard as Attached;

pub use self::exporter::{Exporter, TraceError};
pub use self::span_figures::{SpanFigures, span_figures};
use super::{EndedCall, Method};
use crate::trace::{self, Parent, TraceParent};

/// A caller's trace context.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Longer ones are left out (W3C Trace Context asks for at least 512), and those with an `@`, which could be an e-mail: they
/// go to the collector as they came.
const MAX_TRACESTATE_BYTES: usize = 1024;

/// What part of the calls without a caller's context is recorded, of 2^64; empty without an exporter.
static SAMPLED_PART: OnceLock<u64> = OnceLock::new();

thread_local! {
    /// The state of this thread's dice; zero before the first throw.
    static DICE: Cell<u64> = const { Cell::new(0) };
}

/// Where spans are sent, and which calls have some.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceOptions {
    /// The collector, as `http://host:port`.
    pub endpoint: String,
    /// What part of the calls without a caller's context is recorded, from 0 to 1.
    pub ratio: f64,
}

/// Whether a call that nobody else has decided about is recorded.
fn chance(part: u64) -> bool {
    part == u64::MAX || (part > 0 && throw() < part)
}

/// A number from all of 64 bits (xorshift64*): cheap, and good enough for dice.
fn throw() -> u64 {
    DICE.with(|dice| {
        let mut state = dice.get();
        if state == 0 {
            state = rand::random::<u64>() | 1;
        }
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        dice.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// The trace of one call that is recorded.
pub struct CallTrace {
    context: Context,
    id: TraceParent,
}

impl CallTrace {
    /// The trace of a call that has begun, if it is recorded.
    pub fn begin(method: Method, headers: &HeaderMap) -> Option<Box<Self>> {
        let part = SAMPLED_PART.get();
        if part.is_none() && !method.writes() {
            return None;
        }
        let parent = match headers.get(&TRACEPARENT).map(|header| Parent::parse(header.as_bytes())) {
            Some(Parent::Sampled(parent)) => Some(parent),
            Some(Parent::Unsampled) => return None,
            // Probes come all the time and tell nothing.
            None | Some(Parent::Malformed) if part.copied().is_some_and(chance) && method.is_ours() => None,
            None | Some(Parent::Malformed) => return None,
        };
        Self::record(method, parent, headers).map(Box::new)
    }

    fn record(method: Method, parent: Option<TraceParent>, headers: &HeaderMap) -> Option<Self> {
        let above = match parent {
            None => Context::new(),
            Some(parent) => Context::new().with_remote_span_context(parent.span_context(state_of(headers))),
        };
        let Some(tracer) = trace::tracer() else { return Some(Self { context: above, id: parent? }) };
        let span = SpanBuilder::from_name(format!("{}/{}", method.service(), method.name()))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", method.service()),
                KeyValue::new("rpc.method", method.name()),
            ])
            .start_with_context(tracer, &above);
        let context = trace::call_context(span);
        // The exporter may have been shut down; then there is nothing to record.
        let id = TraceParent::of(context.span().span_context())?;
        Some(Self { context, id })
    }

    /// What is done on this thread belongs to the call, until the guard is dropped.
    pub fn attach(&self) -> Attached {
        self.context.clone().attach()
    }

    /// Its trace and span.
    pub fn id(&self) -> TraceParent {
        self.id
    }

    /// Ends the call's span.
    pub fn end(&self, call: &EndedCall) {
        let span = self.context.span();
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        span.set_attribute(KeyValue::new("rpc.grpc.status_code", call.code.number() as i64));
        span.set_attribute(KeyValue::new("profilestore.received_bytes", number(call.received.bytes)));
        span.set_attribute(KeyValue::new("profilestore.sent_bytes", number(call.sent.bytes)));
        if let Some(source) = call.source {
            span.set_attribute(KeyValue::new("profilestore.source", source.name()));
        }
        if let Some(id) = call.origin.request_id() {
            span.set_attribute(KeyValue::new("profilestore.request_id", id.to_owned()));
        }
        if let Some(peer) = call.origin.peer {
            span.set_attribute(KeyValue::new("network.peer.address", address(peer)));
            span.set_attribute(KeyValue::new("network.peer.port", i64::from(peer.port())));
        }
        if call.code.is_server_error() {
            span.set_status(Status::error(call.code.name()));
        }
        span.end();
    }
}

fn address(peer: SocketAddr) -> String {
    peer.ip().to_canonical().to_string()
}

fn state_of(headers: &HeaderMap) -> TraceState {
    let state = headers.get(&TRACESTATE).and_then(|state| state.to_str().ok());
    let state = state.filter(|state| state.len() <= MAX_TRACESTATE_BYTES && !state.contains('@'));
    state.and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dice_are_fair_and_their_ends_are_certain() {
        assert!(!(0..1000).any(|_| chance(0)) && (0..1000).all(|_| chance(u64::MAX)));
        let part = (u64::MAX as f64 * 0.01) as u64;
        let hits = (0..1_000_000).filter(|_| chance(part)).count();
        assert!((9_000..11_000).contains(&hits), "{hits} of a million at 1 %");
    }

    #[test]
    fn without_an_exporter_only_a_writes_context_is_looked_at() {
        let mut headers = HeaderMap::new();
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert(&TRACEPARENT, header.parse().unwrap());
        let create = Method::of_path("/profilestore.v1.ProfileService/CreateProfile");
        assert!(CallTrace::begin(Method::GET_PROFILE, &headers).is_none());
        let write = CallTrace::begin(create, &headers).unwrap();
        let attached = write.attach();
        assert_eq!(trace::current().unwrap().to_string(), header);
        drop(attached);
        assert_eq!(trace::current(), None);
        headers.insert(&TRACEPARENT, header.replace("-01", "-00").parse().unwrap());
        assert!(CallTrace::begin(create, &headers).is_none());
        headers.clear();
        assert!(CallTrace::begin(create, &headers).is_none());
    }
}
