//! The same over sockets: the serving loop answers at once what it can, and the pieces of a request come as HTTP/2 brings them.

use std::convert::Infallible;
use std::net::SocketAddr;

use h2::client::SendRequest;
use profilestore::rpc::at_once::NeverAtOnce;
use profilestore::server::serving::{RequestBody, ServingLimits, serve};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::calls::{case_of, query};
use super::*;

const CASES: u32 = 400;

/// A service behind the loop, until the guard is dropped.
async fn listening<S, R>(service: S) -> (SocketAddr, DropGuard)
where
    S: Service<Request<RequestBody>, Response = Response<R>, Error = Infallible>
        + AtOnce<R::Data>
        + Clone
        + Send
        + 'static,
    S::Future: 'static,
    R: Body<Data: From<Bytes>, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = CancellationToken::new();
    tokio::spawn(serve(listener, service, 1, ServingLimits::default(), end.clone()));
    (address, end.drop_guard())
}

async fn client(address: SocketAddr) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 24).initial_connection_window_size(1 << 24);
    let (client, connection) = builder.handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The answer to a request whose pieces are sent one by one; the server may have seen each of them before the next when the
/// case is `slow`.
async fn over_socket(client: &SendRequest<Bytes>, case: &Case) -> Result<Answer, Option<h2::Reason>> {
    let (mut head, mut body) = case.request().into_parts();
    head.uri = format!("http://a{}", head.uri).parse().unwrap();
    let mut client = client.clone().ready().await.unwrap();
    let (answer, mut stream) = client.send_request(Request::from_parts(head, ()), false).unwrap();
    while let Some(frame) = body.frames.pop_front() {
        if case.slow || body.always_late {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let is_last = body.ends_with_last && body.frames.is_empty();
        // It fails when the server has ended the stream, as it may before it has read everything.
        match frame.into_data() {
            Ok(data) => _ = stream.send_data(data, is_last),
            Err(frame) => _ = stream.send_trailers(frame.into_trailers().unwrap_or_default()),
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
    let reason = |error: h2::Error| error.reason();
    let (parts, mut body) = answer.await.map_err(reason)?.into_parts();
    let ends_with_head = body.is_end_stream();
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(reason)?;
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.map_err(reason)?;
    Ok(Answer { status: parts.status, headers: parts.headers, ends_with_head, body: bytes.freeze(), trailers })
}

/// Whether the answer hangs on the clock, or on a client that gives up.
fn is_certain(case: &Case) -> bool {
    let is_close = |(name, value): &(&str, &str)| *name == "grpc-timeout" && ["1n", "4m", "5m", "6m"].contains(value);
    !case.headers.iter().any(is_close) && !matches!(case.framing, Framing::Failing)
}

#[tokio::test]
async fn answers_are_the_same_both_ways_over_sockets() {
    let (services, _) = services().await;
    let (served, _served) = listening(services.stack()).await;
    let (generated, _generated) = listening(NeverAtOnce(services.generated())).await;
    let (served, generated) = (client(served).await, client(generated).await);
    let cases = prop_oneof![3 => case(), 1 => case_of(query())];
    let mut runner = TestRunner::new(Config::default());
    let mut well = 0;
    for _ in 0..CASES {
        let case = cases.new_tree(&mut runner).unwrap().current();
        if !is_certain(&case) {
            continue;
        }
        let (served, generated) = (over_socket(&served, &case).await, over_socket(&generated, &case).await);
        assert_eq!(served, generated, "{case:?}");
        well += u32::from(
            served.is_ok_and(|answer| answer.trailers.is_some_and(|trailers| trailers["grpc-status"] == "0")),
        );
    }
    assert!(well > CASES / 20, "{well} were answered well");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_the_same_both_ways() {
    let (services, _) = services().await;
    let (served, _served) = listening(services.stack()).await;
    let (generated, _generated) = listening(NeverAtOnce(services.generated())).await;
    let (served, generated) = (client(served).await, client(generated).await);
    for batch in [false, true] {
        let ids = vec!["x".repeat(5 * 1024 * 1024)];
        let question = Question { batch, ids, mask: None, appended: b"", other: None };
        let headers = vec![("content-type", "application/grpc")];
        let case = Case { question, framing: Framing::Whole, method: Method::POST, path: "", headers, slow: false };
        let (served, generated) = (over_socket(&served, &case).await, over_socket(&generated, &case).await);
        assert_eq!(served, generated);
        let status = served.unwrap().headers["grpc-status"].clone();
        assert_ne!(status, "0", "batch: {batch}");
    }
}
