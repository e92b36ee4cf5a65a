//! One connection: waits for its preface, serves HTTP/2 on it, drains it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::ServingLimits;
use super::gathered_io::gathered;

/// An idle connection is probed this often, and closed when the probe is not answered.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_POLL: Duration = Duration::from_millis(10);
/// A client must have sent the preface within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Spawns a connection's calls on its own thread.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Serves a connection to its end. After `shutdown` it takes no new calls and ends with the last one.
pub async fn serve_connection<S, B>(
    stream: std::net::TcpStream,
    service: S,
    limits: ServingLimits,
    shutdown: CancellationToken,
) -> Result<(), String>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + 'static,
    S::Future: 'static,
    B: http_body::Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::from_std(stream).map_err(|error| error.to_string())?;
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
    let (io, gathered) = gathered(stream);
    // Not hyper-util's adapter: it clones the service for every call, and the clones of all threads would share
    // their reference counts.
    let service = RefCell::new(service);
    let service = service_fn(move |request| service.borrow_mut().call(request));
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut shutdown = pin!(shutdown.cancelled());
    let (mut draining, mut ended) = (false, None);
    poll_fn(|cx| {
        if !draining && shutdown.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        if ended.is_none()
            && let Poll::Ready(result) = connection.as_mut().poll(cx)
        {
            ended = Some(result.map_err(|error| error.to_string()));
        }
        // Everything that the connection wrote in this turn leaves in one call.
        match gathered.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
            Poll::Ready(Ok(())) => ended.take().map_or(Poll::Pending, Poll::Ready),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
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
