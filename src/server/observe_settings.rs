//! The settings of what the server tells about itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observe::traces::TraceOptions;

/// What the server tells about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObserveSettings {
    /// Count calls and their latencies, and show everything at `/metrics`.
    pub metrics: bool,
    /// The OTLP collector that traces are sent to, as `http://host:port`; empty for none.
    pub otlp_endpoint: String,
    /// What part of the calls without a trace context is recorded, from 0 to 1. With one, the caller decides.
    pub trace_ratio: f64,
    /// A call that takes longer leaves a line in the log; zero for none.
    #[serde(with = "humantime_serde")]
    pub slow_request: Duration,
}

impl Default for ObserveSettings {
    fn default() -> Self {
        Self {
            metrics: true,
            otlp_endpoint: String::new(),
            trace_ratio: 0.01,
            slow_request: Duration::from_millis(500),
        }
    }
}

impl ObserveSettings {
    /// Checks all values, and says what is wrong with each.
    pub(super) fn check(&self, require: &mut impl FnMut(bool, &str)) {
        let uri = self.otlp_endpoint.parse::<http::Uri>();
        let is_http = uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
        require(
            self.otlp_endpoint.is_empty() || is_http,
            "observe.otlp_endpoint must be http://host:port, or empty to export no traces",
        );
        require((0.0..=1.0).contains(&self.trace_ratio), "observe.trace_ratio must be 0 to 1");
        require(self.slow_request <= Duration::from_secs(3600), "observe.slow_request must be at most 1h");
    }

    /// Where traces are sent, if anywhere.
    pub fn traces(&self) -> Option<TraceOptions> {
        let (endpoint, ratio) = (self.otlp_endpoint.clone(), self.trace_ratio);
        (!endpoint.is_empty()).then_some(TraceOptions { endpoint, ratio })
    }
}
