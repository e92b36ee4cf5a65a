//! The bound on the bytes of all large answers, on the real services: pages that nobody reads do not fill the memory.

use std::sync::Arc;
use std::time::Duration;

use profilestore::model::Canonicalization;
use profilestore::pb::{BatchGetProfilesRequest, CreateProfileRequest, ListProfilesRequest, Profile};
use profilestore::rpc::{self, Services};
use profilestore::server::serving::{self, ServingLimits};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::common::server::{frame, memory_store};
use crate::common::soon;
use crate::harness::Client;

const LIST: &str = "/profilestore.v1.ProfileService/ListProfiles";
const BATCH_GET: &str = "/profilestore.v1.ProfileService/BatchGetProfiles";
const EXPORT: &str = "/profilestore.v1.ProfileService/ExportProfiles";
const CREATE: &str = "/profilestore.v1.ProfileService/CreateProfile";
const PROFILES: usize = 80;
/// Room for three pages of a megabyte.
const LIMIT: usize = 3_300_000;

async fn services() -> Services {
    let services = rpc::services(Arc::new(memory_store()), None, Canonicalization::default()).await.unwrap();
    services.with_answer_bytes_in_flight(LIMIT)
}

/// Makes a call whose answer nobody reads yet.
async fn call(client: &mut Client, path: &str, body: Vec<u8>) -> h2::client::ResponseFuture {
    let (answer, mut request) = client.open(path, false).await.unwrap();
    request.send_data(body.into(), true).unwrap();
    answer
}

/// Reads an answer to its end.
async fn code(answer: h2::client::ResponseFuture) -> Code {
    let answer = soon(answer).await.unwrap();
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status.code();
    }
    let mut body = answer.into_body();
    while let Some(data) = soon(body.data()).await {
        let read = data.unwrap().len();
        body.flow_control().release_capacity(read).unwrap();
    }
    Status::from_header_map(&soon(body.trailers()).await.unwrap().unwrap()).unwrap().code()
}

fn id(number: usize) -> String {
    format!("user-{number}")
}

async fn held(services: &Services, holds: impl Fn(usize) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !holds(services.answer_bytes_in_flight()) {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{} bytes are held", services.answer_bytes_in_flight());
}

#[tokio::test]
async fn pages_that_nobody_reads_are_bounded_and_others_are_refused_at_once() {
    let services = services().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = CancellationToken::new();
    tokio::spawn(serving::serve(listener, services.stack(), 1, ServingLimits::default(), end.clone()));
    let _end = end.drop_guard();
    let connect = async || {
        let stream = TcpStream::connect(address).await.unwrap();
        Client::with_windows(stream, 65_535, 65_535).await.unwrap()
    };
    let mut writer = connect().await;
    for number in 0..PROFILES {
        let attributes = [("a".to_owned(), "x".repeat(13_000))].into();
        let profile = Profile { id: id(number), attributes, ..Profile::default() };
        let request = CreateProfileRequest { profile: Some(profile), ..Default::default() };
        let created = call(&mut writer, CREATE, frame(&request.encode_to_vec())).await;
        assert_eq!(code(created).await, Code::Ok);
    }
    let page = frame(&ListProfilesRequest { page_size: 1000, ..Default::default() }.encode_to_vec());
    // Each on a connection of its own, whose window is full after 64 KiB.
    let mut unread = Vec::new();
    for _ in 0..3 {
        let mut client = connect().await;
        let answer = call(&mut client, LIST, page.clone()).await;
        unread.push((client, answer));
    }
    held(&services, |bytes| bytes > 3_000_000).await;
    let all = BatchGetProfilesRequest { ids: (0..PROFILES).map(id).collect(), ..Default::default() };
    for (path, body) in [(LIST, page.clone()), (BATCH_GET, frame(&all.encode_to_vec())), (EXPORT, frame(b""))] {
        let refused = call(&mut writer, path, body).await;
        assert_eq!(code(refused).await, Code::ResourceExhausted, "{path}");
    }
    // What is small is answered.
    let one = BatchGetProfilesRequest { ids: vec![id(7)], ..Default::default() };
    let small = call(&mut writer, BATCH_GET, frame(&one.encode_to_vec())).await;
    assert_eq!(code(small).await, Code::Ok);
    // Whoever reads, and whoever goes, makes room.
    let (client, answer) = unread.pop().unwrap();
    assert_eq!(code(answer).await, Code::Ok);
    drop((client, unread));
    held(&services, |bytes| bytes == 0).await;
    let page = call(&mut writer, LIST, page).await;
    assert_eq!(code(page).await, Code::Ok);
    held(&services, |bytes| bytes == 0).await;
}
