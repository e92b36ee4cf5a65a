//! From settings to a running server, and to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::admin::{self, Admin};
use super::last_resort::LastResort;
use super::log_filter;
use super::metrics::{self, Metrics, Sources};
use super::open_files;
use super::otel_variables;
use super::publishing::{self, Publishing};
use super::sample;
use super::serving::{self, ServingFigures, ServingLimits};
use super::settings::{LimitSettings, Settings};
use super::stack::{self, ServerStore};
use super::status_page;
use crate::engine::sled::OpenError;
use crate::feed::Feed;
use crate::observe::panics;
use crate::observe::slowest_calls::SlowestCalls;
use crate::observe::traces::{Exporter, TraceError};
use crate::observe::{Calls, Observer};
use crate::rpc;
use crate::store::{Store, StoreError, StoreState};

/// How long a shutdown waits at most for the collector to take the last traces.
const LAST_TRACES: Duration = Duration::from_secs(2);

/// What a drain may take longer than `server.drain_timeout`, for the connections that are cut and the admin listener.
const DRAIN_SLACK: Duration = Duration::from_secs(5);
/// How many syncs in a row, each of which just does not take too long, the closing of the store waits for.
const CLOSING_SYNCS: u32 = 4;

/// Why a server cannot start or has to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("{key} = {address} cannot be listened on: {source}")]
    Listen {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The serving loop has failed: one of its threads panicked, for example.
    #[error("the serving loop failed: {0}")]
    Serving(String),
    /// A thread or a service cannot be started.
    #[error("the server cannot be started: {0}")]
    Start(String),
    /// The publisher's place in the log cannot be taken.
    #[error("the publisher cannot be started: {0}")]
    Publisher(StoreError),
    /// Traces cannot be exported as the settings say.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// The sample cannot be loaded.
    #[error("the sample profiles cannot be loaded: {0}")]
    Sample(StoreError),
    /// A write failed in a way that leaves its outcome unknown; a restart brings the store back.
    #[error("the store has failed and the server must be restarted: {cause}")]
    StoreFailed {
        /// What happened.
        cause: String,
    },
    /// The store did not close cleanly.
    #[error("the store could not be closed: {0}")]
    Close(StoreError),
}

/// A server that listens and has opened its store, but does not serve yet.
pub struct Server {
    store: Arc<ServerStore>,
    services: rpc::Services,
    traces: Option<Exporter>,
    grpc: tokio::net::TcpListener,
    grpc_address: SocketAddr,
    admin: Admin,
    publishing: Publishing,
    limits: ServingLimits,
    figures: Arc<ServingFigures>,
    drain_delay: Duration,
    sync_timeout: Duration,
    /// No more calls are wanted.
    unready: CancellationToken,
    /// Ends the reading of figures for the status page.
    _figures_end: DropGuard,
}

impl Server {
    /// Takes the addresses, opens the store and, if it is empty, loads `sample` generated profiles.
    ///
    /// The addresses first: a port in use is found before anything on disk is touched.
    pub async fn start(settings: &Settings, sample: Option<u64>) -> Result<Self, ServeError> {
        panics::count();
        let mut settings = settings.clone();
        settings.limits.connections =
            open_files::room_for(settings.limits.connections, LimitSettings::default().connections);
        let settings = &settings;
        let listen = |key, address: SocketAddr| move |source: io::Error| ServeError::Listen { key, address, source };
        let grpc = bind(settings.server.listen).map_err(listen("server.listen", settings.server.listen))?;
        let admin = std::net::TcpListener::bind(settings.server.admin_listen)
            .map_err(listen("server.admin_listen", settings.server.admin_listen))?;
        let start = |error: io::Error| ServeError::Start(error.to_string());

        let store = Arc::new(stack::open(settings).await?);
        let publishing = publishing::start(&store, &settings.publish).await?;
        if let Some(count) = sample {
            load_sample(&store, settings, count).await?;
        }
        let unready = CancellationToken::new();
        let feed = Arc::new(Feed::start(store.clone(), settings.limits.watchers));
        let (cache, canonicalization) = (store.cache().clone(), settings.email.canonicalization());
        let services = rpc::services_with_feed(store.clone(), feed.clone(), Some(cache), canonicalization)
            .await
            .map_err(|error| ServeError::Start(error.to_string()))?
            .with_request_bytes_in_flight(settings.limits.request_bytes_in_flight)
            .with_answer_bytes_held(settings.limits.answer_bytes_held);
        let figures = Arc::<ServingFigures>::default();
        let (mut observer, mut routes) = (Observer::new(), log_filter::routes());
        if settings.observe.metrics {
            let calls = Calls::new();
            observer = observer.with_calls(calls.clone());
            routes = routes.merge(metrics::routes(Metrics::new(Sources {
                calls,
                services: services.clone(),
                store: store.clone(),
                feed: feed.clone(),
                serving: figures.clone(),
                main: tokio::runtime::Handle::current().metrics(),
                limits: settings.limits.clone(),
                page_bytes: settings.cache.page_bytes,
                held_log_bytes: settings.store.held_log_bytes,
                publisher: publishing.figures().cloned(),
            })));
        }
        let figures_end = CancellationToken::new();
        if settings.observe.status_page {
            let slow = Arc::new(SlowestCalls::new());
            observer = observer.with_sink(slow.clone());
            let sources = status_page::Sources {
                store: store.clone(),
                commits: Box::new({
                    let store = store.clone();
                    move || stack::commit_figures(&store)
                }),
                cache: store.cache().clone(),
                feed,
                calls: observer.calls().cloned(),
                hot_keys: services.hot_keys().clone(),
                slow,
                draining: unready.clone(),
                whole_ids: settings.observe.status_page_ids,
            };
            routes = routes.merge(status_page::routes(sources, figures_end.clone()));
        }
        if let Some(lines) = settings.observe.lines() {
            observer = observer.with_sink(Arc::new(lines));
        }
        for variable in otel_variables::standard().unusable {
            tracing::warn!(variable, "a variable of OpenTelemetry has a value that cannot be used here");
        }
        let services = services.with_observer(Arc::new(observer));
        Ok(Self {
            grpc_address: grpc.local_addr().map_err(start)?,
            admin: admin::start(admin, store.clone(), unready.clone(), routes).map_err(start)?,
            store,
            services,
            traces: settings.observe.traces().map(|options| Exporter::start(&options)).transpose()?,
            grpc,
            publishing,
            limits: settings.serving_limits(),
            figures,
            drain_delay: settings.server.drain_delay,
            sync_timeout: settings.store.sync_timeout,
            unready,
            _figures_end: figures_end.drop_guard(),
        })
    }

    /// Where gRPC is served.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where probes are answered.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// The number of profiles.
    pub fn profile_count(&self) -> u64 {
        self.store.status().totals.profiles
    }

    /// Serves until `shutdown` completes or the store fails; then drains, closes the store and returns. A drain or a close
    /// that does not end ends the process.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let mut state = self.store.watch_state();
        let draining = CancellationToken::new();
        let closing_bound = publishing::PATIENCE + CLOSING_SYNCS * self.sync_timeout + LAST_TRACES + DRAIN_SLACK;
        let closing = || LastResort::exit_after(closing_bound, "the closing of the store", "the server was stopped");
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let stack = self.services.stack();
        let serving = serving::serve_counted(self.grpc, stack, threads, self.limits, self.figures, draining.clone());
        let mut serving = tokio::spawn(serving);
        let failed = tokio::select! {
            () = shutdown => None,
            changed = state.wait_for(|state| matches!(state, StoreState::Failed { .. })) => match changed.as_deref() {
                Ok(StoreState::Failed { cause }) => Some(cause.clone()),
                _ => None,
            },
            ended = &mut serving => {
                let error = outcome(ended).err().unwrap_or_else(|| ServeError::Serving("it ended early".into()));
                let _in_time = closing();
                self.admin.stop();
                let closed = self.store.close().await.map_err(ServeError::Close);
                stop_traces(self.traces).await;
                return closed.and(Err(error));
            }
        };
        let drain_bound = self.drain_delay + self.limits.drain_timeout + DRAIN_SLACK;
        let why = failed.as_deref().unwrap_or("the server was stopped");
        let drained_in_time = LastResort::exit_after(drain_bound, "the drain", why);
        tracing::info!(failed = failed.is_some(), "draining");
        self.services.set_not_serving().await;
        self.unready.cancel();
        if failed.is_none() {
            tokio::time::sleep(self.drain_delay).await;
        }
        draining.cancel();
        self.services.end_health_watches().await;
        self.services.end_watches();
        let served = outcome(serving.await).inspect_err(|error| tracing::error!(%error, "the drain has failed"));
        self.admin.stop();
        if let Some(cause) = failed {
            // The publisher ends with the process. The store stays as it is: closing it would touch what has failed.
            std::mem::forget(self.store);
            stop_traces(self.traces).await;
            return Err(ServeError::StoreFailed { cause });
        }
        drop(drained_in_time);
        let _closed_in_time = closing();
        self.publishing.stop().await;
        let closed = self.store.close().await.map_err(ServeError::Close);
        stop_traces(self.traces).await;
        closed.and(served)
    }
}

/// What became of the serving loop's task.
fn outcome(ended: Result<io::Result<()>, tokio::task::JoinError>) -> Result<(), ServeError> {
    ended.map_err(io::Error::other).flatten().map_err(|error| ServeError::Serving(error.to_string()))
}

/// Sends the last traces.
async fn stop_traces(traces: Option<Exporter>) {
    if let Some(traces) = traces {
        // An error means a panic, which has been logged.
        let _ = tokio::task::spawn_blocking(move || traces.stop(LAST_TRACES)).await;
    }
}

/// Listens for gRPC. A burst of connections, such as all clients after a restart, waits in line instead of being
/// dropped and tried again a second later.
fn bind(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    const WAITING_CONNECTIONS: u32 = 4096;
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING_CONNECTIONS)
}

async fn load_sample(store: &Arc<ServerStore>, settings: &Settings, count: u64) -> Result<(), ServeError> {
    let present = store.status().totals.profiles;
    if present > 0 {
        tracing::info!(profiles = present, "the store is not empty, so no sample is loaded");
        return Ok(());
    }
    let started = std::time::Instant::now();
    sample::load(store, settings.email.canonicalization(), count).await.map_err(ServeError::Sample)?;
    tracing::info!(profiles = count, elapsed_ms = started.elapsed().as_millis() as u64, "loaded the sample");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serving_loop_that_failed_is_an_error_of_the_server() {
        assert!(outcome(Ok(Ok(()))).is_ok());
        let failed = outcome(Ok(Err(io::Error::other("a serving thread panicked")))).unwrap_err();
        assert_eq!(failed.to_string(), "the serving loop failed: a serving thread panicked");
    }
}
