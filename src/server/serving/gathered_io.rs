//! A socket whose writes are gathered.
//!
//! An HTTP/2 connection writes an answer in several pieces and flushes after each larger one, so that every
//! answer would cost a system call of its own. Here a write goes to a buffer, a flush does nothing, and whoever
//! drives the connection calls [`Gathered::poll_send`] once after each of its turns: the answers to all calls
//! that came in together leave together.
//!
//! Invariants: bytes leave in the order in which they were written, each once; a full buffer is sent before
//! more is taken, and when the socket takes nothing the writer waits (back-pressure); what is written is sent
//! before a shutdown; a connection that has nothing to send holds no buffer. What moves can be seen from outside
//! ([`Gathered::progress`]), so that a peer that takes nothing or says nothing can be given up.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that wait to be sent.
const BUFFER_BYTES: usize = 64 * 1024;
/// A write of this size is not copied when the socket can take it at once. More than a frame of the size that clients
/// take by default (16 KiB): for those a copy is cheaper than a system call for each.
const LARGE_WRITE: usize = 32 * 1024;

thread_local! {
    /// The buffer that was used last on this thread, for the next connection that has something to send.
    static SPARE: Cell<Option<Vec<u8>>> = const { Cell::new(None) };
}

struct Socket<T> {
    stream: T,
    /// What was read from the stream before the connection began; it is read first.
    read_ahead: &'static [u8],
    /// What was written and not sent, from `sent` on. Without capacity while there is nothing.
    buffer: Vec<u8>,
    sent: usize,
    progress: Progress,
}

/// What has moved through a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// All bytes that the socket took.
    pub sent: u64,
    /// All bytes that the socket gave.
    pub received: u64,
    /// Whether the socket did not take the last that was offered.
    pub blocked: bool,
}

/// The socket as the connection sees it.
pub struct GatheredIo<T>(Rc<RefCell<Socket<T>>>);

/// The socket as whoever drives the connection sees it.
pub struct Gathered<T>(Rc<RefCell<Socket<T>>>);

/// Both sides of a socket whose writes are gathered. They stay on one thread. `read_ahead` is what was read from it
/// already and shall be read again.
pub fn gathered<T>(stream: T, read_ahead: &'static [u8]) -> (GatheredIo<T>, Gathered<T>) {
    let socket = Socket { stream, read_ahead, buffer: Vec::new(), sent: 0, progress: Progress::default() };
    let socket = Rc::new(RefCell::new(socket));
    (GatheredIo(socket.clone()), Gathered(socket))
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// Sends what was written. Pending when the socket does not take all of it; the task is woken when it does.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }

    /// What has moved.
    pub fn progress(&self) -> Progress {
        self.0.borrow().progress
    }
}

impl<T: AsyncRead + Unpin> Gathered<T> {
    /// Reads on, to no end, until the peer has closed its side too. Closing a socket while something unread arrives
    /// would break the connection, and the peer could lose what it has not read yet.
    pub async fn read_out(&self) {
        while matches!(poll_fn(|cx| self.0.borrow_mut().poll_discard(cx)).await, Ok(1..)) {}
    }
}

impl<T: AsyncRead + Unpin> Socket<T> {
    /// Reads some bytes that nobody wants; says how many, none at the end.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [0; 1024];
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        let bytes = buf.filled().len();
        self.progress.received += bytes as u64;
        Poll::Ready(Ok(bytes))
    }
}

impl<T: AsyncWrite + Unpin> Socket<T> {
    /// Notes what a write to the stream came to.
    fn note(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.progress.blocked = written.is_pending();
        if let Poll::Ready(Ok(bytes)) = &written {
            self.progress.sent += *bytes as u64;
        }
        written
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.buffer[self.sent..]);
            match ready!(self.note(written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.sent += bytes,
            }
        }
        if self.buffer.capacity() > 0 {
            let mut buffer = std::mem::take(&mut self.buffer);
            self.sent = 0;
            buffer.clear();
            SPARE.set(Some(buffer));
        }
        Poll::Ready(Ok(()))
    }

    /// Room for at least one more byte; sends what is there when there is none.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= BUFFER_BYTES {
            ready!(self.poll_send(cx))?;
        }
        if self.buffer.capacity() == 0 {
            self.buffer = SPARE.take().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        }
        Poll::Ready(Ok(BUFFER_BYTES - self.buffer.len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total >= LARGE_WRITE {
            ready!(self.poll_send(cx))?;
            let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
            return self.note(written);
        }
        let mut room = ready!(self.poll_room(cx))?;
        let mut taken = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(room)];
            self.buffer.extend_from_slice(part);
            room -= part.len();
            taken += part.len();
        }
        Poll::Ready(Ok(taken))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GatheredIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut socket = self.0.borrow_mut();
        if !socket.read_ahead.is_empty() {
            let (front, rest) = socket.read_ahead.split_at(buf.remaining().min(socket.read_ahead.len()));
            buf.put_slice(front);
            socket.read_ahead = rest;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut socket.stream).poll_read(cx, buf);
        socket.progress.received += (buf.filled().len() - before) as u64;
        read
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GatheredIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The bytes leave at the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut socket = self.0.borrow_mut();
        // HTTP/2 reads no more by now. A peer that closes too, and reads only when its last bytes are taken, would wait
        // for us as we wait for it.
        while !socket.poll_send(cx)?.is_ready() {
            if ready!(socket.poll_discard(cx))? == 0 {
                return Poll::Pending;
            }
        }
        Pin::new(&mut socket.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "gathered_io_tests.rs"]
mod tests;
