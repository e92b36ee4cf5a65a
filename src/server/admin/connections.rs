//! The admin listener's connections: few, and none of them for ever.
//!
//! Invariants: those who wait keep nobody out (see [`seats`]); whatever a client does or does not, its connection has
//! ended after its age and the grace; all of them end with the future that serves them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;

use super::seats::{Seat, Seats};

/// What clients of the admin listener may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The most connections of other machines, and the most of this one.
    pub connections: usize,
    /// How long the head of a request may take to come, also that of the next one on a connection that is kept.
    pub head: Duration,
    /// How long an answer may take to be made, with the reading of the request's body.
    pub request: Duration,
    /// After this time a connection takes no new requests.
    pub age: Duration,
    /// How long the last answer may then take to be read.
    pub grace: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 64,
            // Longer than a scraper rests.
            head: Duration::from_secs(30),
            request: Duration::from_secs(10),
            age: Duration::from_secs(120),
            grace: Duration::from_secs(10),
        }
    }
}

/// The pause after a connection could not be accepted, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a listener for as long as it is polled.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds) -> Infallible {
    serve_in(Arc::new(Seats::new(bounds.connections)), listener, router, bounds).await
}

async fn serve_in(seats: Arc<Seats>, listener: TcpListener, router: Router, bounds: Bounds) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Ended connections are forgotten as they end; a panic has been logged by the panic hook.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let Some(seat) = seats.take(peer.ip()) else { continue };
                    let (router, given_up) = (router.clone(), seat.given_up().clone());
                    connections.spawn(async move {
                        given_up.run_until_cancelled(serve_connection(stream, peer, router, bounds, seat)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the admin listener could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, router: Router, bounds: Bounds, seat: Seat) {
    // Without it an answer in two pieces waits for the client's acknowledgement; the socket does without if it must.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let answer = answer(router.clone(), peer, request, bounds.request);
        // HTTP/1 has one request at a time.
        let busy = seat.busy();
        async move {
            let answer = answer.await;
            drop(busy);
            answer
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.head);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    // How a client breaks off is its own business.
    if timeout(bounds.age, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(bounds.grace, connection).await;
    }
}

async fn answer(
    router: Router,
    peer: SocketAddr,
    mut request: Request<Incoming>,
    within: Duration,
) -> Result<Response, Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    match timeout(within, router.oneshot(request.map(Body::new))).await {
        Ok(answer) => answer,
        Err(_) => Ok((StatusCode::SERVICE_UNAVAILABLE, "there was no answer in time\n").into_response()),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, put};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);
    const BOUNDS: Bounds = Bounds { connections: 2, head: LONG, request: LONG, age: LONG, grace: LONG };

    /// A listener with an answer, an answer that never comes, a body that is read, and an endless answer.
    async fn start(bounds: Bounds) -> (SocketAddr, JoinSet<Infallible>) {
        start_in(Arc::new(Seats::new(bounds.connections)), bounds).await
    }

    async fn start_in(seats: Arc<Seats>, bounds: Bounds) -> (SocketAddr, JoinSet<Infallible>) {
        let endless = || async { Body::from_stream(futures_util::stream::repeat(Ok::<_, Infallible>("endless"))) };
        let router = Router::new()
            .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
            .route("/never", get(std::future::pending::<()>))
            .route("/read", put(|body: String| async move { body }))
            .route("/endless", get(endless));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve_in(seats, listener, router, bounds));
        (address, serving)
    }

    async fn connect(address: SocketAddr, says: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(says.as_bytes()).await.unwrap();
        stream
    }

    /// What comes until the other side closes; a reset is an end too.
    async fn rest(mut stream: TcpStream) -> String {
        let mut said = Vec::new();
        let read = timeout(LONG / 2, stream.read_to_end(&mut said)).await.expect("it is closed");
        let _ = read;
        String::from_utf8_lossy(&said).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_does_not_say_what_it_wants_is_let_go() {
        let (address, _serving) = start(Bounds { head: SHORT, ..BOUNDS }).await;
        for says in ["", "GET /peer HT", "GET /peer HTTP/1.1\r\nhost: a\r\n"] {
            let silent = connect(address, says).await;
            assert!(!rest(silent).await.contains("200 OK"), "{says}");
        }
        // On a busy machine one that says it may be too late.
        let answered = async {
            loop {
                let kept = connect(address, "GET /peer HTTP/1.1\r\nhost: a\r\n\r\n").await;
                let peer = kept.local_addr().unwrap().to_string();
                let said = rest(kept).await;
                if said.contains("200 OK") {
                    return (said, peer);
                }
            }
        };
        let (said, peer) = timeout(LONG / 2, answered).await.expect("it is answered");
        assert!(said.ends_with(&peer), "answered, and let go when it rests: {said}");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_made_in_time_is_given_up() {
        let (address, _serving) = start(Bounds { request: SHORT, ..BOUNDS }).await;
        for says in ["GET /never HTTP/1.1\r\n", "PUT /read HTTP/1.1\r\ncontent-length: 9\r\n"] {
            let waits = connect(address, &format!("{says}host: a\r\nconnection: close\r\n\r\n")).await;
            assert!(rest(waits).await.contains("503 Service Unavailable"), "{says}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_ends_with_its_connection() {
        let seats = Arc::new(Seats::new(1));
        let (address, _serving) = start_in(seats.clone(), Bounds { age: SHORT, grace: SHORT, ..BOUNDS }).await;
        let given_back = async {
            // On a busy machine a connection may be old before it has asked.
            let unread = loop {
                let mut unread = connect(address, "GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
                if unread.read_exact(&mut [0; 15]).await.is_ok() {
                    break unread;
                }
            };
            while seats.taken() > 0 {
                tokio::task::yield_now().await
            }
            drop(unread);
        };
        timeout(LONG / 2, given_back).await.expect("the seat is given back");
    }

    #[tokio::test]
    async fn a_connection_over_the_bound_takes_the_place_of_the_one_that_has_waited_longest() {
        let (address, _serving) = start(BOUNDS).await;
        let ask = "GET /peer HTTP/1.1\r\nhost: a\r\n\r\n";
        let silent = connect(address, "").await;
        let mut kept = connect(address, ask).await;
        kept.read_exact(&mut [0; 15]).await.unwrap();
        // As one who takes all connections and says nothing, and one who asks meanwhile.
        let mut last = connect(address, ask).await;
        last.read_exact(&mut [0; 15]).await.unwrap();
        assert_eq!(rest(silent).await, "");
        let ask = "GET /peer HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        kept.write_all(ask.as_bytes()).await.unwrap();
        drop(last);
        assert_eq!(rest(kept).await.matches("200 OK").count(), 1, "it was not the one that waited longest");
    }

    #[tokio::test]
    async fn a_connection_over_the_bound_is_closed_at_once_when_all_others_are_being_answered() {
        let (address, _serving) = start(BOUNDS).await;
        let seats: Vec<_> = (0..BOUNDS.connections).map(|_| "GET /never HTTP/1.1\r\nhost: a\r\n\r\n").collect();
        let mut busy = Vec::new();
        for ask in seats {
            busy.push(connect(address, ask).await);
        }
        // The requests may still be on their way.
        let ask = "GET /peer HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let refused = async { while !rest(connect(address, ask).await).await.is_empty() {} };
        timeout(LONG / 2, refused).await.expect("it is refused");
        drop(busy);
    }
}
