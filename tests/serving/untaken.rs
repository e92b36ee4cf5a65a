//! Answers that wait for their clients' windows wait for a time, and not for ever. On a paused clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use profilestore::cache::CachedStore;
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::model::Canonicalization;
use profilestore::pb::{BatchGetProfilesRequest, ListProfilesRequest};
use profilestore::rpc::{self, Services};
use profilestore::server::serving::{ServingLimits, serve_connection};
use profilestore::store::Store;
use prost::Message;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::common::profiles::{commit, id, put};
use crate::common::server::frame;
use crate::common::stacks::cache;
use crate::harness::*;

const LIST: &str = "/profilestore.v1.ProfileService/ListProfiles";
const BATCH_GET: &str = "/profilestore.v1.ProfileService/BatchGetProfiles";

fn limits() -> ServingLimits {
    ServingLimits { connection_age: Duration::ZERO, ..ServingLimits::default() }
}

/// How long an answer may wait at least and at most.
fn patience() -> (Duration, Duration) {
    let probe = limits().keepalive_interval + limits().keepalive_timeout;
    (probe, 2 * probe)
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_answer_is_not_taken_is_reset_and_its_connection_stays() {
    LocalSet::new()
        .run_until(async {
            // Of the last one some pieces go before the window is full: it is a stream, and has longer.
            let cases = [("/whole/300000", 1000, 1), ("/pieces/300000", 1000, 1), ("/pieces/50000", 40_000, 8)];
            for (path, window, times) in cases {
                let (io, _shutdown, _serving) = piped(&Watched::default(), limits(), 1 << 20);
                let mut client = Client::with_windows(io, window, 1 << 24).await.unwrap();
                let started = Instant::now();
                let mut body = client.begin(path).await.unwrap().await.unwrap().into_body();
                // What the window lets through comes, and is not given back.
                let error = loop {
                    match tokio::time::timeout(20 * patience().1, body.data()).await.expect("it must end") {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break error,
                        None => panic!("all of {path} came"),
                    }
                };
                assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM), "{path}");
                let (least, most) = patience();
                assert!(
                    (times * least..=times * most).contains(&started.elapsed()),
                    "{path}: {:?}",
                    started.elapsed()
                );
                assert_eq!(client.get("/whole/10").await.unwrap(), pattern(10));
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_a_little_of_its_answer_now_and_then_gets_all_of_it() {
    const WINDOW: u32 = 8192;
    LocalSet::new()
        .run_until(async {
            for path in ["/whole/100000", "/pieces/100000", "/small/100000"] {
                let (io, _shutdown, _serving) = piped(&Watched::default(), limits(), 1 << 20);
                let mut client = Client::with_windows(io, WINDOW, 1 << 24).await.unwrap();
                let mut body = client.begin(path).await.unwrap().await.unwrap().into_body();
                let mut got = Vec::new();
                while let Some(piece) = body.data().await {
                    let piece = piece.unwrap_or_else(|error| panic!("{path}, after {}: {error}", got.len()));
                    got.extend_from_slice(&piece);
                    if got.len() % WINDOW as usize == 0 {
                        tokio::time::sleep(patience().0 - Duration::from_secs(10)).await;
                    }
                    body.flow_control().release_capacity(piece.len()).unwrap();
                }
                assert!(got == pattern(100_000), "{path}");
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_nothing_to_send_may_wait() {
    LocalSet::new()
        .run_until(async {
            let watched = Watched::default();
            let (io, _shutdown, _serving) = piped(&watched, limits(), 1 << 20);
            let mut client = Client::over(io).await.unwrap();
            let (halves, held) =
                (client.begin("/halves/100000").await.unwrap(), client.begin("/hold").await.unwrap());
            let (halves, held) = (tokio::task::spawn_local(whole(halves)), tokio::task::spawn_local(whole(held)));
            tokio::time::sleep(10 * patience().1).await;
            watched.release();
            assert_eq!(halves.await.unwrap().unwrap(), pattern(100_000));
            assert_eq!(held.await.unwrap().unwrap(), b"released");
        })
        .await;
}

/// The ids of the cached profiles. A request for all of them has 8 KiB.
fn names() -> Vec<String> {
    (0..80).map(|number| format!("{number:-<width$}", width = if number == 0 { 127 } else { 100 })).collect()
}

/// Services over cached profiles, each of them large.
async fn services() -> Services {
    let cache = cache();
    let store = Arc::new(CachedStore::new(MemoryStore::new(EngineRules::default(), cache.clone()), cache.clone()));
    let names = names();
    for name in &names {
        commit(&*store, vec![put(name, "", &"x".repeat(200))]).await;
    }
    store.get_many(&names.iter().map(id).collect::<Vec<_>>()).await.unwrap();
    rpc::services(store, Some(cache), Canonicalization::default()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_charged_for_answers_that_nobody_takes_is_free_again_in_time() {
    let batch = BatchGetProfilesRequest { ids: names(), read_mask: None };
    let page = ListProfilesRequest { page_size: 60, ..ListProfilesRequest::default() };
    let calls = [("at once", BATCH_GET, batch.encode_to_vec()), ("called", LIST, page.encode_to_vec())];
    for (way, path, message) in calls {
        LocalSet::new()
            .run_until(async {
                let services = services().await;
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                let (stack, end) = (services.stack(), CancellationToken::new());
                let serving = tokio::task::spawn_local(serve_connection(theirs, stack, limits(), end.clone()));
                let mut client = Client::with_windows(ours, 0, 1 << 24).await.unwrap();
                let mut answers = Vec::new();
                for _ in 0..20 {
                    let (answer, mut body) = client.open(path, false).await.unwrap();
                    body.send_data(Bytes::from(frame(&message)), true).unwrap();
                    answers.push(answer);
                }
                let mut bodies = Vec::new();
                for answer in answers {
                    let answer = answer.await.unwrap();
                    assert!(!answer.headers().contains_key("grpc-status"), "{way}: {:?}", answer.headers());
                    bodies.push(answer.into_body());
                }
                let (least, most) = patience();
                tokio::time::sleep(least - Duration::from_secs(1)).await;
                assert!(services.answer_bytes_held() > 20 * 10_000, "{way}: {}", services.answer_bytes_held());
                tokio::time::sleep(most - least).await;
                assert_eq!(services.answer_bytes_held(), 0, "{way}");
                for mut body in bodies {
                    let error = body.data().await.unwrap().unwrap_err();
                    assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM), "{way}");
                }
                assert!(!serving.is_finished(), "{way}: the connection stays");
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn requests_whose_answers_wait_do_not_keep_the_window_of_their_connection() {
    LocalSet::new()
        .run_until(async {
            let services = services().await;
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let (stack, end) = (services.stack(), CancellationToken::new());
            let _serving = tokio::task::spawn_local(serve_connection(theirs, stack, limits(), end.clone()));
            let mut client = Client::with_windows(ours, 0, 1 << 24).await.unwrap();
            let message = frame(&BatchGetProfilesRequest { ids: names(), read_mask: None }.encode_to_vec());
            // Four times what the window of the connection lets through, and it ends with the end of a request.
            assert_eq!(message.len(), 8192);
            let rounds = 4 * (1 << 20) / message.len();
            let started = Instant::now();
            let mut answers = Vec::new();
            for _ in 0..rounds {
                if answers.len() == 200 {
                    // The client takes back those that have waited for longest.
                    answers.drain(..100);
                }
                let (answer, mut body) = client.open(BATCH_GET, false).await.unwrap();
                body.send_data(Bytes::from(message.clone()), true).unwrap();
                answers.push(answer.await.unwrap());
            }
            assert_eq!(started.elapsed(), Duration::ZERO, "nothing waited for a timer");
        })
        .await;
}
