//! One line in the log for each call that was slow or long, or failed by the server's fault.
//!
//! A call that is open-ended, such as a watch, is never long, and its end by its caller's deadline or by a restart is no
//! failure. In a storm there are few lines ([`Pace`]), and each says how many were left out before it. Each code
//! has a pace of its own: calls that anybody can have fail, such as those of no method, hide no others.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pace::Pace;
use super::{CallSink, Code, EndedCall};

/// Where the lines come from, for filters.
pub const TARGET: &str = "profilestore::calls";

/// Writes the lines.
pub struct SlowCalls {
    /// A call that takes longer is slow; zero for none.
    threshold: Duration,
    /// Whether those that fail have lines.
    tells_failed: bool,
    slow: Mutex<Pace>,
    long: Mutex<Pace>,
    /// By the number of the code.
    failed: [Mutex<Pace>; Code::COUNT],
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    Slow,
    /// A stream, whose length is not for the server alone to decide.
    Long,
}

impl SlowCalls {
    /// Lines for calls that take longer than `threshold` (zero for none), and for those that fail if they are wanted.
    pub fn new(threshold: Duration, tells_failed: bool) -> Self {
        let (slow, long, failed) = <_>::default();
        Self { threshold, tells_failed, slow, long, failed }
    }

    fn kind_of(&self, call: &EndedCall) -> Option<Kind> {
        let (method, code) = (call.method, call.code);
        let just_ended = method.is_open_ended() && [Code::DEADLINE_EXCEEDED, Code::UNAVAILABLE].contains(&code);
        if self.tells_failed && code.is_server_error() && !just_ended {
            return Some(Kind::Failed);
        }
        let took_long = !self.threshold.is_zero() && call.elapsed > self.threshold && !method.is_open_ended();
        took_long.then_some(if method.is_unary() { Kind::Slow } else { Kind::Long })
    }

    /// How many lines were left out before the one for this call, which is `None` when it is left out too.
    fn pass(&self, kind: Kind, call: &EndedCall) -> Option<u64> {
        let pace = match kind {
            Kind::Failed => &self.failed[call.code.number()],
            Kind::Slow => &self.slow,
            Kind::Long => &self.long,
        };
        pace.lock().pass(Instant::now())
    }
}

impl CallSink for SlowCalls {
    fn ended(&self, call: &EndedCall) {
        let Some(kind) = self.kind_of(call) else { return };
        let Some(left_out) = self.pass(kind, call) else { return };
        macro_rules! line {
            ($level:expr, $message:literal) => {
                tracing::event!(
                    target: TARGET,
                    $level,
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
                    $message
                )
            };
        }
        match kind {
            Kind::Failed => line!(tracing::Level::WARN, "a call failed"),
            Kind::Slow => line!(tracing::Level::WARN, "a call was slow"),
            // As it should be for what is large.
            Kind::Long => line!(tracing::Level::INFO, "a long call has ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::pace::TIMES;
    use crate::observe::{Method, Origin, Traffic};

    fn ended(path: &str, code: u8, seconds: u64) -> EndedCall {
        EndedCall {
            method: Method::of_path(path),
            code: Code::of_header(code.to_string().as_bytes()),
            started: Instant::now(),
            elapsed: Duration::from_secs(seconds),
            received: Traffic::default(),
            sent: Traffic::default(),
            source: None,
            origin: Origin::of(&http::HeaderMap::new(), None),
        }
    }

    #[test]
    fn what_a_line_is_about_depends_on_the_call_and_its_end() {
        const GET: &str = "/profilestore.v1.ProfileService/GetProfile";
        const IMPORT: &str = "/profilestore.v1.ProfileService/ImportProfiles";
        const WATCH: &str = "/profilestore.v1.ProfileService/WatchProfiles";
        let lines = SlowCalls::new(Duration::from_secs(1), true);
        for (path, code, seconds, kind) in [
            (GET, 0, 1, None),
            (GET, 0, 2, Some(Kind::Slow)),
            (GET, 5, 2, Some(Kind::Slow)),
            (GET, 5, 0, None),
            (GET, 13, 0, Some(Kind::Failed)),
            (GET, 4, 0, Some(Kind::Failed)),
            (IMPORT, 0, 3600, Some(Kind::Long)),
            (IMPORT, 14, 3600, Some(Kind::Failed)),
            (WATCH, 0, 3600, None),
            (WATCH, 4, 3600, None),
            (WATCH, 14, 3600, None),
            (WATCH, 13, 0, Some(Kind::Failed)),
            (WATCH, 15, 0, Some(Kind::Failed)),
            ("/nobody.Knows/It", 12, 0, Some(Kind::Failed)),
        ] {
            assert_eq!(lines.kind_of(&ended(path, code, seconds)), kind, "{path} {code} {seconds}");
        }
        let none = SlowCalls::new(Duration::ZERO, false);
        assert_eq!(none.kind_of(&ended(GET, 13, 3600)), None);
    }

    #[test]
    fn calls_that_anybody_can_have_fail_hide_no_failure_of_another_kind() {
        let lines = SlowCalls::new(Duration::from_secs(1), true);
        let nowhere = ended("/nobody.Knows/It", 12, 0);
        let passed = (0..1000).filter(|_| lines.pass(Kind::Failed, &nowhere).is_some()).count();
        assert_eq!(passed, TIMES as usize);
        for code in [2, 4, 13, 14, 15] {
            let failed = ended("/profilestore.v1.ProfileService/GetProfile", code, 0);
            assert_eq!(lines.pass(Kind::Failed, &failed), Some(0), "{code}");
        }
    }
}
