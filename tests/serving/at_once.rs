//! Answers that are known at once, and those that are not: nobody can tell one from the other, but for the time.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, poll_fn, ready};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream;
use h2::Reason;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use profilestore::rpc::at_once::{AtOnce, NeverAtOnce};
use profilestore::server::serving::{RequestBody, ServingLimits, serve_connection};
use tokio::io::AsyncWriteExt;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::common::soon;
use crate::harness::*;
use crate::raw_frames;

/// Answers `/known` at once with what it gets, panics at `/broken` and as it is called for `/uncalled`, and calls the other for the rest.
struct Knows(Watched);

impl AtOnce<Bytes> for Knows {
    fn at_once<B>(&mut self, request: &Request<B>, body: &Bytes) -> Option<Bytes> {
        assert!(request.uri().path() != "/broken", "a call that panics at once");
        (request.uri().path() == "/known").then(|| body.clone())
    }
}

impl Service<Request<RequestBody>> for Knows {
    type Response = <Watched as Service<Request<RequestBody>>>::Response;
    type Error = Infallible;
    type Future = <Watched as Service<Request<RequestBody>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        assert!(request.uri().path() != "/uncalled", "a service that panics as it is called");
        self.0.call(request)
    }
}

/// A client of a service that knows some answers, and what is called otherwise.
async fn connected(window: u32) -> (Client, Watched) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let watched = Watched::default();
    let limits = ServingLimits::default();
    tokio::task::spawn_local(serve_connection(theirs, Knows(watched.clone()), limits, CancellationToken::new()));
    (Client::with_windows(ours, window, 1 << 24).await.unwrap(), watched)
}

/// The answer to a call whose body comes in these pieces, and its status.
async fn ask(
    client: &mut Client,
    path: &str,
    pieces: &[&'static [u8]],
) -> Result<(Vec<u8>, Option<String>), h2::Error> {
    let (answer, mut body) = client.open(path, false).await?;
    for (place, piece) in pieces.iter().enumerate() {
        body.send_data(Bytes::from_static(piece), place + 1 == pieces.len())?;
    }
    let mut body = soon(answer).await?.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = soon(body.data()).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    let status = body.trailers().await?.map(|trailers| trailers["grpc-status"].to_str().unwrap().to_owned());
    Ok((bytes, status))
}

#[tokio::test]
async fn a_call_that_is_all_there_is_answered_at_once_through_any_window() {
    let served = async {
        for window in [1, 1 << 24] {
            let (mut client, watched) = connected(window).await;
            for pieces in [&[&b"known"[..]][..], &[b"known", b""]] {
                let (bytes, status) = ask(&mut client, "/known", pieces).await.unwrap();
                assert_eq!((&bytes[..], status.as_deref()), (&b"known"[..], Some("0")), "{pieces:?}");
            }
            assert_eq!(watched.begun_so_far(), 0, "it was not called");
        }
    };
    LocalSet::new().run_until(served).await;
}

#[tokio::test]
async fn what_has_no_answer_at_once_is_called_with_its_whole_body() {
    let served = async {
        let (mut client, watched) = connected(1 << 24).await;
        let bodies: [&[&'static [u8]]; 6] = [
            &[b"one"],
            &[b"one", b""],
            &[b"", b"one"],
            &[b"on", b"e"],
            &[b"", b"", b"one", b""],
            &[b"o", b"", b"ne"],
        ];
        for pieces in bodies {
            let (bytes, _) = ask(&mut client, "/echo", pieces).await.unwrap();
            assert_eq!(bytes, b"one", "{pieces:?}");
        }
        // Nobody waits for the rest of a body to answer at once.
        let (answer, mut body) = client.open("/echo", false).await.unwrap();
        body.send_data(Bytes::from_static(b"la"), false).unwrap();
        watched.begun(bodies.len() + 1).await;
        body.send_data(Bytes::from_static(b"te"), true).unwrap();
        assert_eq!(soon(whole(answer)).await.unwrap(), b"late");
    };
    LocalSet::new().run_until(served).await;
}

#[tokio::test]
async fn a_call_that_panics_at_once_breaks_only_itself() {
    let served = async {
        let (mut client, _) = connected(1 << 24).await;
        let (held, mut rest) = client.open("/echo", false).await.unwrap();
        for path in ["/broken", "/uncalled"] {
            let error = ask(&mut client, path, &[b"broken"]).await.unwrap_err();
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{path}");
        }
        rest.send_data(Bytes::from_static(b"held"), true).unwrap();
        assert_eq!(soon(whole(held)).await.unwrap(), b"held");
        assert_eq!(ask(&mut client, "/known", &[b"known"]).await.unwrap().0, b"known");
    };
    LocalSet::new().run_until(served).await;
}

/// Answers everything at once with the same, and counts how often.
#[derive(Clone, Default)]
struct Dear(Rc<Cell<usize>>);

const DEAR_BYTES: usize = 100_000;

impl AtOnce<Bytes> for Dear {
    fn at_once<B>(&mut self, _: &Request<B>, _: &Bytes) -> Option<Bytes> {
        self.0.set(self.0.get() + 1);
        Some(Bytes::from_static(&[0; DEAR_BYTES]))
    }
}

impl Service<Request<RequestBody>> for Dear {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        unreachable!()
    }
}

async fn a_turn() {
    let mut had = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut had, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[tokio::test]
async fn others_have_their_turn_between_answers_that_are_dear() {
    let served = async {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let (dear, limits) = (Dear::default(), ServingLimits::default());
        let mut calls = raw_frames::opening();
        for stream in (1..200).step_by(2) {
            let headers = raw_frames::request_headers("/dear");
            calls.extend(raw_frames::frame(raw_frames::HEADERS, raw_frames::END_HEADERS, stream, &headers));
            calls.extend(raw_frames::frame(raw_frames::DATA, raw_frames::END_STREAM, stream, b"x"));
        }
        ours.write_all(&calls).await.unwrap();
        tokio::task::spawn_local(serve_connection(theirs, dear.clone(), limits, CancellationToken::new()));
        // Another task of the thread, which asks for its next turn as soon as it has had one.
        let other = tokio::task::spawn_local(async move {
            let mut before = 0;
            while before < 100 {
                let in_a_turn = dear.0.get() - before;
                assert!(in_a_turn * DEAR_BYTES < 1024 * 1024, "{in_a_turn} in a turn");
                before += in_a_turn;
                a_turn().await;
            }
        });
        other.await.unwrap();
    };
    soon(LocalSet::new().run_until(served)).await;
}

#[tokio::test]
async fn an_answer_whose_body_fails_is_reset_for_the_reason_of_its_failure() {
    let fails = |request: Request<RequestBody>| {
        let error: Box<dyn Error + Send + Sync> = match request.uri().path() {
            "/calm" => h2::Error::from(Reason::ENHANCE_YOUR_CALM).into(),
            _ => "no more".into(),
        };
        let pieces = stream::iter([Ok(Frame::data(Bytes::from_static(b"one"))), Err(error)]);
        ready(Ok::<_, Infallible>(Response::new(StreamBody::new(pieces))))
    };
    let served = async {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let service = NeverAtOnce(tower::service_fn(fails));
        let limits = ServingLimits::default();
        tokio::task::spawn_local(serve_connection(theirs, service, limits, CancellationToken::new()));
        let mut client = Client::over(ours).await.unwrap();
        for (path, reason) in [("/calm", Reason::ENHANCE_YOUR_CALM), ("/other", Reason::INTERNAL_ERROR)] {
            let error = soon(client.get(path)).await.unwrap_err();
            assert_eq!(error.reason(), Some(reason), "{path}");
        }
    };
    LocalSet::new().run_until(served).await;
}
