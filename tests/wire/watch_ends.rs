//! How a watch ends, and what slow watchers meet and do not do to others.

use std::sync::Arc;
use std::time::Duration;

use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::store::{NoObserver, Store};
use tonic::Code;

use crate::common::profiles::{commit, put};
use crate::common::server::{TestServer, memory_store};
use crate::common::soon;
use crate::watcher::Request;
use crate::*;

/// Far more than all the buffers between a server and a watcher hold.
const LARGE_CHANGES: usize = 6000;

/// Changes of 8 KiB each, numbered by their ids.
async fn write_large(store: &impl Store, from: usize, count: usize) {
    for first in (from..from + count).step_by(50) {
        let writes = (first..(first + 50).min(from + count)).map(|number| {
            let profile = Profile {
                id: format!("{number:06}"),
                attributes: [("filler".into(), "x".repeat(8000))].into(),
                ..Profile::default()
            };
            let draft = profilestore::model::Draft::from_profile(profile, Default::default(), "profile").unwrap();
            profilestore::model::Write::put(draft, profilestore::model::Precondition::None)
        });
        commit(store, writes.collect()).await;
    }
}

fn numbers(events: &[profilestore::pb::ProfileEvent]) -> Vec<usize> {
    events.iter().map(|event| event.id.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_token_older_than_what_is_kept_is_answered_with_the_oldest() {
    let store = Arc::new(memory_store().keeping_changes(10));
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut client = server.profiles();
    for request in [Request::oldest(), Request::oldest().domain("example", true)] {
        let token = request.clone().send(&mut client).await.unwrap().response().await.resume_token;
        let after = |token: String| {
            request.clone().start(profilestore::pb::watch_profiles_request::Start::ResumeToken(token))
        };
        commit(&*store, (0..20).map(|number| put(&format!("u{number}"), "a@x.example", &token)).collect()).await;
        // Another server, since what this one sent to its watchers lately it can send again from memory.
        let server = TestServer::sharing(store.clone(), 100).await;
        let mut client = server.profiles();
        let answer = client.watch_profiles(after(token).0).await;
        let status = assert_refused(answer, Code::OutOfRange, "FEED_TRUNCATED");
        let oldest = metadata(&status, "oldest_token").unwrap();
        let mut rest = after(oldest).send(&mut client).await.unwrap();
        assert_eq!(rest.next(10).await, (10..20).map(|number| format!("PUT u{number}")).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_watcher_that_is_overtaken_is_told_so_and_never_has_a_gap() {
    let store = Arc::new(memory_store().keeping_changes(100));
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut watcher = Request::oldest().send(&mut server.profiles()).await.unwrap();
    watcher.response().await;
    write_large(&*store, 0, LARGE_CHANGES).await;
    let mut seen = Vec::new();
    let status = loop {
        match watcher.try_response().await {
            Ok(response) => seen.extend(numbers(&response.events)),
            Err(status) => break status,
        }
    };
    assert_eq!(seen, (0..seen.len()).collect::<Vec<_>>());
    assert!(seen.len() < LARGE_CHANGES - 100, "{}", seen.len());
    assert_refused::<()>(Err(status), Code::OutOfRange, "FEED_TRUNCATED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_holds_up_nobody_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledOptions::new(dir.path()), Arc::new(NoObserver)).await.unwrap();
    let store = Arc::new(store);
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut client = server.profiles();
    let mut slow = Request::oldest().send(&mut client).await.unwrap();
    let mut quick = Request::oldest().send(&mut server.profiles()).await.unwrap();
    let writer = tokio::spawn(async move { write_large(&*store, 0, LARGE_CHANGES).await });
    let mut seen = Vec::new();
    while seen.len() < LARGE_CHANGES {
        seen.extend(numbers(&quick.response().await.events));
    }
    writer.await.unwrap();
    assert_eq!(seen, (0..LARGE_CHANGES).collect::<Vec<_>>());
    // 48 MiB have gone past the slow one, which now reads them from the log.
    let mut late = Vec::new();
    while late.len() < LARGE_CHANGES {
        late.extend(numbers(&slow.response().await.events));
    }
    assert_eq!(late, seen);
}

#[tokio::test]
async fn a_draining_server_sends_the_last_events_and_then_says_so() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut client = server.profiles();
    let mut all = Request::now().begin(&mut client).await;
    let mut none = Request::now().domain("nobody.example", true).begin(&mut client).await;
    commit(&*store, (0..100).map(|number| put(&format!("u{number}"), "a@x.example", "")).collect()).await;
    server.services.end_watches();
    assert_eq!(all.next(100).await.len(), 100);
    let token = all.token.clone();
    for watcher in [&mut all, &mut none] {
        assert_refused::<()>(Err(watcher.error().await), Code::Unavailable, "DRAINING");
    }
    let answer = client.watch_profiles(Request::now().0).await;
    assert_refused(answer, Code::Unavailable, "DRAINING");
    // Another server over the same store goes on where this one stopped.
    commit(&*store, vec![put("after", "", "")]).await;
    let next = TestServer::sharing(store, 100).await;
    let mut rest = Request::after(&token).send(&mut next.profiles()).await.unwrap();
    assert_eq!(rest.next(1).await, ["PUT after"]);
}

#[tokio::test]
async fn watchers_have_a_bound_and_make_room_when_they_go() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing(store, 2).await;
    let mut client = server.profiles();
    let first = Request::now().begin(&mut client).await;
    let _second = Request::now().snapshot().send(&mut client).await.unwrap();
    let status =
        assert_refused(client.watch_profiles(Request::oldest().0).await, Code::ResourceExhausted, "OVERLOADED");
    assert_eq!(metadata(&status, "limit").as_deref(), Some("2"));
    drop(first);
    soon(async { while client.watch_profiles(Request::now().0).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_watch_ends_at_its_deadline() {
    let server = TestServer::start().await;
    let mut request = tonic::Request::new(Request::now().0);
    request.set_timeout(Duration::from_millis(300));
    let mut stream = server.profiles().watch_profiles(request).await.unwrap().into_inner();
    let status = loop {
        match soon(stream.message()).await {
            Ok(response) => assert_eq!(response.unwrap().events, []),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);
}
