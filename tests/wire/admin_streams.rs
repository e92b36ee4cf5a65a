//! Verify and Backup.

use std::sync::Arc;

use profilestore::engine::sled::{SledOptions, SledStore, inspect};
use profilestore::pb::admin_service_client::AdminServiceClient;
use profilestore::pb::*;
use profilestore::store::NoObserver;
use tempfile::TempDir;
use tokio_stream::StreamExt;
use tonic::codegen::tokio_stream;

use crate::common::server::TestServer;
use crate::*;

/// A server over a store on disk with some megabytes.
async fn server() -> (TempDir, TestServer, AdminServiceClient<Channel>) {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledOptions::new(dir.path()), Arc::new(NoObserver)).await.unwrap();
    let server = TestServer::over(store).await;
    let profiles = (0..400).map(|number| Profile {
        attributes: [("filler".to_owned(), "x".repeat(14_000))].into(),
        ..profile(&format!("u{number:05}"), &format!("u@d{}.example", number % 7))
    });
    let profiles: Vec<_> = profiles.collect();
    let chunks = profiles
        .chunks(100)
        .map(|profiles| ImportProfilesRequest { profiles: profiles.to_vec(), ..ImportProfilesRequest::default() });
    let chunks: Vec<_> = chunks.collect();
    let answers = server.profiles().import_profiles(tokio_stream::iter(chunks)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect::<Result<_, _>>().await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.written_count).sum::<i64>(), 400);
    let admin = AdminServiceClient::new(server.channel());
    (dir, server, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_streams_its_progress_and_says_when_it_is_done() {
    let (_dir, _server, mut admin) = server().await;
    let answers = admin.verify(VerifyRequest {}).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect::<Result<_, _>>().await.unwrap();
    let last = answers.last().unwrap();
    assert!(last.done && answers.iter().filter(|answer| answer.done).count() == 1);
    assert_eq!((last.checked_count, last.unsettled_count), (400, 0));
    assert!(answers.iter().all(|answer| answer.problems.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_a_whole_file_and_a_second_one_at_the_same_time_is_refused() {
    let (dir, _server, mut admin) = server().await;
    let mut first = admin.backup(BackupRequest {}).await.unwrap().into_inner();
    while first.message().await.unwrap().unwrap().data.is_empty() {}
    // Nobody takes the other chunks, so the first one goes on.
    let refused = admin.backup(BackupRequest {}).await.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    drop(first);
    let bytes = loop {
        let answers = admin.backup(BackupRequest {}).await.unwrap().into_inner();
        match answers.collect::<Result<Vec<_>, _>>().await {
            Ok(chunks) => break chunks.into_iter().flat_map(|chunk| chunk.data).collect::<Vec<_>>(),
            // The server has not heard yet that nobody wants the first one.
            Err(status) => assert_eq!(reason(&status), "OVERLOADED"),
        }
    };
    let file = dir.path().join("a.backup");
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(inspect(&file).unwrap().profiles, 400);
}
