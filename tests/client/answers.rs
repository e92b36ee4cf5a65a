//! How the client takes what a server answers: repetitions, deadlines, pages. The server here counts its calls,
//! and answers some of them by itself.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use http::Request;
use parking_lot::Mutex;
use profilestore::client::{ClientError, Code, PageOptions};
use profilestore::model::Canonicalization;
use profilestore::rpc::at_once::NeverAtOnce;
use profilestore::server::serving::{self, ServingLimits};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::body::Body;
use tonic_types::{ErrorDetails, StatusExt};
use tower::ServiceExt;

use crate::common::server::memory_store;
use crate::common::soon;
use crate::*;

/// A server over an empty store that notes the timeout of every call, and gives some statuses first.
struct CountingServer {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Option<String>>>>,
    _end: DropGuard,
}

impl CountingServer {
    async fn start(statuses: Vec<Status>) -> Self {
        let services =
            profilestore::rpc::services(Arc::new(memory_store()), None, Canonicalization::default()).await.unwrap();
        let stack = services.generated();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (noted, statuses) = (calls.clone(), Arc::new(Mutex::new(statuses.into_iter())));
        let service = tower::service_fn(move |request: Request<serving::RequestBody>| {
            let timeout = request.headers().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
            noted.lock().push(timeout);
            let status = statuses.lock().next();
            let stack = stack.clone();
            async move {
                Ok::<_, Infallible>(match status {
                    Some(status) => status.into_http::<Body>(),
                    None => stack.oneshot(request).await?.map(Body::new),
                })
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ServingLimits::default();
        let end = CancellationToken::new();
        tokio::spawn(serving::serve(listener, NeverAtOnce(service), 1, limits, end.clone()));
        Self { address, calls, _end: end.drop_guard() }
    }

    fn calls(&self) -> usize {
        self.calls.lock().len()
    }
}

#[tokio::test]
async fn unavailable_is_repeated_and_the_wait_that_the_server_asks_for_is_kept() {
    let asked = Duration::from_millis(700);
    let details = ErrorDetails::with_retry_info(Some(asked));
    let status = Status::with_error_details(Code::Unavailable, "draining", details);
    let server = CountingServer::start(vec![status, Status::unavailable("draining")]).await;
    let started = Instant::now();
    assert_eq!(client(server.address).count("", false).await.unwrap(), 0);
    assert_eq!(server.calls(), 3);
    assert!(started.elapsed() >= asked, "{:?}", started.elapsed());
}

#[tokio::test]
async fn nothing_but_unavailable_is_repeated() {
    for code in [Code::ResourceExhausted, Code::Aborted, Code::Internal, Code::Unknown, Code::DeadlineExceeded] {
        let server = CountingServer::start(vec![Status::new(code, "no")]).await;
        let error = client(server.address).count("", false).await.unwrap_err();
        assert_eq!(server.calls(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_call_is_given_up_after_its_repetitions() {
    let server = CountingServer::start(vec![Status::unavailable("draining"); 9]).await;
    let client = builder(server.address).retries(2).build().unwrap();
    let error = client.create(profile("ada", "")).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    assert_eq!(format!("{error}"), "unavailable: draining");
    assert_eq!(server.calls(), 3);
}

#[tokio::test]
async fn the_server_is_told_what_is_left_of_the_deadline() {
    let server = CountingServer::start(vec![Status::unavailable("draining")]).await;
    client(server.address).count("", false).await.unwrap();
    let timeouts: Vec<Duration> =
        server.calls.lock().iter().map(|timeout| parsed(timeout.as_deref().unwrap())).collect();
    assert!(timeouts[0] <= PATIENCE && timeouts[0] > PATIENCE / 2, "{timeouts:?}");
    assert!(timeouts[1] < timeouts[0], "{timeouts:?}");
}

/// A `grpc-timeout`.
fn parsed(timeout: &str) -> Duration {
    let (number, unit) = timeout.split_at(timeout.len() - 1);
    let number = number.parse().unwrap();
    match unit {
        "n" => Duration::from_nanos(number),
        "u" => Duration::from_micros(number),
        "m" => Duration::from_millis(number),
        "S" => Duration::from_secs(number),
        unit => panic!("{unit}"),
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_left_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deadline = Duration::from_millis(300);
    let client = builder(listener.local_addr().unwrap()).deadline(deadline).build().unwrap();
    let started = Instant::now();
    let listing: Vec<_> = soon(client.list(PageOptions::default()).collect()).await;
    let export: Vec<_> = soon(client.export(Default::default()).collect()).await;
    for error in [
        soon(client.get("ada")).await.unwrap_err(),
        listing[0].clone().unwrap_err(),
        export[0].as_ref().unwrap_err().clone(),
    ] {
        assert!(matches!(error, ClientError::DeadlineExceeded(_)), "{error}");
    }
    assert!(started.elapsed() >= 3 * deadline, "{:?}", started.elapsed());
}

#[tokio::test]
async fn repetitions_end_with_the_deadline() {
    // Nobody listens there: not the port of a listener that is gone, which another test may be given.
    let address = "127.0.0.1:1".parse().unwrap();
    let client = builder(address).deadline(Duration::from_secs(2)).retries(20).build().unwrap();
    // All of its repetitions would take longer than anybody waits here.
    let error = soon(client.get("ada")).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn a_listing_has_every_profile_once_and_fetches_one_page_ahead() {
    let server = CountingServer::start(Vec::new()).await;
    let client = client(server.address);
    import(&client, many(1050), ImportOptions::default()).await;
    let before = server.calls();
    let mut listing = client.list(PageOptions { page_size: 100, ..PageOptions::default() });
    let mut found = Vec::new();
    for page in 1..=11 {
        // On the last page there is nothing ahead.
        let expected = before + 11.min(page + 1);
        let on_page = if page == 11 { 50 } else { 100 };
        for entry in 0..on_page {
            found.push(listing.try_next().await.unwrap().unwrap().id);
            if entry == 0 {
                soon(async {
                    while server.calls() < expected {
                        tokio::task::yield_now().await
                    }
                })
                .await;
            }
            assert_eq!(server.calls(), expected);
        }
    }
    assert_eq!(listing.next().now_or_never().map(|end| end.is_none()), Some(true));
    assert_eq!(found, ids(&many(1050)));
}

#[tokio::test]
async fn calls_are_spread_over_the_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = builder(listener.local_addr().unwrap()).connections(3).build().unwrap();
    let calls = tokio::spawn(async move { futures_util::future::join_all((0..6).map(|_| client.get("ada"))).await });
    let mut accepted = Vec::new();
    for _ in 0..3 {
        accepted.push(soon(listener.accept()).await.unwrap());
    }
    calls.abort();
}
