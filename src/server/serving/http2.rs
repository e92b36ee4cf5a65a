//! HTTP/2 on one connection: takes its calls, answers those whose answer is known at once, and runs the others as tasks.
//!
//! A call that is answered in the turn that accepts it costs no task, no body and no future. Invariants: a turn begins a
//! bounded number of calls, and no more when they were dear; a service that panics over a call at hand breaks that call, and not
//! the connection.

use std::convert::Infallible;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use super::ServingLimits;
use super::call::Call;
use super::connection::ConnectionError;
use super::gathered_turns::GatheredTurns;
use super::keep_alive::KeepAlive;
use super::request_body::RequestBody;
use super::untaken::{SMALL, Tracked, Untaken, Watch};
use crate::observe::origin;
use crate::rpc::at_once::{self, AtOnce};

/// How much a client may send ahead on one connection, and in one call.
const WINDOW: u32 = 1024 * 1024;
/// The largest frame that is taken.
const FRAME_BYTES: u32 = 16 * 1024;
/// The most bytes of one call that wait to be framed.
const SEND_BUFFER: usize = 400 * 1024;
/// The most streams that are reset because of the client's errors; with more the connection is closed.
const LOCAL_RESETS: usize = 1024;
/// A turn begins so many calls at most; the others of the thread have theirs between.
const CALLS_PER_TURN: usize = 512;
/// A turn ends when it has cost so much: about the bytes that it answered.
const TURN_COST: usize = 256 * 1024;
/// What one byte of a request that was looked at costs, in bytes of answers: a request of a byte can ask for more, but a name of
/// something takes a dozen, and what it names some hundred.
const ASKED_COST: usize = 16;

/// HTTP/2 on one connection.
pub struct Http2<T, S, D: Buf> {
    state: State<T, D>,
    service: S,
    untaken: Rc<Untaken<D>>,
    turns: Rc<GatheredTurns>,
    limits: ServingLimits,
    is_draining: bool,
    /// Whether the client did not answer a probe.
    is_dead: bool,
}

enum State<T, D: Buf> {
    Handshake(Box<Handshake<T, Tracked<D>>>),
    Serving { connection: Box<Connection<T, Tracked<D>>>, keep_alive: Option<KeepAlive> },
}

impl<T, S, D> Http2<T, S, D>
where
    T: AsyncRead + AsyncWrite + Unpin,
    D: Buf + 'static,
{
    /// Begins with the client's preface.
    pub fn new(io: T, service: S, limits: ServingLimits) -> Self {
        let handshake = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(limits.streams_per_connection)
            .max_header_list_size(limits.header_bytes)
            .max_local_error_reset_streams(Some(LOCAL_RESETS))
            .max_pending_accept_reset_streams(limits.pending_resets)
            .handshake(io);
        Self {
            state: State::Handshake(Box::new(handshake)),
            service,
            untaken: Untaken::new(limits.keepalive_interval + limits.keepalive_timeout),
            turns: GatheredTurns::new(),
            limits,
            is_draining: false,
            is_dead: false,
        }
    }

    /// Lets the calls that run end, and takes no new ones.
    pub fn drain(&mut self) {
        self.is_draining = true;
        if let State::Serving { connection, .. } = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    /// Whether there is any call, or an answer that HTTP/2 has not sent yet.
    pub fn has_calls(&self) -> bool {
        match &self.state {
            State::Handshake(_) => false,
            State::Serving { connection, .. } => connection.has_streams(),
        }
    }

    /// Notes how many bytes the client has sent by now.
    pub fn note_received(&mut self, received: u64) {
        if let State::Serving { keep_alive: Some(keep_alive), .. } = &mut self.state {
            keep_alive.note(received);
        }
    }

    /// Ready when the connection has ended.
    pub fn poll<B>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>>
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + AtOnce<D>,
        S::Future: 'static,
        B: Body<Data = D, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
        D: From<Bytes>,
    {
        if let State::Handshake(handshake) = &mut self.state {
            let mut connection = Box::new(ready!(Pin::new(&mut **handshake).poll(cx))?);
            if self.is_draining {
                connection.graceful_shutdown();
            }
            let ServingLimits { keepalive_interval, keepalive_timeout, .. } = self.limits;
            let pings = connection.ping_pong();
            let keep_alive = pings.map(|pings| KeepAlive::new(pings, keepalive_interval, keepalive_timeout));
            self.state = State::Serving { connection, keep_alive };
        }
        let State::Serving { connection, keep_alive } = &mut self.state else { return Poll::Pending };
        ready!(self.turns.poll(cx));
        if keep_alive.as_mut().is_some_and(|keep_alive| keep_alive.poll(cx).is_ready()) {
            *keep_alive = None;
            self.is_dead = true;
            // Its calls may end before the connection does.
            origin::cut(origin::peer());
            connection.abrupt_shutdown(Reason::NO_ERROR);
        }
        self.untaken.poll(cx);
        let mut cost = 0;
        for _ in 0..CALLS_PER_TURN {
            match ready!(connection.poll_accept(cx)) {
                Some(call) => {
                    let (request, respond) = call?;
                    cost += begin(&mut self.service, &self.untaken, &self.turns, request, respond);
                    if cost >= TURN_COST {
                        break;
                    }
                }
                None if self.is_dead => return Poll::Ready(Err(ConnectionError::Dead)),
                None => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Answers a call at once, or begins its task. Says what was done for it in this turn.
fn begin<S, B>(
    service: &mut S,
    untaken: &Rc<Untaken<B::Data>>,
    turns: &Rc<GatheredTurns>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Tracked<B::Data>>,
) -> usize
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + AtOnce<B::Data>,
    S::Future: 'static,
    B: Body<Data: From<Bytes>, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let mut request = request.map(RequestBody::new);
    // A count, and no copy.
    let whole = request.body_mut().whole().cloned();
    let asked = ASKED_COST * whole.as_ref().map_or(0, Bytes::len);
    // The message of a panic is the panic hook's business.
    let begun =
        catch_unwind(AssertUnwindSafe(|| match whole.as_ref().and_then(|body| service.at_once(&request, body)) {
            Some(message) => Ok((message, request)),
            None => Err(service.call(request)),
        }));
    match begun {
        Ok(Ok((message, mut request))) => {
            let answered = message.remaining();
            if answered > SMALL {
                // The stream is kept until its answer has gone, and would keep what the request takes of the window.
                request.body_mut().give_back();
            }
            drop(request);
            if let Err(error) = answer(respond, message, untaken) {
                tracing::debug!(%error, "a call's stream ended before its answer");
            }
            asked + answered
        }
        Ok(Err(call)) => {
            tokio::task::spawn_local(Call::new(call, respond, untaken.clone(), turns.clone()));
            asked
        }
        Err(_) => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            asked
        }
    }
}

/// Gives the stream the whole answer. What the client's window does not take waits in the stream.
fn answer<D: Buf>(mut respond: SendResponse<Tracked<D>>, message: D, untaken: &Untaken<D>) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    *response.headers_mut() = at_once::head();
    let mut stream = respond.send_response(response, false)?;
    if message.remaining() <= SMALL {
        stream.send_data(Tracked::unwatched(message), false)?;
        return stream.send_trailers(at_once::trailers());
    }
    let watch = Rc::<Watch>::default();
    stream.send_data(Tracked::watched(message, &watch), false)?;
    stream.send_trailers(at_once::trailers())?;
    untaken.push(respond, watch, 1);
    Ok(())
}
