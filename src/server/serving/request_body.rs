//! The body of a request, as HTTP/2 brings it.
//!
//! Invariant: the client may send more only for what was taken: a piece counts against the windows until then.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};

/// What a poll of the stream gave.
type Read = Result<Bytes, h2::Error>;

/// The body of a request.
#[derive(Debug)]
pub struct RequestBody {
    stream: RecvStream,
    /// What was read before anybody asked for it.
    read: [Option<Read>; 2],
    /// Whether only trailers may come.
    is_read: bool,
}

impl RequestBody {
    /// The body that comes in a stream.
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, read: [None, None], is_read: false }
    }

    /// The whole body, if all of it is there in one piece, maybe with an empty one behind it that ends it. Nobody is
    /// woken when more comes. To be asked once, before the body is polled.
    pub fn whole(&mut self) -> Option<&Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        for place in 0..2 {
            if self.stream.is_end_stream() {
                break;
            }
            let Poll::Ready(Some(read)) = self.stream.poll_data(&mut cx) else { return None };
            self.read[place] = Some(read);
        }
        match &self.read {
            [Some(Ok(data)), rest] if self.stream.is_end_stream() => {
                let is_all = rest.as_ref().is_none_or(|rest| rest.as_ref().is_ok_and(Bytes::is_empty));
                is_all.then_some(data)
            }
            _ => None,
        }
    }

    /// Lets the client send as much again as was read and is not asked for any more.
    pub fn give_back(&mut self) {
        for data in self.read.iter_mut().filter_map(Option::take).flatten() {
            // It fails for a stream that has ended, which takes no more.
            let _ = self.stream.flow_control().release_capacity(data.len());
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        if self.is_read {
            return Poll::Ready(None);
        }
        let read = match self.read.iter_mut().find_map(Option::take) {
            Some(read) => Some(read),
            None => ready!(self.stream.poll_data(cx)),
        };
        self.is_read = read.is_none();
        if let Some(Ok(data)) = &read {
            // It fails for a stream that has ended, which takes no more.
            let _ = self.stream.flow_control().release_capacity(data.len());
        }
        Poll::Ready(read)
    }
}

/// A stream that was reset for no error ends early, and is not broken (RFC 9113, section 8.1).
fn unless_early_end(error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.poll_data(cx)) {
            Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Err(error)) => return Poll::Ready(unless_early_end(error)),
            None => {}
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => unless_early_end(error),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.read.iter().all(Option::is_none) && self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
