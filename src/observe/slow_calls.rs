//! One line in the log for each call that was slow, or failed by the server's fault.
//!
//! A call whose caller decides how long it takes, such as a watch, is never slow. In a storm there are few lines
//! ([`Pace`]), and each says how many were left out before it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pace::Pace;
use super::{CallSink, EndedCall};

/// Where the lines come from, for filters.
pub const TARGET: &str = "profilestore::calls";

/// Writes the lines.
pub struct SlowCalls {
    /// A call that takes longer is slow; zero for none.
    threshold: Duration,
    /// Whether those that fail have lines.
    tells_failed: bool,
    slow: Mutex<Pace>,
    failed: Mutex<Pace>,
}

impl SlowCalls {
    /// Lines for calls that take longer than `threshold` (zero for none), and for those that fail if they are wanted.
    pub fn new(threshold: Duration, tells_failed: bool) -> Self {
        Self { threshold, tells_failed, slow: Mutex::default(), failed: Mutex::default() }
    }

    fn is_slow(&self, call: &EndedCall) -> bool {
        !self.threshold.is_zero() && call.elapsed > self.threshold && call.method.is_unary()
    }
}

impl CallSink for SlowCalls {
    fn ended(&self, call: &EndedCall) {
        let failed = self.tells_failed && call.code.is_server_error();
        if !failed && !self.is_slow(call) {
            return;
        }
        let pace = if failed { &self.failed } else { &self.slow };
        let Some(left_out) = pace.lock().pass(Instant::now()) else { return };
        let message = if failed { "a call failed" } else { "a call was slow" };
        tracing::warn!(
            target: TARGET,
            method = format_args!("{}/{}", call.method.service(), call.method.name()),
            code = call.code.name(),
            duration_ms = call.elapsed.as_secs_f64() * 1000.0,
            request_id = call.origin.request_id(),
            trace_id = call.origin.trace_id().map(tracing::field::display),
            peer = call.origin.peer.map(tracing::field::display),
            received_bytes = call.received.bytes,
            sent_bytes = call.sent.bytes,
            source = call.source.map(|source| source.name()),
            left_out,
            "{message}"
        );
    }
}
