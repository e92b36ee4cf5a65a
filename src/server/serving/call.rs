//! One call that is not answered at once: its service's future, then its answer's body on the way into the stream.
//!
//! Invariants: of an answer one piece at most waits for the client's window; a client that takes its call back ends the
//! call, also while it is computed or its body waits; one that does not take what waits for it has its call reset, while the body
//! goes on here, and after that by [`Untaken`]. A call with nothing to send may wait for as long as it likes. One that panics
//! is reset as an error of the server's.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderValue, Response, header};
use http_body::Body;
use pin_project_lite::pin_project;

use super::gathered_turns::GatheredTurns;
use super::stall::Stall;
use super::untaken::{NOT_TAKEN, SMALL, Tracked, Untaken, Watch};

/// So many times as long as others may an answer of several pieces wait: what a client tells the server is what its own
/// library has handed on, and many hand on half a megabyte at a time. Whoever takes some of a stream slowly must not be taken for one
/// that takes nothing.
const STREAM_PATIENCE: u32 = 8;

pin_project! {
    /// A call.
    pub struct Call<F, B: Body> {
        // `None` when the answer was given to the stream.
        respond: Option<SendResponse<Tracked<B::Data>>>,
        untaken: Rc<Untaken<B::Data>>,
        turns: Rc<GatheredTurns>,
        #[pin]
        state: State<F, B>,
    }

    impl<F, B: Body> PinnedDrop for Call<F, B> {
        fn drop(this: Pin<&mut Self>) {
            // A panic of the call drops it while it unwinds. Otherwise its caller would see it cancelled.
            if std::thread::panicking() && let Some(respond) = this.project().respond {
                respond.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, B: Body> {
        Computing {
            #[pin]
            answer: F,
        },
        Sending {
            #[pin]
            body: B,
            sending: Sending<B::Data>,
        },
    }
}

/// The way of an answer's body into its stream.
struct Sending<D: Buf> {
    stream: SendStream<Tracked<D>>,
    /// A piece that waits for the client's window.
    waiting: Option<Piece<D>>,
    /// There as soon as there was a piece that is not small.
    watch: Option<Rc<Watch>>,
    stall: Stall,
    /// Whether a piece has gone and another one followed it.
    is_stream: bool,
    has_sent: bool,
}

struct Piece<D: Buf> {
    data: Tracked<D>,
    is_last: bool,
}

impl<F, B: Body> Call<F, B> {
    /// A call that is answered with what the future gives.
    pub fn new(
        answer: F,
        respond: SendResponse<Tracked<B::Data>>,
        untaken: Rc<Untaken<B::Data>>,
        turns: Rc<GatheredTurns>,
    ) -> Self {
        Self { respond: Some(respond), untaken, turns, state: State::Computing { answer } }
    }
}

impl<F, B> Call<F, B>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data: From<Bytes>, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    /// Ready when everything was given to the stream; fails when the stream has ended before.
    fn poll_call(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let mut this = self.project();
        loop {
            let Some(respond) = this.respond.as_mut() else { return Poll::Ready(Ok(())) };
            let next = match this.state.as_mut().project() {
                StateProjection::Computing { answer } => {
                    let Poll::Ready(Ok(response)) = answer.poll(cx) else {
                        return respond.poll_reset(cx).map(|reset| reset.map(|_| ()));
                    };
                    this.turns.put_off();
                    match begin(respond, response)? {
                        Some((stream, body)) => {
                            let stall = Stall::new(this.untaken.patience());
                            State::Sending { body, sending: Sending::new(stream, stall) }
                        }
                        None => return Poll::Ready(Ok(())),
                    }
                }
                StateProjection::Sending { body, sending } => {
                    let sent = sending.poll_body(body, this.turns, cx)?;
                    if sent.is_pending() && sending.poll_stall(cx).is_ready() {
                        tracing::debug!("a call whose answer its client does not take was reset");
                        respond.send_reset(NOT_TAKEN);
                        return Poll::Ready(Ok(()));
                    }
                    ready!(sent);
                    if let Some(watch) = sending.watch.take().filter(|watch| watch.held() > 0)
                        && let Some(respond) = this.respond.take()
                    {
                        this.untaken.push(respond, watch, if sending.is_stream { STREAM_PATIENCE } else { 1 });
                    }
                    return Poll::Ready(Ok(()));
                }
            };
            this.state.set(next);
        }
    }
}

/// A body, and the stream that it goes into.
type Flow<B> = (SendStream<Tracked<<B as Body>::Data>>, B);

/// Sends the head of an answer. Gives what goes on, if the answer is not over.
fn begin<B: Body>(
    respond: &mut SendResponse<Tracked<B::Data>>,
    response: Response<B>,
) -> Result<Option<Flow<B>>, h2::Error> {
    let (mut head, body) = response.into_parts();
    let is_over = body.is_end_stream();
    if let Some(bytes) = body.size_hint().exact().filter(|_| !is_over) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(bytes));
    }
    let sent = respond.send_response(Response::from_parts(head, ()), is_over);
    let stream = sent.inspect_err(|_| respond.send_reset(Reason::INTERNAL_ERROR))?;
    Ok((!is_over).then_some((stream, body)))
}

impl<D: Buf + From<Bytes>> Sending<D> {
    fn new(stream: SendStream<Tracked<D>>, stall: Stall) -> Self {
        Self { stream, waiting: None, watch: None, stall, is_stream: false, has_sent: false }
    }

    /// Ready when the whole body was given to the stream, or the client has taken the call back.
    fn poll_body<B>(
        &mut self,
        mut body: Pin<&mut B>,
        turns: &Rc<GatheredTurns>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>>
    where
        B: Body<Data = D, Error: Into<Box<dyn Error + Send + Sync>>>,
    {
        let stream = &mut self.stream;
        loop {
            if let Some(piece) = self.waiting.take() {
                // The next piece is asked for when the client takes some of this one.
                while piece.data.has_remaining() && stream.capacity() == 0 {
                    match stream.poll_capacity(cx) {
                        Poll::Ready(Some(more)) => _ = more?,
                        // The client has taken the call back.
                        Poll::Ready(None) => return Poll::Ready(Ok(())),
                        Poll::Pending => {
                            self.waiting = Some(piece);
                            return Poll::Pending;
                        }
                    }
                }
                // It is taken only when those before it have gone.
                self.stall.restart();
                if std::mem::replace(&mut self.has_sent, true) && !self.is_stream {
                    self.is_stream = true;
                    self.stall.be_patient(STREAM_PATIENCE);
                }
                turns.put_off();
                stream.send_data(piece.data, piece.is_last)?;
                if piece.is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
                return Poll::Ready(ready!(stream.poll_reset(cx)).map(|_| ()));
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        // Not all of it: what one stream asks for ahead is not there for the others of the connection.
                        stream.reserve_capacity(data.remaining().min(1));
                        let data = match data.remaining() {
                            0..=SMALL => Tracked::unwatched(data),
                            _ => Tracked::watched(data, self.watch.get_or_insert_default()),
                        };
                        self.waiting = Some(Piece { data, is_last: body.is_end_stream() });
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            stream.reserve_capacity(0);
                            turns.put_off();
                            return Poll::Ready(stream.send_trailers(trailers));
                        }
                    }
                },
                Some(Err(error)) => {
                    stream.send_reset(reason_of(&*error.into()));
                    return Poll::Ready(Ok(()));
                }
                None => return Poll::Ready(stream.send_data(Bytes::new().into(), true)),
            }
        }
    }

    /// Ready when the client has not taken what waits for it for too long.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (held, gone) = self.watch.as_ref().map_or((0, 0), |watch| (watch.held(), watch.gone()));
        self.stall.poll(self.waiting.is_some() || held > 0, gone, cx)
    }
}

/// What to tell the client of a body that failed.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (**error).source())
        .find_map(|error| error.downcast_ref::<h2::Error>())
        .and_then(h2::Error::reason)
        .unwrap_or(Reason::INTERNAL_ERROR)
}

impl<F, B> Future for Call<F, B>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data: From<Bytes>, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_call(cx).map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(%error, "a call's stream ended before its answer");
            }
        })
    }
}
