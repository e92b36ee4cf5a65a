//! The serving loop of gRPC: accepts connections, hands them to one thread per core, drains them.
//!
//! ```text
//! serve: accepts, counts → worker (one thread, one runtime, its connections) → connection: HTTP/2
//!                                                                             ↕ gathered_io: the socket
//! ```
//!
//! A connection and all its calls stay on one thread, so no call wakes another core. Connections are handed out
//! in turn, which spreads even a few of them.
//!
//! Invariants: there are never more connections than the bound; every connection's task is owned by its worker
//! and ended by it, at the latest when the drain's time is over; `serve` returns when all workers have ended.

mod connection;
mod gathered_io;
mod worker;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service;

use self::worker::{Accepted, Worker};

/// After an error of accept (such as too many open files) the loop pauses, or it would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The bounds of the serving loop.
#[derive(Debug, Clone, Copy)]
pub struct ServingLimits {
    /// The most connections; more are closed at once.
    pub connections: usize,
    /// The most calls in flight on one connection.
    pub streams_per_connection: u32,
    /// The most bytes of a call's headers.
    pub header_bytes: u32,
    /// How long a drain waits for calls in flight.
    pub drain_timeout: Duration,
}

/// Serves on `threads` threads until `shutdown` is cancelled, then drains: no new connections, calls in flight
/// end, and what has not ended in time is cut. Fails when a thread cannot be started.
///
/// Each connection has a clone of the service, which is called without being asked whether it is ready.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    threads: usize,
    limits: ServingLimits,
    shutdown: CancellationToken,
) -> std::io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: 'static,
    B: http_body::Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let workers: Vec<_> = (0..threads.max(1))
        .map(|number| Worker::start(number, service.clone(), limits, shutdown.clone()))
        .collect::<Result<_, _>>()?;
    let permits = Arc::new(Semaphore::new(limits.connections));
    for turn in 0.. {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracing::warn!(limit = limits.connections, "a connection was closed because there are too many");
            continue;
        };
        workers[turn % workers.len()].hand_over(Accepted { stream, permit });
    }
    drop(listener);
    for worker in workers {
        worker.ended().await;
    }
    Ok(())
}
