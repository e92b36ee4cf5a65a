//! Watchers that find no room for what they are sent, because others hold it all: none of them is ended, none is left in
//! silence, and all get everything.

use std::sync::Arc;

use futures_util::future::try_join_all;
use profilestore::model::{Canonicalization, Draft, Precondition, Write};
use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::pb::watch_profiles_request::Start;
use profilestore::pb::{ListProfilesRequest, Profile, WatchProfilesRequest, WatchProfilesResponse, WatchStart};
use profilestore::rpc;
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tonic::{Code, Response, Streaming};

use crate::common::profiles::{commit, put};
use crate::common::server::{frame, memory_store};
use crate::common::soon;
use crate::harness::{Client, listening};

const PROFILES: usize = 5000;
/// Each of these is an event that needs room.
const LARGE_EVERY: usize = 1000;
const WATCHERS: usize = 60;
/// Room for a handful of messages of all watchers.
const LIMIT: usize = 3 * 1024 * 1024;
/// What a client takes of all its streams together before it reads them: more than there is room for.
const WINDOW: u32 = 4 * 1024 * 1024;

/// A write whose event does not fit a small message.
fn large(id: &str) -> Write {
    let attributes = [("a".to_owned(), "x".repeat(10_000))].into();
    let profile = Profile { id: id.to_owned(), attributes, ..Profile::default() };
    Write::put(Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap(), Precondition::None)
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_are_all_behind_get_everything() {
    let store = memory_store();
    for number in 0..PROFILES {
        let id = format!("{number:04}");
        let write = if number % LARGE_EVERY == 0 { large(&id) } else { put(&id, "", &"x".repeat(190)) };
        commit(&store, vec![write]).await;
    }
    let services = rpc::services(Arc::new(store), None, Canonicalization::default()).await.unwrap();
    let services = services.with_answer_bytes_held(LIMIT);
    let (address, _end) = listening(&services).await;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    // Each stream takes a first message, and no more until it is read.
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(WINDOW);

    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(ProfileServiceClient::new(endpoint.connect().await.unwrap()));
    }
    let begun = (0..WATCHERS).map(|number| {
        let mut client = clients[number % clients.len()].clone();
        let include_snapshot = number % 10 == 0;
        let start = (!include_snapshot).then_some(Start::StartAt(WatchStart::Oldest.into()));
        let request = WatchProfilesRequest { start, include_snapshot, ..Default::default() };
        async move { client.watch_profiles(request).await }
    });
    let watchers: Vec<_> = soon(try_join_all(begun)).await.unwrap().into_iter().map(Response::into_inner).collect();
    let held = services.answer_bytes_held();
    assert!(held > LIMIT / 4, "there is room enough: {held}");

    let mut all = JoinSet::new();
    for mut watcher in watchers {
        all.spawn(async move {
            let mut seen = 0;
            while seen < PROFILES {
                seen += next(&mut watcher).await.events.len();
            }
            seen
        });
    }
    while let Some(seen) = all.join_next().await {
        assert_eq!(seen.unwrap(), PROFILES);
    }
}

async fn next(watcher: &mut Streaming<WatchProfilesResponse>) -> WatchProfilesResponse {
    soon(watcher.message()).await.expect("it is not ended").expect("it does not end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_without_room_gets_what_is_small_and_its_tokens_and_the_rest_when_there_is_room() {
    const PAGE: usize = 1000 * 230;
    let store = Arc::new(memory_store());
    for number in 0..1000 {
        commit(&*store, vec![put(&format!("{number:04}"), "", &"x".repeat(190))]).await;
    }
    let services = rpc::services(store.clone(), None, Canonicalization::default()).await.unwrap();
    let services = services.with_answer_bytes_held(PAGE + PAGE / 4);
    let (address, _end) = listening(&services).await;
    let fill = async || {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut greedy = Client::with_windows(socket, 65_535, 65_535).await.unwrap();
        let (answer, mut body) = greedy.open("/profilestore.v1.ProfileService/ListProfiles", false).await.unwrap();
        let page = ListProfilesRequest { page_size: 1000, ..Default::default() }.encode_to_vec();
        body.send_data(frame(&page).into(), true).unwrap();
        let untaken = soon(answer).await.unwrap();
        assert!(services.answer_bytes_held() > PAGE / 2);
        (greedy, untaken)
    };
    let untaken = fill().await;

    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = ProfileServiceClient::new(endpoint.connect().await.unwrap());
    let mut watcher = soon(client.watch_profiles(WatchProfilesRequest::default())).await.unwrap().into_inner();
    assert!(next(&mut watcher).await.events.is_empty());
    commit(&*store, vec![put("small", "", "")]).await;
    let small = next(&mut watcher).await;
    assert_eq!(small.events.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["small"]);
    commit(&*store, vec![large("large")]).await;
    commit(&*store, vec![put("behind", "", "")]).await;
    for _ in 0..2 {
        let token = next(&mut watcher).await;
        assert_eq!((token.events.len(), token.resume_token), (0, small.resume_token.clone()));
    }
    drop(untaken);
    let mut ids = Vec::new();
    while ids.len() < 2 {
        ids.extend(next(&mut watcher).await.events.into_iter().map(|event| event.id));
    }
    assert_eq!(ids, ["large", "behind"]);

    // A drain ends it also while it waits for room.
    soon(async {
        while services.answer_bytes_held() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _untaken = fill().await;
    commit(&*store, vec![large("later")]).await;
    services.end_watches();
    let status = loop {
        match soon(watcher.message()).await {
            Ok(token) => assert!(token.unwrap().events.is_empty()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}
