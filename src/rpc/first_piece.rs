//! A request's body, read in the hope that it is one message in one piece.
//!
//! That is what clients send for all but the largest requests, some with an empty piece behind it that ends it. What
//! was read of any other body is handed on together with its rest ([`ReplayBody`]), as if nobody had looked.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body::{Body, Frame, SizeHint};

/// The content type of the calls that the lanes know.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a request is, by its head, a call with an uncompressed message.
pub fn is_plain<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST
        && request.headers().get(header::CONTENT_TYPE) == Some(&CONTENT_TYPE)
        && !request.headers().contains_key("grpc-encoding")
}

/// What one poll of a body gave.
type Polled<B> = Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

/// A body whose beginning is being read.
pub struct FirstPiece<B: Body> {
    /// What its polls gave, in order.
    read: [Option<Polled<B>>; 2],
    rest: B,
}

impl<B: Body<Data = Bytes> + Unpin> FirstPiece<B> {
    /// A body of which nothing was read.
    pub fn new(body: B) -> Self {
        Self { read: [None, None], rest: body }
    }

    /// Reads until it is known whether the body is a single piece of data. Not to be called again after that, but it may be
    /// replayed at any time.
    pub fn poll_single(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let polled = ready!(Pin::new(&mut self.rest).poll_frame(cx));
            let data = match &polled {
                Some(Ok(frame)) => frame.data_ref(),
                _ => None,
            };
            let ends = polled.is_none() || (data.is_some() && self.rest.is_end_stream());
            let (place, is_single, goes_on) = if self.read[0].is_none() {
                (0, data.is_some() && ends, data.is_some() && !ends)
            } else {
                (1, ends && data.is_none_or(Bytes::is_empty), false)
            };
            self.read[place] = Some(polled);
            if !goes_on {
                return Poll::Ready(is_single);
            }
        }
    }

    /// Whether nothing of it was read yet.
    pub fn is_untouched(&self) -> bool {
        self.read[0].is_none()
    }

    /// The first piece, once it was read.
    pub fn data(&self) -> Option<&Bytes> {
        match &self.read[0] {
            Some(Some(Ok(frame))) => frame.data_ref(),
            _ => None,
        }
    }

    /// The whole body, as if nothing had been read.
    pub fn replay(self) -> ReplayBody<B> {
        ReplayBody { read: self.read, rest: self.rest }
    }
}

/// A body from which something may have been read: that comes first, then the rest.
pub struct ReplayBody<B: Body> {
    read: [Option<Polled<B>>; 2],
    rest: B,
}

impl<B: Body> ReplayBody<B> {
    /// A body of which nothing was read.
    pub fn untouched(body: B) -> Self {
        Self { read: [None, None], rest: body }
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body + Unpin,
    B::Data: Unpin,
    B::Error: Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        match this.read.iter_mut().find_map(Option::take) {
            Some(read) => Poll::Ready(read),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.iter().all(Option::is_none) && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.read.iter().any(Option::is_some) { SizeHint::default() } else { self.rest.size_hint() }
    }
}
