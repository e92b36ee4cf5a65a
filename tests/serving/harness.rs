//! A service whose calls are watched, served over a pipe or over a socket, and clients of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use profilestore::rpc::Services;
use profilestore::rpc::at_once::NeverAtOnce;
use profilestore::server::serving::{self, ConnectionError, RequestBody, ServingFigures, ServingLimits};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::Service;

use crate::common::soon;

/// The pieces in which `/pieces/N` comes.
const PIECE: usize = 16 * 1024;
/// The pieces in which `/small/N` comes.
const SMALL_PIECE: usize = 2048;

/// Answers `/whole/N`, `/pieces/N` and `/small/N` with N bytes, `/halves/N` with the second half when it is released, `/echo` with what it
/// gets, `/hold` when it is released, and panics at `/panic`; `/block` blocks its thread while that is wanted.
#[derive(Clone)]
pub struct Watched {
    /// How many calls there are.
    calls: watch::Sender<usize>,
    most: Arc<AtomicUsize>,
    begun: watch::Sender<usize>,
    released: CancellationToken,
    /// Whether `/block` blocks.
    pub is_shut: Arc<AtomicBool>,
    /// The bytes of answers that were taken from their bodies.
    produced: Arc<AtomicUsize>,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            calls: watch::Sender::new(0),
            most: Arc::default(),
            begun: watch::Sender::new(0),
            released: CancellationToken::new(),
            is_shut: Arc::default(),
            produced: Arc::default(),
        }
    }
}

/// A call, while it runs.
struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

impl Watched {
    /// Waits until so many calls run.
    pub async fn calls(&self, expected: usize) {
        soon(self.calls.subscribe().wait_for(|calls| *calls == expected)).await.unwrap();
    }

    /// Waits until so many calls have begun, whatever became of them.
    pub async fn begun(&self, expected: usize) {
        soon(self.begun.subscribe().wait_for(|calls| *calls >= expected)).await.unwrap();
    }

    pub fn begun_so_far(&self) -> usize {
        *self.begun.borrow()
    }

    /// How many calls ran together at most.
    pub fn most_calls(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub fn produced(&self) -> usize {
        self.produced.load(Ordering::SeqCst)
    }

    /// Lets all calls of `/hold` go on.
    pub fn release(&self) {
        self.released.cancel();
    }

    fn begin(&self) -> Running {
        self.calls.send_modify(|calls| {
            *calls += 1;
            self.most.fetch_max(*calls, Ordering::SeqCst);
        });
        self.begun.send_modify(|calls| *calls += 1);
        Running(self.calls.clone())
    }

    async fn answer(self, request: Request<RequestBody>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let running = self.begin();
        let path = request.uri().path().to_owned();
        let (kind, argument) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        match kind {
            "echo" => {
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                Response::new(Full::new(body).boxed_unsync())
            }
            "hold" => {
                self.released.cancelled().await;
                Response::new(Full::from("released").boxed_unsync())
            }
            "panic" => panic!("a call that panics"),
            "block" => {
                while self.is_shut.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                Response::new(Full::from("unblocked").boxed_unsync())
            }
            "halves" => {
                let mut first = pattern(argument.parse().unwrap());
                let second = first.split_off(first.len() / 2);
                let later = stream::once(async move {
                    self.released.cancelled().await;
                    drop(running);
                    Ok(Frame::data(second))
                });
                let halves = stream::iter([Ok(Frame::data(first))]).chain(later);
                Response::new(StreamBody::new(halves).boxed_unsync())
            }
            "whole" => Response::new(Full::new(pattern(argument.parse().unwrap())).boxed_unsync()),
            _ => {
                let bytes = pattern(argument.parse().unwrap_or(0));
                let size = if kind == "small" { SMALL_PIECE } else { PIECE };
                let pieces = stream::unfold((bytes, running), move |(mut bytes, running)| {
                    let piece = bytes.split_to(bytes.len().min(size));
                    self.produced.fetch_add(piece.len(), Ordering::SeqCst);
                    let next = (!piece.is_empty()).then(|| (Ok(Frame::data(piece)), (bytes, running)));
                    async { next }
                });
                Response::new(StreamBody::new(pieces).boxed_unsync())
            }
        }
    }
}

impl Service<Request<RequestBody>> for Watched {
    type Response = Response<UnsyncBoxBody<Bytes, Infallible>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let answer = self.clone().answer(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// Bytes in which each place can be told from its neighbours.
pub fn pattern(length: usize) -> Bytes {
    (0..length).map(|place| (place.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

/// The loop over a loopback socket.
pub struct Loop {
    pub address: SocketAddr,
    pub watched: Watched,
    pub figures: Arc<ServingFigures>,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<std::io::Result<()>>,
}

impl Loop {
    pub async fn start(threads: usize, limits: ServingLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (watched, shutdown) = (Watched::default(), CancellationToken::new());
        let (service, figures) = (NeverAtOnce(watched.clone()), Arc::<ServingFigures>::default());
        let counted = (figures.clone(), shutdown.clone());
        let serving = tokio::spawn(serving::serve_counted(listener, service, threads, limits, counted.0, counted.1));
        Self { address, watched, figures, shutdown, serving }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub async fn client(&self) -> Client {
        soon(Client::over(self.connect().await)).await.unwrap()
    }

    /// Waits until a connection is served: until there is room for one.
    pub async fn served(&self) -> Client {
        soon(async {
            loop {
                if let Ok(mut client) = Client::over(self.connect().await).await
                    && client.get("/whole/1").await.is_ok()
                {
                    return client;
                }
            }
        })
        .await
    }

    /// Ends the loop.
    pub async fn end(self) {
        self.shutdown.cancel();
        soon(self.serving).await.unwrap().unwrap();
    }
}

/// A connection over a pipe in memory, on this thread. Must be called in a `LocalSet`.
pub fn piped(
    watched: &Watched,
    limits: ServingLimits,
    pipe_bytes: usize,
) -> (DuplexStream, CancellationToken, JoinHandle<Result<(), ConnectionError>>) {
    let (ours, theirs) = tokio::io::duplex(pipe_bytes);
    let shutdown = CancellationToken::new();
    let serving = serving::serve_connection(theirs, NeverAtOnce(watched.clone()), limits, shutdown.clone());
    (ours, shutdown, tokio::task::spawn_local(serving))
}

/// Gives everything else on this thread its turns, until all of it waits for us.
pub async fn settle() {
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
}

/// An HTTP/2 client that hides nothing.
pub struct Client {
    sender: h2::client::SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    /// With windows that never bother.
    pub async fn over<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: T) -> Result<Self, h2::Error> {
        Self::with_windows(io, 1 << 24, 1 << 24).await
    }

    pub async fn with_windows<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        io: T,
        stream: u32,
        connection: u32,
    ) -> Result<Self, h2::Error> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(stream).initial_connection_window_size(connection);
        let (sender, connection) = builder.handshake(io).await?;
        Ok(Self { sender, connection: tokio::spawn(connection) })
    }

    /// Begins a call without a body.
    pub async fn begin(&mut self, path: &str) -> Result<h2::client::ResponseFuture, h2::Error> {
        let (answer, _) = self.open(path, true).await?;
        Ok(answer)
    }

    /// Begins a call.
    pub async fn open(
        &mut self,
        path: &str,
        ended: bool,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        let request = Request::post(format!("http://a{path}")).header("content-type", "application/grpc");
        let request = request.body(()).unwrap();
        let mut ready = self.sender.clone().ready().await?;
        ready.send_request(request, ended)
    }

    /// The body of an answer.
    pub async fn get(&mut self, path: &str) -> Result<Vec<u8>, h2::Error> {
        whole(self.begin(path).await?).await
    }

    /// How the connection ended.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.sender);
        soon(self.connection).await.unwrap()
    }
}

/// The real services behind the loop, until what is returned with their address is dropped.
pub async fn listening(services: &Services) -> (SocketAddr, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = CancellationToken::new();
    tokio::spawn(serving::serve(listener, services.stack(), 1, ServingLimits::default(), end.clone()));
    (address, end.drop_guard())
}

/// All of an answer's body.
pub async fn whole(answer: h2::client::ResponseFuture) -> Result<Vec<u8>, h2::Error> {
    let mut body = answer.await?.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
