//! Order and completeness of gathered writes under every kind of back-pressure.

use std::collections::VecDeque;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

/// A socket that takes what it is told to: so many bytes at a time, 0 for "not now".
#[derive(Default)]
struct Script {
    takes: VecDeque<usize>,
    sent: Vec<u8>,
    writes: usize,
    shut: bool,
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes += 1;
        let taken = match self.takes.pop_front() {
            Some(0) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(limit) => buf.len().min(limit),
            None => buf.len(),
        };
        self.sent.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Script {
    /// Its peer says nothing.
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

fn script(takes: impl IntoIterator<Item = usize>) -> (GatheredIo<Script>, Gathered<Script>) {
    gathered(Script { takes: takes.into_iter().collect(), ..Script::default() }, b"")
}

async fn send(gathered: &Gathered<Script>) {
    poll_fn(|cx| gathered.poll_send(cx)).await.unwrap();
}

#[tokio::test]
async fn many_small_writes_leave_in_one() {
    let (mut io, gathered) = script([]);
    for number in 0..100u8 {
        io.write_all(&[number; 100]).await.unwrap();
        io.flush().await.unwrap();
    }
    assert_eq!(gathered.0.borrow().stream.writes, 0);
    send(&gathered).await;
    let socket = gathered.0.borrow();
    assert_eq!((socket.stream.writes, socket.stream.sent.len()), (1, 10_000));
    assert_eq!(socket.buffer.capacity(), 0, "an idle connection holds no buffer");
}

#[tokio::test]
async fn a_full_buffer_waits_for_the_socket() {
    let (mut io, gathered) = script([0; 3]);
    for _ in 0..8 {
        // Smaller than what would be written through.
        io.write_all(&[7; BUFFER_BYTES / 8]).await.unwrap();
    }
    let mut more = Box::pin(io.write_all(&[8; 10]));
    assert!(futures_util::poll!(&mut more).is_pending());
    more.await.unwrap();
    send(&gathered).await;
    let sent = &gathered.0.borrow().stream.sent;
    assert_eq!((sent.len(), sent[BUFFER_BYTES]), (BUFFER_BYTES + 10, 8));
}

#[tokio::test]
async fn what_was_written_is_sent_before_the_shutdown() {
    let (mut io, gathered) = script([0, 1, 0]);
    io.write_all(b"last words").await.unwrap();
    io.shutdown().await.unwrap();
    let socket = gathered.0.borrow();
    assert_eq!((&socket.stream.sent[..], socket.stream.shut), (&b"last words"[..], true));
}

#[tokio::test]
async fn two_who_close_and_have_more_to_say_than_the_pipe_holds_do_not_wait_for_each_other() {
    let (ours, mut theirs) = tokio::io::duplex(5);
    let (mut io, _gathered) = gathered(ours, b"");
    io.write_all(b"our last words").await.unwrap();
    let closed = io.shutdown();
    // The peer reads only when all that it says is taken.
    let peer = async {
        theirs.write_all(&[7; 5000]).await.unwrap();
        let mut read = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut read).await.unwrap();
        read
    };
    let both = async { tokio::join!(closed, peer) };
    let (closed, read) = tokio::time::timeout(std::time::Duration::from_secs(10), both).await.unwrap();
    closed.unwrap();
    assert_eq!(read, b"our last words");
}

proptest! {
    #[test]
    fn every_byte_is_sent_once_and_in_order(
        takes in proptest::collection::vec(prop_oneof![Just(0), 1..40_000usize], 0..60),
        writes in proptest::collection::vec((0..40_000usize, any::<bool>()), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut io, gathered) = script(takes);
            let mut expected = Vec::new();
            for (number, (length, turn_ends)) in writes.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..length).map(|place| (place * 31 + number) as u8).collect();
                let (front, back) = bytes.split_at(length / 3);
                let mut slices = [IoSlice::new(front), IoSlice::new(back)];
                let mut rest = &mut slices[..];
                while rest.iter().any(|slice| !slice.is_empty()) {
                    let taken = io.write_vectored(rest).await.unwrap();
                    IoSlice::advance_slices(&mut rest, taken);
                }
                expected.extend(bytes);
                if turn_ends {
                    send(&gathered).await;
                }
            }
            send(&gathered).await;
            assert_eq!(gathered.0.borrow().stream.sent, expected);
        });
    }
}

#[tokio::test]
async fn what_was_read_before_is_read_first_however_little_at_a_time() {
    let (mut io, _gathered) = gathered(&b" and the rest"[..], b"preface");
    let mut read = Vec::new();
    let mut piece = [0; 3];
    loop {
        match tokio::io::AsyncReadExt::read(&mut io, &mut piece).await.unwrap() {
            0 => break,
            bytes => read.extend_from_slice(&piece[..bytes]),
        }
    }
    assert_eq!(read, b"preface and the rest");
}

#[tokio::test]
async fn progress_tells_a_socket_that_takes_nothing_from_one_that_takes_little() {
    let (mut io, gathered) = script([0, 1, 0]);
    io.write_all(b"ab").await.unwrap();
    assert_eq!(gathered.progress(), Progress::default());
    for sent in [0, 1] {
        assert!(futures_util::poll!(poll_fn(|cx| gathered.poll_send(cx))).is_pending());
        assert_eq!(gathered.progress(), Progress { sent, blocked: true, received: 0 });
    }
    send(&gathered).await;
    assert_eq!(gathered.progress(), Progress { sent: 2, blocked: false, received: 0 });
}
