//! A proxy between a client and its server that loses answers and holds requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const FRAME_HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Which frame of the server's answers is lost, together with its connection. Once only.
#[derive(Debug, Clone, Copy)]
pub enum Loss {
    /// The headers of the next answer: the server has made the call and the client does not hear of it.
    Answer,
    /// A frame with a message, or with a part of one, after this many others.
    MessageAfter(usize),
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    hold: watch::Sender<bool>,
    _end: DropGuard,
}

struct Shared {
    upstream: SocketAddr,
    loss: Mutex<Option<Loss>>,
    cuts: AtomicUsize,
    hold: watch::Receiver<bool>,
}

impl Proxy {
    pub async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hold, held) = watch::channel(false);
        let shared = Arc::new(Shared { upstream, loss: Mutex::new(None), cuts: AtomicUsize::new(0), hold: held });
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(accept(listener, shared.clone())));
        Self { address, shared, hold, _end: end.drop_guard() }
    }

    /// Loses one frame and its connection.
    pub fn lose(&self, loss: Loss) {
        *self.shared.loss.lock() = Some(loss);
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// From now on nothing that a client sends is read, or all of it is again.
    pub fn hold(&self, held: bool) {
        self.hold.send_replace(held);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (downstream, _) = listener.accept().await.unwrap();
        tokio::spawn(forward(downstream, shared.clone()));
    }
}

/// Both directions, until one of them ends; then both sockets are closed.
async fn forward(downstream: TcpStream, shared: Arc<Shared>) {
    let Ok(upstream) = TcpStream::connect(shared.upstream).await else { return };
    let (from_client, to_client) = downstream.into_split();
    let (from_server, to_server) = upstream.into_split();
    tokio::select! {
        () = forward_requests(from_client, to_server, shared.hold.clone()) => {}
        () = forward_answers(from_server, to_client, &shared) => {}
    }
}

async fn forward_requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut hold: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if hold.wait_for(|held| !held).await.is_err() {
            return;
        }
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn forward_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) {
    loop {
        let mut frame = vec![0; FRAME_HEAD_BYTES];
        if from.read_exact(&mut frame).await.is_err() {
            return;
        }
        let length = usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2]);
        let kind = frame[3];
        frame.resize(FRAME_HEAD_BYTES + length, 0);
        if from.read_exact(&mut frame[FRAME_HEAD_BYTES..]).await.is_err() {
            return;
        }
        if shared.is_lost(kind) {
            shared.cuts.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

impl Shared {
    fn is_lost(&self, kind: u8) -> bool {
        let mut loss = self.loss.lock();
        match (&mut *loss, kind) {
            (Some(Loss::Answer), HEADERS) | (Some(Loss::MessageAfter(0)), DATA) => {
                *loss = None;
                true
            }
            (Some(Loss::MessageAfter(others)), DATA) => {
                *others -= 1;
                false
            }
            _ => false,
        }
    }
}
