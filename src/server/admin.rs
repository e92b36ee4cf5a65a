//! The admin listener: `/livez` and `/readyz` over HTTP/1, and what it is given besides, on a thread of its own.
//!
//! `connections` bounds what its clients may take: nobody has to say who he is here.

mod connections;
mod seats;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use self::connections::Bounds;
use crate::model::ProfileId;
use crate::store::{Store, StoreState};

/// A store that does not answer a read in this time is not ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The running admin listener.
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    thread: JoinHandle<()>,
    stop: CancellationToken,
}

struct Probe<S> {
    store: Arc<S>,
    draining: CancellationToken,
}

/// Serves probes and the routes in `more` until [`Admin::stop`]. `draining` turns readiness off.
pub fn start<S: Store>(
    listener: TcpListener,
    store: Arc<S>,
    draining: CancellationToken,
    more: Router,
) -> io::Result<Admin> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz::<S>))
        .with_state(Arc::new(Probe { store, draining }))
        .merge(more);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        let served: io::Result<()> = runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                never = connections::serve(listener, router, Bounds::default()) => match never {},
                () = stopped => Ok(()),
            }
        });
        if let Err(error) = served {
            tracing::error!(%error, "the admin listener ended");
        }
    })?;
    Ok(Admin { address, thread, stop })
}

impl Admin {
    /// Ends the listener; probes in flight are cut.
    pub fn stop(self) {
        self.stop.cancel();
        // An error means that the thread panicked, which has been logged by the panic hook.
        let _ = self.thread.join();
    }
}

/// Ready means: writes are taken, and the store answers a real read.
async fn readyz<S: Store>(State(probe): State<Arc<Probe<S>>>) -> (StatusCode, &'static str) {
    const NOT_READY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    if probe.draining.is_cancelled() {
        return (NOT_READY, "draining\n");
    }
    if probe.store.status().state != StoreState::Open {
        return (NOT_READY, "the store takes no writes\n");
    }
    let Ok(id) = ProfileId::parse("readyz", "id") else { return (NOT_READY, "no probe id\n") };
    match tokio::time::timeout(PROBE_TIMEOUT, probe.store.get(&id)).await {
        Ok(Ok(_)) => (StatusCode::OK, "ok\n"),
        Ok(Err(_)) => (NOT_READY, "the store does not answer reads\n"),
        Err(_) => (NOT_READY, "the store does not answer in time\n"),
    }
}
