//! How a watch ends, and what slow watchers meet and do not do to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use profilestore::engine::EngineRules;
use profilestore::engine::commit_log::Retention;
use profilestore::engine::sled::{SledOptions, SledStore, SnapshotPolicy};
use profilestore::store::{Clock, NoObserver, Store};
use tonic::Code;

use crate::common::files::with_ending;
use crate::common::profiles::{commit, put};
use crate::common::server::{TestServer, memory_store};
use crate::common::soon;
use crate::stores::{Fault, FaultyStore};
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

/// A store on disk that keeps nothing of its log for followers, at a time that moves.
async fn trimming_store(dir: &std::path::Path, time: &Arc<AtomicU64>) -> Arc<SledStore> {
    let time = time.clone();
    let clock = Clock::from_fn(move || UNIX_EPOCH + Duration::from_secs(time.load(Ordering::Relaxed)));
    let defaults = SledOptions::new(dir);
    let retention = Retention { age: Duration::ZERO, bytes: 0 };
    let options = SledOptions {
        rules: EngineRules { clock, ..EngineRules::default() },
        snapshots: SnapshotPolicy { retention, ..defaults.snapshots },
        log_segment_bytes: 1000,
        ..defaults
    };
    Arc::new(SledStore::open(options, Arc::new(NoObserver)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_older_than_the_log_on_disk_is_answered_with_the_oldest_also_after_a_restart() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(1_000_000_000)));
    let store = trimming_store(dir.path(), &time).await;
    let server = TestServer::sharing(store.clone(), 100).await;
    let token = Request::oldest().send(&mut server.profiles()).await.unwrap().response().await.resume_token;
    drop(server);
    for number in 0..30 {
        commit(&*store, vec![put(&format!("u{number:02}"), "a@x.example", &"n".repeat(200))]).await;
        time.fetch_add(3600, Ordering::Relaxed);
    }
    // Nothing goes before sled is flushed as far.
    let segments = || with_ending(&dir.path().join("commit-log"), ".log").len();
    let all = segments();
    soon(async {
        while segments() == all {
            store.snapshot().await.unwrap();
        }
    })
    .await;
    let mut store = store;
    for restarts in [false, true] {
        if restarts {
            store.close().await.unwrap();
            store = trimming_store(dir.path(), &time).await;
        }
        let server = TestServer::sharing(store.clone(), 100).await;
        let mut client = server.profiles();
        let after = |token: String| {
            Request::oldest().start(profilestore::pb::watch_profiles_request::Start::ResumeToken(token))
        };
        let answer = client.watch_profiles(after(token.clone()).0).await;
        let status = assert_refused(answer, Code::OutOfRange, "FEED_TRUNCATED");
        let oldest = metadata(&status, "oldest_token").unwrap();
        // What is left is the end of the history, without a gap.
        let mut rest = after(oldest).send(&mut client).await.unwrap();
        let mut found: Vec<usize> = Vec::new();
        while found.last() != Some(&29) {
            let events = rest.response().await.events;
            found.extend(events.iter().map(|event| event.id.strip_prefix('u').unwrap().parse::<usize>().unwrap()));
        }
        // The first number is that of the oldest segment, less one: numbers begin at 0.
        let segment = with_ending(&dir.path().join("commit-log"), ".log").remove(0);
        assert_eq!(segment.file_stem().unwrap().to_str().unwrap().parse(), Ok(found[0] + 1));
        assert!(found[0] > 0, "nothing was trimmed");
        assert_eq!(found, (found[0]..30).collect::<Vec<_>>());
    }
    store.close().await.unwrap();
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
    let [mut client, mut other, mut third] = [(); 3].map(|()| server.profiles_of_another());
    let first = Request::now().begin(&mut client).await;
    let _second = Request::now().snapshot().send(&mut other).await.unwrap();
    let status =
        assert_refused(third.watch_profiles(Request::oldest().0).await, Code::ResourceExhausted, "OVERLOADED");
    assert_eq!(metadata(&status, "limit").as_deref(), Some("2"));
    drop(first);
    soon(async { while third.watch_profiles(Request::now().0).await.is_err() {} }).await;
}

#[tokio::test]
async fn one_connection_leaves_watchers_to_others() {
    const WATCHERS: usize = 20;
    let server = TestServer::sharing(Arc::new(memory_store()), WATCHERS).await;
    let (mut greedy, mut modest) = (server.profiles_of_another(), server.profiles_of_another());
    let mut watchers = Vec::new();
    let refused = loop {
        match greedy.watch_profiles(Request::now().0).await {
            Ok(watcher) => watchers.push(watcher),
            refused => break assert_refused(refused, Code::ResourceExhausted, "OVERLOADED"),
        }
    };
    assert_eq!(watchers.len(), WATCHERS / 2);
    assert!(refused.message().contains("another connection"), "{}", refused.message());
    Request::now().begin(&mut modest).await;
    watchers.truncate(WATCHERS / 4);
    soon(async { while greedy.watch_profiles(Request::now().0).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_watch_ends_at_its_deadline() {
    let server = TestServer::start().await;
    let mut deadline = Duration::from_millis(300);
    // On a busy machine it may be over before the watch has begun.
    let mut stream = loop {
        let mut request = tonic::Request::new(Request::now().0);
        request.set_timeout(deadline);
        match server.profiles().watch_profiles(request).await {
            Ok(stream) => break stream.into_inner(),
            Err(status) => assert!(deadline < Duration::from_secs(60), "{status:?}"),
        }
        deadline *= 2;
    };
    let status = loop {
        match soon(stream.message()).await {
            Ok(response) => assert_eq!(response.unwrap().events, []),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn watchers_miss_nothing_when_the_task_that_reads_for_them_panics() {
    let store = Arc::new(FaultyStore::new(Fault::PanicsOverChanges(AtomicUsize::new(0))));
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut watcher = Request::now().begin(&mut server.profiles()).await;
    commit(&*store, vec![put("a", "", "")]).await;
    assert_eq!(watcher.next(1).await, ["PUT a"]);
    let Fault::PanicsOverChanges(left) = &store.fault else { unreachable!() };
    left.store(1, Ordering::SeqCst);
    for id in ["b", "c"] {
        commit(&*store, vec![put(id, "", "")]).await;
        // Else there are heartbeats for ever.
        assert_eq!(soon(watcher.next(1)).await, [format!("PUT {id}")]);
    }
    assert_eq!(left.load(Ordering::SeqCst), 0, "it panicked");
}
