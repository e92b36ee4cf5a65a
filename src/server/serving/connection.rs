//! One connection: waits for its preface, serves HTTP/2 on it, drains it.
//!
//! Invariants: a connection never waits for its client without an end. The preface must come in the handshake's
//! time; an idle connection is probed; a client that takes nothing of what is sent to it is given up after the time
//! of a probe; a connection that is old is drained, and cut when its calls go on for longer than the grace; one that drains, has
//! nothing more to send and hears nothing is closed, unless its client may still be reading what it was sent. A
//! client that reads gets everything that was answered: the socket is closed after the client's side, or a while after.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::ServingLimits;
use super::gathered_io::{Progress, gathered};
use super::http2::Http2;
use super::request_body::RequestBody;
use super::stall::{LEAST_TAKEN, Stall};
use crate::rpc::at_once::AtOnce;

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection's age differs from the limit by up to this part of it, so that connections that were opened
/// together do not all come back together.
const AGE_JITTER: f64 = 0.1;
/// A connection that drains and has nothing more to send is closed when its client says nothing at all for this time.
const SILENT_DRAIN: Duration = Duration::from_secs(5);
/// How long a client that has read everything may take to close its side.
const LAST_READ: Duration = Duration::from_secs(10);
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

impl ConnectionError {
    /// Whether the server has given the connection up, and not its client.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Io(_) | Self::Http2(_) | Self::NoPreface => false,
            Self::Dead | Self::Stalled | Self::Silent | Self::TooOld => true,
        }
    }
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
    let mut connection = Http2::new(io, service, limits);
    let mut shutdown = pin!(shutdown.cancelled());
    let mut age = Age::new(&limits);
    let patience = limits.keepalive_interval + limits.keepalive_timeout;
    let mut stall = Stall::new(patience);
    let mut drain: Option<Drain> = None;
    // What had moved when the client was heard last.
    let mut heard = Progress::default();
    let mut ended = None;
    poll_fn(|cx| {
        let old = age.poll(cx);
        if old == Some(Old::Cut) {
            return Poll::Ready(Err(ConnectionError::TooOld));
        }
        if drain.is_none() && (old.is_some() || shutdown.as_mut().poll(cx).is_ready()) {
            drain = Some(Drain::new(gathered.progress()));
            connection.drain();
        }
        if let Some(drain) = &mut drain {
            let progress = gathered.progress();
            let may_read = || progress.blocked || unheard(progress, heard) > LEAST_TAKEN || connection.has_calls();
            if drain.poll(progress.received, may_read, cx).is_ready() {
                return Poll::Ready(Err(ConnectionError::Silent));
            }
        }
        if ended.is_none()
            && let Poll::Ready(result) = connection.poll(cx)
        {
            ended = Some(result);
        }
        let progress = gathered.progress();
        if progress.received != heard.received {
            heard = progress;
            connection.note_received(progress.received);
        }
        // Everything that the connection wrote in this turn leaves in one call.
        let sent = gathered.poll_send(cx)?;
        let progress = gathered.progress();
        if stall.poll(progress.blocked, progress.sent, cx).is_ready() {
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
    let may_read = unheard(gathered.progress(), heard) > LEAST_TAKEN;
    // Whether the client has closed its side by then or not.
    let _ = tokio::time::timeout(if may_read { patience } else { LAST_READ }, gathered.read_out()).await;
    Ok(())
}

/// The bytes that were sent since the client was heard last. They may lie in the buffers of both machines, and closing the
/// socket can lose them.
fn unheard(now: Progress, heard: Progress) -> u64 {
    now.sent - heard.sent
}

/// Reads the whole preface. HTTP/2 would wait for it without an end.
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

/// A drain waits for calls, for a client that may be reading, and for the client to answer that it makes no more calls. One that
/// is gone does not.
struct Drain {
    timer: Pin<Box<Sleep>>,
    /// What the client had sent when it was looked at last. One that has sent anything since is there.
    received: u64,
}

impl Drain {
    fn new(progress: Progress) -> Self {
        Self { timer: Box::pin(sleep(SILENT_DRAIN)), received: progress.received }
    }

    /// Ready when there is nobody to wait for.
    fn poll(&mut self, received: u64, may_read: impl Fn() -> bool, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if received == self.received && !may_read() {
                return Poll::Ready(());
            }
            self.received = received;
            self.timer.as_mut().reset(Instant::now() + SILENT_DRAIN);
        }
        Poll::Pending
    }
}
