//! The settings of what the server tells about itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observe::SlowCalls;
use crate::observe::traces::TraceOptions;

/// What the server tells about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObserveSettings {
    /// Count calls and their latencies, and show everything at `/metrics`.
    pub metrics: bool,
    /// Show the status page at `/` of the admin listener.
    pub status_page: bool,
    /// Show the ids of hot keys on the status page as they are. There is no authentication yet, and ids may be personal
    /// data.
    pub status_page_ids: bool,
    /// The OTLP collector that traces are sent to, as `http://host:port`; empty for none.
    pub otlp_endpoint: String,
    /// What part of the calls without a trace context is recorded, from 0 to 1. With one, the caller decides.
    pub trace_ratio: f64,
    /// A call that takes longer leaves a line in the log; zero for none.
    #[serde(with = "humantime_serde")]
    pub slow_request: Duration,
    /// A call that fails by the server's fault leaves a line in the log.
    pub failed_requests: bool,
}

impl Default for ObserveSettings {
    fn default() -> Self {
        Self {
            metrics: true,
            status_page: true,
            status_page_ids: false,
            otlp_endpoint: String::new(),
            trace_ratio: 0.01,
            slow_request: Duration::from_millis(500),
            failed_requests: true,
        }
    }
}

impl ObserveSettings {
    /// Checks all values, and says what is wrong with each.
    pub(super) fn check(&self, require: &mut impl FnMut(bool, &str)) {
        require(
            self.otlp_endpoint.is_empty() || is_endpoint(&self.otlp_endpoint),
            "observe.otlp_endpoint must be http://host:port, or empty to export no traces",
        );
        require((0.0..=1.0).contains(&self.trace_ratio), "observe.trace_ratio must be 0 to 1");
        require(self.slow_request <= Duration::from_secs(3600), "observe.slow_request must be at most 1h");
    }

    /// Who writes lines about slow and failed calls, if anybody is to.
    pub fn lines(&self) -> Option<SlowCalls> {
        let lines = SlowCalls::new(self.slow_request, self.failed_requests);
        (self.failed_requests || !self.slow_request.is_zero()).then_some(lines)
    }

    /// Where traces are sent, if anywhere.
    pub fn traces(&self) -> Option<TraceOptions> {
        let (endpoint, ratio) = (self.otlp_endpoint.clone(), self.trace_ratio);
        (!endpoint.is_empty()).then_some(TraceOptions { endpoint, ratio })
    }
}

/// Whether it is the address of a collector that we can talk to, which is without encryption.
pub(super) fn is_endpoint(address: &str) -> bool {
    let uri = address.parse::<http::Uri>();
    uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_bounds_and_is_named() {
        let wrong = |settings: ObserveSettings| {
            let mut wrong = Vec::new();
            settings.check(&mut |holds, what| wrong.extend((!holds).then(|| what.to_owned())));
            wrong
        };
        let default = ObserveSettings::default;
        assert_eq!(wrong(default()), Vec::<String>::new());
        for endpoint in ["https://a:1", "a:4317", "http://", "unix:/a", "http:// a"] {
            let settings = ObserveSettings { otlp_endpoint: endpoint.into(), ..default() };
            assert!(wrong(settings)[0].starts_with("observe.otlp_endpoint must be "), "{endpoint}");
        }
        for ratio in [-0.1, 1.1, f64::NAN] {
            let settings = ObserveSettings { trace_ratio: ratio, ..default() };
            assert!(wrong(settings)[0].starts_with("observe.trace_ratio must be "), "{ratio}");
        }
        let settings = ObserveSettings { slow_request: Duration::from_secs(3601), ..default() };
        assert!(wrong(settings)[0].starts_with("observe.slow_request must be "));
        let settings = ObserveSettings { otlp_endpoint: "http://[::1]:4317".into(), ..default() };
        assert_eq!(wrong(settings.clone()), Vec::<String>::new());
        assert_eq!(settings.traces().unwrap().endpoint, "http://[::1]:4317");
        assert_eq!(default().traces(), None);
    }

    #[test]
    fn nobody_writes_lines_when_none_are_wanted() {
        let lines = |slow_request, failed_requests| {
            ObserveSettings { slow_request, failed_requests, ..ObserveSettings::default() }.lines().is_some()
        };
        let second = Duration::from_secs(1);
        assert!(lines(second, true) && lines(second, false) && lines(Duration::ZERO, true));
        assert!(!lines(Duration::ZERO, false));
    }
}
