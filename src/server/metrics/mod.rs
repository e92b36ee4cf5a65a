//! `/metrics` on the admin listener: what all floors know, in Prometheus' text format.
//!
//! Everything is asked for when it is scraped, so nothing is looked up or formatted for a call. [`exposition`] writes
//! the format, `rpc` shows the calls, `process` the process.
//!
//! Invariant: labels are names from the code. No id, e-mail or other text of a caller or an operator is one.

mod exposition;
mod process;
mod rpc;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::Mutex;

use self::exposition::Page;
use self::process::Process;
use crate::observe::Calls;

/// The text format's own name.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where the figures come from.
pub struct Metrics {
    calls: Arc<Calls>,
    /// Held while a page is made: one at a time.
    process: Mutex<Process>,
}

impl Metrics {
    /// The figures of a server.
    pub fn new(calls: Arc<Calls>) -> Self {
        Self { calls, process: Mutex::new(Process::new()) }
    }

    /// Everything as of now.
    pub async fn page(&self) -> String {
        let process = self.process.lock().await;
        let mut page = Page::default();
        page.gauge("profilestore_build_info", "1, with the version of the server.")
            .labelled(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        rpc::write(&mut page, &self.calls.figures());
        process.write(&mut page);
        page.into_text()
    }
}

/// The page under its path.
pub fn routes(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(Arc::new(metrics))
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT_FORMAT)], metrics.page().await)
}
