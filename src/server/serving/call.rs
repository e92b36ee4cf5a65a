//! One call that is not answered at once: its service's future, then its answer's body on the way into the stream.
//!
//! Invariants: of an answer one piece at most waits for the client's window; a client that takes its call back ends the
//! call, also while it is computed or its body waits.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderValue, Response, header};
use http_body::Body;
use pin_project_lite::pin_project;

pin_project! {
    /// A call.
    pub struct Call<F, B: Body> {
        respond: SendResponse<B::Data>,
        #[pin]
        state: State<F, B>,
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
            stream: SendStream<B::Data>,
            // A piece that waits for the client's window.
            waiting: Option<Piece<B::Data>>,
        },
    }
}

struct Piece<D> {
    data: D,
    is_last: bool,
}

impl<F, B: Body> Call<F, B> {
    /// A call that is answered with what the future gives.
    pub fn new(answer: F, respond: SendResponse<B::Data>) -> Self {
        Self { respond, state: State::Computing { answer } }
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
            let next = match this.state.as_mut().project() {
                StateProjection::Computing { answer } => {
                    let Poll::Ready(Ok(response)) = answer.poll(cx) else {
                        return this.respond.poll_reset(cx).map(|reset| reset.map(|_| ()));
                    };
                    match begin(this.respond, response)? {
                        Some((stream, body)) => State::Sending { body, stream, waiting: None },
                        None => return Poll::Ready(Ok(())),
                    }
                }
                StateProjection::Sending { body, stream, waiting } => return poll_body(body, stream, waiting, cx),
            };
            this.state.set(next);
        }
    }
}

/// A body, and the stream that it goes into.
type Flow<B> = (SendStream<<B as Body>::Data>, B);

/// Sends the head of an answer. Gives what goes on, if the answer is not over.
fn begin<B: Body>(respond: &mut SendResponse<B::Data>, response: Response<B>) -> Result<Option<Flow<B>>, h2::Error> {
    let (mut head, body) = response.into_parts();
    let is_over = body.is_end_stream();
    if let Some(bytes) = body.size_hint().exact().filter(|_| !is_over) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(bytes));
    }
    let sent = respond.send_response(Response::from_parts(head, ()), is_over);
    let stream = sent.inspect_err(|_| respond.send_reset(Reason::INTERNAL_ERROR))?;
    Ok((!is_over).then_some((stream, body)))
}

fn poll_body<B>(
    mut body: Pin<&mut B>,
    stream: &mut SendStream<B::Data>,
    waiting: &mut Option<Piece<B::Data>>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>>
where
    B: Body<Data: From<Bytes>, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    loop {
        if let Some(piece) = waiting.take() {
            // The next piece is asked for when the client takes some of this one.
            while piece.data.has_remaining() && stream.capacity() == 0 {
                match stream.poll_capacity(cx) {
                    Poll::Ready(Some(more)) => _ = more?,
                    // The client has taken the call back.
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => {
                        *waiting = Some(piece);
                        return Poll::Pending;
                    }
                }
            }
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
                    *waiting = Some(Piece { data, is_last: body.is_end_stream() });
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        stream.reserve_capacity(0);
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
