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
//! and ended by it, at the latest when the drain's time is over; `serve` returns when all workers have ended, and
//! with an error when one of them ends before it should.
//!
//! Still to come, with their places. TLS goes around the socket in `worker::prepared`, within the time of the
//! handshake: [`serve_connection`] and `gathered_io` take anything that is `AsyncRead + AsyncWrite`. Who the caller is
//! gets decided by a service around the whole stack that [`serve`] is given, in front of the fast lane, so that no way
//! to an answer leads past it; what a client certificate says reaches it as an extension of the request.

mod call;
mod connection;
mod figures;
mod gathered_io;
mod gathered_turns;
mod http2;
mod keep_alive;
mod request_body;
mod stall;
mod throttle;
mod untaken;
mod worker;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service;

pub use self::connection::{ConnectionError, serve_connection};
use self::figures::End;
pub use self::figures::ServingFigures;
pub use self::request_body::RequestBody;
use self::throttle::Throttle;
use self::worker::{Accepted, Ends, Worker};
use crate::rpc::at_once::AtOnce;

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
    /// The most calls of one connection that were reset before they were begun; with more it is closed.
    pub pending_resets: usize,
    /// How long a client may take to send the preface.
    pub handshake_timeout: Duration,
    /// An idle connection is probed this often.
    pub keepalive_interval: Duration,
    /// How long a client may take to answer a probe. One that reads nothing at all is given up after this and
    /// the interval.
    pub keepalive_timeout: Duration,
    /// After about this time a connection is drained, so that clients spread anew; zero for never.
    pub connection_age: Duration,
    /// How long the calls of a connection that is too old may go on.
    pub connection_age_grace: Duration,
    /// How long a drain waits for calls in flight.
    pub drain_timeout: Duration,
}

impl Default for ServingLimits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            streams_per_connection: 256,
            header_bytes: 16 * 1024,
            pending_resets: 20,
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
            connection_age: Duration::from_secs(3600),
            connection_age_grace: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(25),
        }
    }
}

/// Serves on `threads` threads until `shutdown` is cancelled, then drains: no new connections, calls in flight
/// end, and what has not ended in time is cut. Fails when a thread cannot be started, or panics.
///
/// Each connection has a clone of the service, which is called without being asked whether it is ready.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    threads: usize,
    limits: ServingLimits,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
        + AtOnce<B::Data>
        + Clone
        + Send
        + 'static,
    S::Future: 'static,
    B: http_body::Body<Data: From<Bytes>, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    serve_counted(listener, service, threads, limits, Arc::default(), shutdown).await
}

/// The same, with figures of the connections and threads.
pub async fn serve_counted<S, B>(
    listener: TcpListener,
    service: S,
    threads: usize,
    limits: ServingLimits,
    figures: Arc<ServingFigures>,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
        + AtOnce<B::Data>
        + Clone
        + Send
        + 'static,
    S::Future: 'static,
    B: http_body::Body<Data: From<Bytes>, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    // The workers' own: also when this future is dropped, they end.
    let ending = shutdown.child_token();
    let _ended_with_this_call = ending.clone().drop_guard();
    let failed = CancellationToken::new();
    let workers: Vec<_> = (0..threads.max(1))
        // A token each: the lock inside one that all threads share would be taken in every turn of every connection.
        .map(|number| {
            let ends = Ends { shutdown: ending.child_token(), failed: failed.clone() };
            Worker::start(number, service.clone(), limits, figures.clone(), ends)
        })
        .collect::<Result<_, _>>()?;
    tokio::select! {
        () = ending.cancelled() => {}
        () = failed.cancelled() => ending.cancel(),
        () = accept(&listener, &workers, limits.connections, &figures) => {}
    }
    drop(listener);
    for worker in workers {
        worker.ended().await;
    }
    if failed.is_cancelled() {
        return Err(io::Error::other("a serving thread panicked"));
    }
    Ok(())
}

/// Accepts connections and hands them out in turn. Does not end by itself.
async fn accept(listener: &TcpListener, workers: &[Worker], limit: usize, figures: &ServingFigures) {
    let permits = Arc::new(Semaphore::new(limit));
    let (mut refused, mut failures) = (Throttle::new(), Throttle::new());
    for worker in workers.iter().cycle() {
        loop {
            let stream = match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    figures.fail();
                    if let Some(times) = failures.note() {
                        tracing::warn!(%error, times, "connections could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Ok(permit) = permits.clone().try_acquire_owned() {
                figures.accept();
                if !worker.hand_over(Accepted { stream, permit }) {
                    figures.end(End::Closed, 1);
                }
                break;
            }
            figures.refuse();
            if let Some(connections) = refused.note() {
                tracing::warn!(limit, connections, "connections were closed because there are too many");
            }
        }
    }
}
