//! The serving loop of gRPC: accepts connections, serves HTTP/2 on each, drains them.
//!
//! Invariants: there are never more connections than the bound; every connection's task is owned by the
//! loop and ended by it, at the latest when the drain's time is over.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service;

/// An idle connection is probed this often, and closed when the probe is not answered.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// After an error of accept (such as too many open files) the loop pauses, or it would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_POLL: Duration = Duration::from_millis(10);
/// A client must have sent the preface within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The bounds of the serving loop.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// The most connections; more are closed at once.
    pub connections: usize,
    /// The most calls in flight on one connection.
    pub streams_per_connection: u32,
    /// The most bytes of a call's headers.
    pub header_bytes: u32,
    /// How long a drain waits for calls in flight.
    pub drain_timeout: Duration,
}

/// Serves until `shutdown` is cancelled, then drains: no new connections, calls in flight end, and what
/// has not ended in time is cut.
pub async fn serve<S, B>(listener: TcpListener, service: S, limits: ListenerLimits, shutdown: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            // Ended connections are forgotten as they end.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
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
        let (service, shutdown) = (service.clone(), shutdown.clone());
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = serve_connection(stream, service, limits, shutdown).await {
                tracing::debug!(error, "a connection ended with an error");
            }
        });
    }
    drop(listener);
    let drained =
        tokio::time::timeout(limits.drain_timeout, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "cut connections that did not drain in time");
        connections.shutdown().await;
    }
}

async fn serve_connection<S, B>(
    stream: TcpStream,
    service: S,
    limits: ListenerLimits,
    shutdown: CancellationToken,
) -> Result<(), String>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Without this small answers would wait for the client's acknowledgements.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        spoke = tokio::time::timeout(HANDSHAKE_TIMEOUT, preface(&stream)) => match spoke {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the client sent no HTTP/2 preface in time".into()),
        },
    }
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(|error| error.to_string()),
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(|error| error.to_string())
}

/// Waits for the whole preface, because hyper would wait for it without an end.
async fn preface(stream: &TcpStream) -> io::Result<()> {
    let mut bytes = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut bytes).await?;
        if length == 0 || !PREFACE.starts_with(&bytes[..length]) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak HTTP/2"));
        }
        if length == PREFACE.len() {
            return Ok(());
        }
        // Part of it is here, so the socket stays readable and cannot tell when there is more.
        tokio::time::sleep(PREFACE_POLL).await;
    }
}
