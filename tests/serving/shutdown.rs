//! The end: calls in flight are answered, what takes too long is cut, and the loop always returns.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use profilestore::rpc::at_once::NeverAtOnce;
use profilestore::server::serving::{self, RequestBody, ServingLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::common::soon;
use crate::harness::*;

/// Longer than any test takes.
const PATIENT: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn calls_in_flight_are_answered_and_new_connections_refused() {
    let serving = Loop::start(2, ServingLimits { drain_timeout: PATIENT, ..ServingLimits::default() }).await;
    let mut clients = [serving.client().await, serving.client().await, serving.client().await];
    let mut answers = Vec::new();
    for client in &mut clients {
        for path in ["/hold", "/hold", "/pieces/3000000"] {
            answers.push((path, client.begin(path).await.unwrap()));
        }
    }
    serving.watched.begun(9).await;
    serving.shutdown.cancel();
    // Only the listener's end shows that the loop has begun to drain.
    soon(async { while TcpStream::connect(serving.address).await.is_ok() {} }).await;
    assert!(!serving.serving.is_finished(), "calls are in flight");
    serving.watched.release();
    for (path, answer) in answers {
        let body = soon(whole(answer)).await.unwrap();
        match path {
            "/hold" => assert_eq!(body, b"released"),
            _ => assert!(body == pattern(3_000_000)),
        }
    }
    for client in clients {
        client.ended().await.unwrap();
    }
    soon(serving.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let serving = Loop::start(2, ServingLimits { drain_timeout: Duration::ZERO, ..ServingLimits::default() }).await;
    let mut client = serving.client().await;
    let held = whole(client.begin("/hold").await.unwrap());
    // A large answer that nobody reads.
    let mut stalled = serving.connect().await;
    let opening = crate::raw_frames::opening();
    stalled.write_all(&[opening, crate::raw_frames::call(1, "/pieces/90000000")].concat()).await.unwrap();
    serving.watched.calls(2).await;
    let watched = serving.watched.clone();
    serving.end().await;
    assert!(soon(held).await.is_err());
    watched.calls(0).await;
}

#[tokio::test]
async fn clients_that_say_nothing_hold_nothing_up() {
    let serving = Loop::start(2, ServingLimits { drain_timeout: PATIENT, ..ServingLimits::default() }).await;
    let mut silent = Vec::new();
    for said in [&b""[..], b"PRI * HTTP", &crate::raw_frames::opening()] {
        let mut stream = serving.connect().await;
        stream.write_all(said).await.unwrap();
        silent.push(stream);
    }
    // Both threads have taken what came before.
    for _ in 0..2 {
        serving.client().await.get("/whole/1").await.unwrap();
    }
    serving.end().await;
    for mut stream in silent {
        // The end may be a reset.
        let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test]
async fn connections_that_wait_for_their_thread_are_closed_as_the_drain_begins() {
    const WAITING: u64 = 20;
    let serving = Loop::start(1, ServingLimits { drain_timeout: PATIENT, ..ServingLimits::default() }).await;
    let mut client = serving.client().await;
    let held = whole(client.begin("/hold").await.unwrap());
    serving.watched.calls(1).await;
    let is_shut = serving.watched.is_shut.clone();
    is_shut.store(true, Ordering::SeqCst);
    let blocked = whole(client.begin("/block").await.unwrap());
    serving.watched.begun(2).await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(serving.connect().await);
    }
    let figures = serving.figures.clone();
    soon(async {
        while figures.accepted() < 1 + WAITING {
            tokio::task::yield_now().await
        }
    })
    .await;
    serving.shutdown.cancel();
    is_shut.store(false, Ordering::SeqCst);
    for mut stream in waiting {
        assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap_or(0), 0, "it is closed");
    }
    assert!(!serving.serving.is_finished(), "a call is in flight");
    soon(async {
        while figures.open() > 1 {
            tokio::task::yield_now().await
        }
    })
    .await;
    serving.watched.release();
    assert_eq!(soon(held).await.unwrap(), b"released");
    assert_eq!(soon(blocked).await.unwrap(), b"unblocked");
    soon(serving.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_loop_that_is_dropped_drains_its_connections() {
    let serving = Loop::start(2, ServingLimits { drain_timeout: PATIENT, ..ServingLimits::default() }).await;
    let mut client = serving.client().await;
    let held = whole(client.begin("/hold").await.unwrap());
    serving.watched.calls(1).await;
    serving.serving.abort();
    // Told to go away, the client makes no more calls.
    soon(async { while client.get("/whole/1").await.is_ok() {} }).await;
    serving.watched.release();
    assert_eq!(soon(held).await.unwrap(), b"released");
    client.ended().await.unwrap();
}

/// A service that cannot be cloned a second time on a serving thread.
struct PanicsInWorker;

impl Clone for PanicsInWorker {
    fn clone(&self) -> Self {
        let thread = std::thread::current();
        assert!(!thread.name().unwrap_or_default().starts_with("serving-"), "a worker that panics");
        Self
    }
}

impl Service<Request<RequestBody>> for PanicsInWorker {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn a_thread_that_panics_ends_the_loop_with_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = ServingLimits::default();
    let serving =
        tokio::spawn(serving::serve(listener, NeverAtOnce(PanicsInWorker), 2, limits, CancellationToken::new()));
    let _connection = TcpStream::connect(address).await.unwrap();
    let error = soon(serving).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
}
