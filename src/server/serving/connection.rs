//! One connection: waits for its preface, serves HTTP/2 on it, drains it.
//!
//! Invariants: a connection never waits for its client without an end. The preface must come in the handshake's
//! time; an idle connection is probed; a client that takes nothing of what is sent to it is given up after the time
//! of a probe; a connection that is old is drained, and cut when its calls go on for longer than the grace; one that drains, has no calls and hears nothing is closed. A
//! client that reads gets everything that was answered: the socket is closed after the client's side, or a while after.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::ServingLimits;
use super::executor::LocalExecutor;
use super::gathered_io::{Progress, gathered};
use super::http2::Http2;
use super::request_body::RequestBody;
use crate::rpc::at_once::AtOnce;

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection's age differs from the limit by up to this part of it, so that connections that were opened
/// together do not all come back together.
const AGE_JITTER: f64 = 0.1;
/// A connection that drains and has no calls is closed after this time when its client says nothing at all.
const SILENT_DRAIN: Duration = Duration::from_secs(5);
/// How long a client that has got everything may take to close its side.
const LAST_READ: Duration = Duration::from_secs(10);
/// A client whose socket is full must take at least this much in the time of a probe: what waits for it is not charged to
/// anything, and a byte now and then would keep it for as long as the connection lives.
const LEAST_TAKEN: u64 = 4096;
/// A time that nothing reaches.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Why a connection ended before its client or the server wanted it to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed, or the client did not speak HTTP/2 from the first byte.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What the client sent is not HTTP/2, or it went away with calls in flight.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// A probe was not answered in time.
    #[error("the client did not answer a probe in time")]
    Dead,
    /// The preface was not there in time.
    #[error("the client sent no HTTP/2 preface in time")]
    NoPreface,
    /// The client read nothing for as long as an idle one may take to answer a probe.
    #[error("the client takes nothing of what is sent to it")]
    Stalled,
    /// The connection was drained, had no calls, and the client did not answer that it makes no more.
    #[error("the client said nothing while its connection was drained")]
    Silent,
    /// Calls went on after the connection was too old.
    #[error("the connection was too old, and its calls did not end within the grace")]
    TooOld,
}

/// Serves a connection to its end. After `shutdown`, or when it is old, it takes no new calls and ends with the last
/// one. Must run in a `LocalSet`, on which the calls run too.
///
/// `stream` is anything that is read and written: a TCP socket, or what encrypts one.
pub async fn serve_connection<T, S, B>(
    mut stream: T,
    service: S,
    limits: ServingLimits,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + AtOnce<B::Data>,
    S::Future: 'static,
    B: http_body::Body<Data: From<Bytes>, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        spoke = tokio::time::timeout(limits.handshake_timeout, preface(&mut stream)) => match spoke {
            Ok(spoke) => spoke?,
            Err(_) => return Err(ConnectionError::NoPreface),
        },
    }
    let (io, gathered) = gathered(stream, PREFACE);
    let executor = LocalExecutor::default();
    let calls = executor.calls();
    let mut connection = Http2::new(io, service, executor, limits);
    let mut shutdown = pin!(shutdown.cancelled());
    let mut age = Age::new(&limits);
    let mut stall = Stall::new(limits.keepalive_interval + limits.keepalive_timeout);
    let mut drain: Option<Drain> = None;
    let mut ended = None;
    poll_fn(|cx| {
        let old = age.poll(cx);
        if old == Some(Old::Cut) {
            return Poll::Ready(Err(ConnectionError::TooOld));
        }
        if drain.is_none() && (old.is_some() || shutdown.as_mut().poll(cx).is_ready()) {
            drain = Some(Drain::new(calls.clone(), gathered.progress()));
            connection.drain();
        }
        if drain.as_mut().is_some_and(|drain| drain.poll(gathered.progress(), cx).is_ready()) {
            return Poll::Ready(Err(ConnectionError::Silent));
        }
        if ended.is_none()
            && let Poll::Ready(result) = connection.poll(cx)
        {
            ended = Some(result);
        }
        connection.note_received(gathered.progress().received);
        // Everything that the connection wrote in this turn leaves in one call.
        let sent = gathered.poll_send(cx)?;
        if stall.poll(gathered.progress(), cx).is_ready() {
            return Poll::Ready(Err(ConnectionError::Stalled));
        }
        match ended.take() {
            Some(result) if sent.is_ready() => Poll::Ready(result),
            not_yet => {
                ended = not_yet;
                Poll::Pending
            }
        }
    })
    .await?;
    // Whether the client has closed its side by then or not.
    let _ = tokio::time::timeout(LAST_READ, gathered.read_out()).await;
    Ok(())
}

/// Reads the whole preface: hyper would wait for it without an end.
async fn preface(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut bytes = [0; PREFACE.len()];
    let mut read = 0;
    while read < PREFACE.len() {
        let more = stream.read(&mut bytes[read..]).await?;
        read += more;
        if more == 0 || !PREFACE.starts_with(&bytes[..read]) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak HTTP/2"));
        }
    }
    Ok(())
}

/// What the age of a connection asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Old {
    /// Its calls shall end and no new ones begin.
    Drain,
    /// Its calls had time enough.
    Cut,
}

/// The age of a connection.
struct Age {
    timer: Pin<Box<Sleep>>,
    grace: Duration,
    old: Option<Old>,
}

impl Age {
    fn new(limits: &ServingLimits) -> Self {
        let age = match limits.connection_age {
            Duration::ZERO => NEVER,
            age => age.mul_f64(rand::random_range(1.0 - AGE_JITTER..=1.0 + AGE_JITTER)),
        };
        Self { timer: Box::pin(sleep(age)), grace: limits.connection_age_grace, old: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Old> {
        while self.old != Some(Old::Cut) && self.timer.as_mut().poll(cx).is_ready() {
            self.old = match self.old {
                None => Some(Old::Drain),
                Some(_) => Some(Old::Cut),
            };
            self.timer.as_mut().reset(Instant::now() + self.grace);
        }
        self.old
    }
}

/// A drain waits for calls, and for the client to answer that it makes no more of them. One that is gone does not.
struct Drain {
    calls: Rc<Cell<usize>>,
    timer: Pin<Box<Sleep>>,
    /// What the client had sent when the drain began. One that has sent anything since is there, and what it has not
    /// read yet may wait for it.
    received: u64,
}

impl Drain {
    fn new(calls: Rc<Cell<usize>>, progress: Progress) -> Self {
        Self { calls, timer: Box::pin(sleep(SILENT_DRAIN)), received: progress.received }
    }

    /// Ready when there is nobody to wait for.
    fn poll(&mut self, progress: Progress, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.calls.get() == 0 && progress.received == self.received {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(Instant::now() + SILENT_DRAIN);
        }
        Poll::Pending
    }
}

/// Finds out that a socket takes nothing any more.
struct Stall {
    patience: Duration,
    /// Runs from the last progress while the socket is blocked.
    timer: Option<Pin<Box<Sleep>>>,
    seen: Progress,
}

impl Stall {
    fn new(patience: Duration) -> Self {
        Self { patience, timer: None, seen: Progress::default() }
    }

    /// Ready when the socket has been blocked without any progress for too long.
    fn poll(&mut self, progress: Progress, cx: &mut Context<'_>) -> Poll<()> {
        if !progress.blocked {
            self.timer = None;
            return Poll::Pending;
        }
        if self.timer.is_none() || progress.sent >= self.seen.sent + LEAST_TAKEN {
            self.timer = Some(Box::pin(sleep(self.patience)));
            self.seen = progress;
        }
        self.timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_a_little_now_and_then_is_not_given_up() {
        let patience = Duration::from_secs(80);
        let mut stall = Stall::new(patience);
        let mut ready = async |sent, blocked| {
            let progress = Progress { sent, received: 0, blocked };
            futures_util::poll!(poll_fn(|cx| stall.poll(progress, cx))).is_ready()
        };
        for sent in (0..10).map(|taken| taken * LEAST_TAKEN) {
            assert!(!ready(sent, true).await);
            tokio::time::advance(patience - Duration::from_secs(1)).await;
            assert!(!ready(sent, true).await);
        }
        // Less than that is nothing.
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(ready(10 * LEAST_TAKEN - 1, true).await);
        // Whoever has nothing to send waits for nothing.
        assert!(!ready(9, false).await);
        tokio::time::advance(patience * 2).await;
        assert!(!ready(9, false).await && !ready(9, true).await);
        tokio::time::advance(patience).await;
        assert!(ready(9, true).await);
    }
}
