//! `/metrics` on the admin listener: what all floors know, in Prometheus' text format.
//!
//! Everything is asked for when it is scraped, so nothing is looked up or formatted for a call. `exposition` writes
//! the format; `rpc` shows the calls, `store` the store and the cache, `feed` the feed, `serving` connections and
//! threads, `publisher` the publisher, `process` the process.
//!
//! Invariant: labels are names from the code. No id, e-mail or other text of a caller or an operator is one.

mod exposition;
mod feed;
mod process;
mod publisher;
mod rpc;
mod serving;
mod store;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::runtime::RuntimeMetrics;
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::exposition::Page;
use self::process::Process;
use super::serving::ServingFigures;
use super::settings::LimitSettings;
use super::stack::ServerStore;
use crate::feed::Feed;
use crate::feed::publisher::SharedFigures;
use crate::observe::Calls;
use crate::rpc::Services;
use crate::store::Store;

/// The text format's own name.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long the disk may take to answer. Figures are wanted most when it does not.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the figures come from.
pub struct Sources {
    /// The calls.
    pub calls: Arc<Calls>,
    /// The services, for the bytes of their requests.
    pub services: Services,
    /// The store and its cache.
    pub store: Arc<ServerStore>,
    /// The feed of its changes.
    pub feed: Arc<Feed<ServerStore>>,
    /// Connections and serving threads.
    pub serving: Arc<ServingFigures>,
    /// The runtime of everything else.
    pub main: RuntimeMetrics,
    /// The bounds that figures are shown with.
    pub limits: LimitSettings,
    /// The bound on kept pages, in bytes.
    pub page_bytes: u64,
    /// The bound on held log, in bytes.
    pub held_log_bytes: u64,
    /// The publisher, if there is one.
    pub publisher: Option<Arc<SharedFigures>>,
}

/// The page with all figures.
pub struct Metrics {
    sources: Sources,
    /// Held while a page is made: one at a time.
    process: Mutex<Process>,
}

impl Metrics {
    /// The figures of a server.
    pub fn new(sources: Sources) -> Self {
        Self { sources, process: Mutex::new(Process::new()) }
    }

    /// Everything as of now. What the store cannot tell at present is left out.
    pub async fn page(&self) -> String {
        let Sources { calls, services, store, feed, serving, main, limits, publisher, .. } = &self.sources;
        let process = self.process.lock().await;
        let disk_bytes = timeout(PATIENCE, store.disk_bytes()).await.ok().and_then(Result::ok);
        let held_log = timeout(PATIENCE, store.inner().held_log_bytes()).await.ok().and_then(Result::ok);
        let window = timeout(PATIENCE, feed.window()).await.ok().and_then(Result::ok);
        let mut page = Page::default();
        page.gauge("profilestore_build_info", "1, with the version of the server.")
            .labelled(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        rpc::write(&mut page, &calls.figures());
        store::write(&mut page, store, self.sources.page_bytes);
        store::write_held_log(&mut page, held_log, self.sources.held_log_bytes);
        if let Some(bytes) = disk_bytes {
            store::write_disk_bytes(&mut page, bytes, store.inner().figures());
        }
        feed::write(&mut page, store, feed, window.as_ref());
        serving::write_connections(&mut page, serving, limits.connections);
        serving::write_request_bytes(&mut page, services.request_bytes_in_flight(), limits.request_bytes_in_flight);
        serving::write_answer_bytes(&mut page, services.answer_bytes_held(), limits.answer_bytes_held);
        serving::write_runtimes(&mut page, &serving.runtimes(), main);
        if let Some(publisher) = publisher {
            publisher::write(&mut page, &publisher.read());
        }
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
