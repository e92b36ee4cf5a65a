//! A server for tests: the services over any store, served by the real serving loop on a loopback port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use profilestore::cache::{CachedStore, HotCache};
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::feed::Feed;
use profilestore::model::Canonicalization;
use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::rpc::Services;
use profilestore::server::serving::{self, ServingLimits};
use profilestore::store::{NoObserver, Store};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::transport::Channel;

use super::stacks::cache;

/// A running server; it ends when it is dropped.
pub struct TestServer {
    pub services: Services,
    address: SocketAddr,
    channel: Channel,
    _shutdown: DropGuard,
}

/// What came back for a request that was sent by hand.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: Status,
    /// The messages of the body, with their five-byte prefixes.
    pub body: Bytes,
    /// Whether the whole answer was one block of headers.
    pub trailers_only: bool,
}

/// A store in memory that allows several profiles with one e-mail.
pub fn memory_store() -> MemoryStore {
    MemoryStore::new(EngineRules::default(), Arc::new(NoObserver))
}

/// A listener for a server that goes away and comes back on its port: one below those that others are given meanwhile.
pub async fn listener_to_come_back_to() -> TcpListener {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 1000 * 10;
    for _ in 0..12_000 {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener;
        }
    }
    panic!("no port is free");
}

impl TestServer {
    /// A server over an empty store in memory behind a cache, with the fast lane.
    pub async fn start() -> Self {
        let cache = cache();
        let store = MemoryStore::new(EngineRules::default(), cache.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serving(listener, CachedStore::new(store, cache.clone()), Some(cache)).await
    }

    /// A server over a store.
    pub async fn over<S: Store>(store: S) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), store).await
    }

    /// A server over a store, on a listener.
    pub async fn on<S: Store>(listener: TcpListener, store: S) -> Self {
        Self::serving(listener, store, None).await
    }

    /// A server over a store that the test goes on using, for at most so many watchers.
    pub async fn sharing<S: Store>(store: Arc<S>, max_watchers: usize) -> Self {
        Self::sharing_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), store, max_watchers).await
    }

    /// The same on a listener.
    pub async fn sharing_on<S: Store>(listener: TcpListener, store: Arc<S>, max_watchers: usize) -> Self {
        let feed = Arc::new(Feed::start(store.clone(), max_watchers));
        let settings = Canonicalization::default();
        let services = profilestore::rpc::services_with_feed(store, feed, None, settings).await.unwrap();
        Self::with_services(listener, services).await
    }

    /// A server with the fast lane over a cached store that the test goes on using.
    pub async fn over_cached<S: Store>(store: Arc<CachedStore<S>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cache = store.cache().clone();
        let services = profilestore::rpc::services(store, Some(cache), Canonicalization::default()).await.unwrap();
        Self::with_services(listener, services).await
    }

    async fn serving<S: Store>(listener: TcpListener, store: S, cache: Option<Arc<HotCache>>) -> Self {
        let services =
            profilestore::rpc::services(Arc::new(store), cache, Canonicalization::default()).await.unwrap();
        Self::with_services(listener, services).await
    }

    async fn with_services(listener: TcpListener, services: Services) -> Self {
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(serving::serve(listener, services.stack(), 2, ServingLimits::default(), shutdown.clone()));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { services, address, channel, _shutdown: shutdown.drop_guard() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A channel to the server.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A client of `ProfileService`.
    pub fn profiles(&self) -> ProfileServiceClient<Channel> {
        ProfileServiceClient::new(self.channel()).max_decoding_message_size(usize::MAX)
    }

    /// The same over a connection of its own.
    pub fn profiles_of_another(&self) -> ProfileServiceClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        ProfileServiceClient::new(channel).max_decoding_message_size(usize::MAX)
    }

    /// Sends a body as it is to a path, beside tonic's client with its own deadlines and checks.
    pub async fn raw(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> RawAnswer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body: Full<Bytes> = Full::new(body.into());
        let body = body.map_err(|never: Infallible| match never {});
        let (parts, body) = sender.send_request(request.body(body).unwrap()).await.unwrap().into_parts();
        assert_eq!(parts.status, http::StatusCode::OK);
        let collected = body.collect().await.unwrap();
        let in_headers = Status::from_header_map(&parts.headers);
        let trailers_only = in_headers.is_some();
        let status = in_headers.or_else(|| Status::from_header_map(collected.trailers()?)).expect("a grpc-status");
        RawAnswer { status, body: collected.to_bytes(), trailers_only }
    }
}

/// A message as it stands in a request's body: a flag, its length, its bytes.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame
}
