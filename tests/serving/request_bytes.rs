//! The bound on the bytes of all requests in flight, on the real services.

use std::sync::Arc;

use bytes::Bytes;
use profilestore::model::Canonicalization;
use profilestore::rpc::in_flight::MESSAGE_TIMEOUT;
use profilestore::rpc::{self, Services};
use profilestore::server::serving::{ServingLimits, serve_connection};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::common::server::{frame, memory_store};
use crate::common::soon;
use crate::common::stacks::cache;
use crate::harness::{Client, listening, settle};

const CREATE: &str = "/profilestore.v1.ProfileService/CreateProfile";
const GET: &str = "/profilestore.v1.ProfileService/GetProfile";
const BATCH_GET: &str = "/profilestore.v1.ProfileService/BatchGetProfiles";
const QUERY: &str = "/profilestore.v1.ProfileService/QueryProfilesByDomain";
const BATCH_WRITE: &str = "/profilestore.v1.ProfileService/BatchWriteProfiles";
const IMPORT: &str = "/profilestore.v1.ProfileService/ImportProfiles";
const WATCH: &str = "/profilestore.v1.ProfileService/WatchProfiles";
const EXPORT: &str = "/profilestore.v1.ProfileService/ExportProfiles";
const LIMIT: usize = 5 * 1024 * 1024;

/// With a cache there is the lane of the hot reads, too.
async fn services(cached: bool) -> Services {
    let cache = cached.then(cache);
    let services = rpc::services(Arc::new(memory_store()), cache, Canonicalization::default()).await.unwrap();
    services.with_request_bytes_in_flight(LIMIT)
}

async fn charged(services: &Services, expected: usize) {
    soon(async {
        while services.request_bytes_in_flight() != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn status(answer: h2::client::ResponseFuture) -> Status {
    let answer = soon(answer).await.unwrap();
    match Status::from_header_map(answer.headers()) {
        Some(status) => status,
        None => {
            let mut body = answer.into_body();
            while let Some(data) = body.data().await {
                data.unwrap();
            }
            Status::from_header_map(&body.trailers().await.unwrap().unwrap()).unwrap()
        }
    }
}

#[tokio::test]
async fn a_request_without_room_is_refused_and_room_comes_back() {
    for cached in [false, true] {
        without_room(&services(cached).await).await;
    }
}

async fn without_room(services: &Services) {
    let (address, _end) = listening(services).await;
    let mut client = Client::over(TcpStream::connect(address).await.unwrap()).await.unwrap();

    // Most of a message, which then does not go on.
    let part = 4 * 1024 * 1024 - 1000;
    let (unfinished, mut stuck) = client.open(CREATE, false).await.unwrap();
    stuck.send_data(frame(&vec![0; 4 * 1024 * 1024])[..part].to_vec().into(), false).unwrap();
    charged(services, part).await;

    let message = frame(&[&b"\x0a\x80\x80\x7a"[..], &[b'x'; 2_000_000 - 4]].concat());
    for _ in 0..3 {
        let (answer, mut body) = client.open(GET, false).await.unwrap();
        body.send_data(Bytes::from(message.clone()), true).unwrap();
        let refused = status(answer).await;
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(tonic_types::StatusExt::get_details_retry_info(&refused).is_some());
        charged(services, part).await;
    }
    // Small ones go on.
    let (answer, mut body) = client.open(GET, false).await.unwrap();
    body.send_data(frame(b"\x0a\x01a").into(), true).unwrap();
    assert_eq!(status(answer).await.code(), Code::NotFound);

    // The caller gives up.
    let (given_up, mut begun) = client.open(GET, false).await.unwrap();
    begun.send_data(Bytes::from(message[..100].to_vec()), false).unwrap();
    charged(services, part + 100).await;
    begun.send_reset(h2::Reason::CANCEL);
    charged(services, part).await;
    drop((given_up, unfinished, stuck));
    charged(services, 0).await;
}

#[tokio::test]
async fn an_import_that_waits_for_its_caller_is_charged_nothing() {
    let services = services(true).await;
    let (address, _end) = listening(&services).await;
    let mut client = Client::over(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let (answer, mut body) = client.open(IMPORT, false).await.unwrap();
    // Chunks that hold nothing but a field that no version knows.
    let unknown = [&b"\x9a\x06\x80\x80\x20"[..], &vec![0; 512 * 1024]].concat();
    for _ in 0..40 {
        body.reserve_capacity(unknown.len() + 5);
        let mut chunk = Bytes::from(frame(&unknown));
        while !chunk.is_empty() {
            let room = soon(std::future::poll_fn(|cx| body.poll_capacity(cx))).await.unwrap().unwrap();
            body.send_data(chunk.split_to(room.min(chunk.len())), false).unwrap();
        }
        charged(&services, 0).await;
        // A part of the next message, which is all that is held; then the rest of it.
        body.send_data(Bytes::from_static(b"\0"), false).unwrap();
        charged(&services, 1).await;
        body.send_data(frame(b"")[1..].to_vec().into(), false).unwrap();
        charged(&services, 0).await;
    }
    body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(status(answer).await.code(), Code::Ok);
    charged(&services, 0).await;
}

/// A call of every kind of which the end never comes, or half of the message, or nothing but its head.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_ended_gives_its_room_back_in_time() {
    let calls = [CREATE, GET, BATCH_GET, QUERY, BATCH_WRITE, WATCH, EXPORT];
    let message = frame(&[0x9a, 0x06, 0x01, 0x00]);
    for (cached, path) in [false, true].into_iter().flat_map(|cached| calls.map(|path| (cached, path))) {
        for sent in [message.len(), message.len() / 2, 0] {
            LocalSet::new().run_until(unended(cached, path, &message[..sent])).await;
        }
    }
    // A stream may take its time between its messages, but not before the first or within one.
    for sent in [message.len() / 2, 0] {
        LocalSet::new().run_until(unended(true, IMPORT, &message[..sent])).await;
    }
}

async fn unended(cached: bool, path: &str, sent: &[u8]) {
    let services = services(cached).await;
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let end = CancellationToken::new();
    let serving = serve_connection(theirs, services.stack(), ServingLimits::default(), end.clone());
    tokio::task::spawn_local(serving);
    let mut client = Client::over(ours).await.unwrap();
    let (answer, mut body) = client.open(path, false).await.unwrap();
    if !sent.is_empty() {
        body.send_data(sent.to_vec().into(), false).unwrap();
    }
    settle().await;
    assert_eq!(services.request_bytes_in_flight(), sent.len(), "{path}, cached: {cached}");
    let begun = Instant::now();
    let answer = tokio::time::timeout(10 * MESSAGE_TIMEOUT, answer).await.expect("an answer must come").unwrap();
    let status = match Status::from_header_map(answer.headers()) {
        Some(status) => status,
        None => Status::from_header_map(&answer.into_body().trailers().await.unwrap().unwrap()).unwrap(),
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{path}: {status:?}");
    // A head alone may wait in the lane for a second before that.
    let longest = MESSAGE_TIMEOUT.as_secs() + u64::from(sent.is_empty());
    let took = begun.elapsed().as_secs();
    assert!((MESSAGE_TIMEOUT.as_secs()..=longest).contains(&took), "{path}, {} bytes: {took} s", sent.len());
    assert_eq!(services.request_bytes_in_flight(), 0, "{path}");
}
