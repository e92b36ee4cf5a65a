//! Watchers that are all behind, and more of them than there is room for what each could be sent: none of them is ended,
//! none is left in silence, and all get everything.

use std::sync::Arc;

use futures_util::future::try_join_all;
use profilestore::model::Canonicalization;
use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::pb::watch_profiles_request::Start;
use profilestore::pb::{ExportProfilesRequest, WatchProfilesRequest, WatchStart};
use profilestore::rpc;
use tokio::task::JoinSet;
use tonic::Response;
use tonic::transport::Endpoint;

use crate::common::profiles::{commit, put};
use crate::common::server::memory_store;
use crate::common::soon;
use crate::harness::listening;

const PROFILES: usize = 5000;
/// Room for a handful of messages of [`WATCHERS`] watchers.
const LIMIT: usize = 3 * 1024 * 1024;
const WATCHERS: usize = 60;
/// What a client takes of all its streams together before it reads them: less than what they have for it.
const WINDOW: u32 = 4 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_are_all_behind_wait_for_room_and_get_everything() {
    let store = memory_store();
    for number in 0..PROFILES {
        commit(&store, vec![put(&format!("{number:04}"), "", &"x".repeat(190))]).await;
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
        let start = Some(Start::StartAt(WatchStart::Oldest.into()));
        async move { client.watch_profiles(WatchProfilesRequest { start, ..Default::default() }).await }
    });
    let watchers: Vec<_> = soon(try_join_all(begun)).await.unwrap().into_iter().map(Response::into_inner).collect();
    // As many as there are, those that were let in hold the room, and the others have been told that they wait.
    let mut exporter = ProfileServiceClient::new(endpoint.connect().await.unwrap());
    let mut chunks = soon(exporter.export_profiles(ExportProfilesRequest::default())).await.unwrap().into_inner();
    soon(async {
        while services.answer_bytes_held() <= LIMIT / 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let mut all = JoinSet::new();
    for mut watcher in watchers {
        all.spawn(async move {
            let mut seen = 0;
            while seen < PROFILES {
                let message = soon(watcher.message()).await.expect("it is not ended").expect("it does not end");
                seen += message.events.len();
            }
            seen
        });
    }
    while let Some(seen) = all.join_next().await {
        assert_eq!(seen.unwrap(), PROFILES);
    }
    let mut exported = 0;
    while let Some(chunk) = soon(chunks.message()).await.expect("an export is not ended either") {
        exported += chunk.profiles.len();
    }
    assert_eq!(exported, PROFILES);
    soon(async {
        while services.answer_bytes_held() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
