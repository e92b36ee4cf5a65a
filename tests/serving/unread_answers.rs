//! The bound on the bytes of all answers that are held, on the real services: a client that asks for pages and takes
//! nothing costs no more than the bound, and others go on.

use std::sync::Arc;

use bytes::Bytes;
use profilestore::model::{Canonicalization, Draft, Precondition};
use profilestore::pb::profile_write::Write;
use profilestore::pb::{
    BatchWriteProfilesRequest, GetProfileRequest, ListProfilesRequest, Profile, ProfileWrite, UpdateProfileRequest,
};
use profilestore::rpc::{self, Services};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::common::profiles::{commit, put};
use crate::common::server::{frame, memory_store};
use crate::common::soon;
use crate::harness::{Client, listening};

const LIST: &str = "/profilestore.v1.ProfileService/ListProfiles";
const GET: &str = "/profilestore.v1.ProfileService/GetProfile";
const BATCH_WRITE: &str = "/profilestore.v1.ProfileService/BatchWriteProfiles";
const PROFILES: usize = 1000;
/// About what a page takes.
const PAGE: usize = PROFILES * 230;
/// Room for a few pages.
const LIMIT: usize = 4 * PAGE;
const CALLS: usize = 40;

async fn services() -> Services {
    let store = memory_store();
    for number in 0..PROFILES {
        commit(&store, vec![put(&format!("{number:04}"), "", &"x".repeat(190))]).await;
    }
    let services = rpc::services(Arc::new(store), None, Canonicalization::default()).await.unwrap();
    services.with_answer_bytes_held(LIMIT)
}

async fn ask(client: &mut Client, path: &str, message: Vec<u8>) -> h2::client::ResponseFuture {
    let (answer, mut body) = client.open(path, false).await.unwrap();
    body.send_data(Bytes::from(frame(&message)), true).unwrap();
    answer
}

fn page() -> Vec<u8> {
    ListProfilesRequest { page_size: PROFILES as i32, ..ListProfilesRequest::default() }.encode_to_vec()
}

/// Asks for a page and takes all of it.
async fn take_page(client: &mut Client) {
    let answer = soon(ask(client, LIST, page()).await).await.unwrap();
    assert!(!answer.headers().contains_key("grpc-status"), "{:?}", answer.headers());
    let mut body = answer.into_body();
    let mut taken = 0;
    while let Some(data) = soon(body.data()).await {
        let data = data.unwrap();
        taken += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert!(taken > PROFILES * 200);
}

#[tokio::test]
async fn pages_that_nobody_takes_are_bounded_and_others_go_on() {
    let services = services().await;
    let (address, _end) = listening(&services).await;

    let socket = TcpStream::connect(address).await.unwrap();
    let mut greedy = Client::with_windows(socket, 65_535, 65_535).await.unwrap();
    let mut untaken = Vec::new();
    let mut refused = 0;
    for _ in 0..CALLS {
        // The heads come; of the bodies what fits the windows, and no more.
        let answer = soon(ask(&mut greedy, LIST, page()).await).await.unwrap();
        match Status::from_header_map(answer.headers()) {
            Some(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
                refused += 1;
            }
            None => untaken.push(answer),
        }
        assert!(services.answer_bytes_held() <= LIMIT);
    }
    assert!((1..=4).contains(&untaken.len()) && refused == CALLS - untaken.len(), "{refused} of {CALLS} refused");
    // That is its share; another one has its own, and takes its page.
    let mut reader = Client::over(TcpStream::connect(address).await.unwrap()).await.unwrap();
    take_page(&mut reader).await;

    let mut other = Client::over(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let get = GetProfileRequest { id: "0007".into(), read_mask: None }.encode_to_vec();
    let answer = soon(ask(&mut other, GET, get).await).await.unwrap();
    assert!(!answer.headers().contains_key("grpc-status"), "small answers need no room");

    // Room comes back when the client goes, and pages with it.
    drop((greedy, untaken));
    nothing_held(&services).await;
    take_page(&mut other).await;
    nothing_held(&services).await;
}

/// Waits until nothing is held any more: the client has the end of an answer a moment before the server is done with it.
async fn nothing_held(services: &Services) {
    soon(async {
        while services.answer_bytes_held() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A batch that changes nothing, and whose answer has all of these profiles.
fn small_batch_with_a_large_answer(ids: &[String]) -> Vec<u8> {
    let write = |id: &String| {
        let profile = Some(Profile { id: id.clone(), display_name: "n".into(), ..Profile::default() });
        let update = UpdateProfileRequest { profile, ..UpdateProfileRequest::default() };
        ProfileWrite { write: Some(Write::Update(update)) }
    };
    BatchWriteProfilesRequest { writes: ids.iter().map(write).collect(), ..Default::default() }.encode_to_vec()
}

#[tokio::test]
async fn answers_of_writes_that_nobody_takes_are_bounded() {
    const BOUND: usize = 8 * 1024 * 1024;
    let store = memory_store();
    let ids: Vec<_> = (0..100).map(|number| format!("{number:03}")).collect();
    for id in &ids {
        let attributes = [("a".to_owned(), "x".repeat(15_000))].into();
        let profile = Profile { id: id.clone(), display_name: "n".into(), attributes, ..Profile::default() };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
        commit(&store, vec![profilestore::model::Write::put(draft, Precondition::None)]).await;
    }
    let services = rpc::services(Arc::new(store), None, Canonicalization::default()).await.unwrap();
    let services = services.with_answer_bytes_held(BOUND);
    let (address, _end) = listening(&services).await;
    let mut refused = 0;
    // They stay until all have been asked.
    let (mut connections, mut untaken) = (Vec::new(), Vec::new());
    let batch = small_batch_with_a_large_answer(&ids);
    assert!(batch.len() < 10_000);
    for _ in 0..4 {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut greedy = Client::with_windows(socket, 65_535, 65_535).await.unwrap();
        for _ in 0..5 {
            let answer = soon(ask(&mut greedy, BATCH_WRITE, batch.clone()).await).await.unwrap();
            match Status::from_header_map(answer.headers()) {
                Some(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted);
                    refused += 1;
                }
                None => untaken.push(answer),
            }
            assert!(services.answer_bytes_held() <= BOUND, "{}", services.answer_bytes_held());
        }
        connections.push(greedy);
    }
    assert!(refused > 10, "{refused} of 20 refused");
}
