//! Compressed requests.

use profilestore::pb::*;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use crate::common::server::TestServer;
use crate::*;

#[tokio::test]
async fn a_request_compressed_with_gzip_is_accepted() {
    let server = TestServer::start().await;
    let mut client = server.profiles().send_compressed(CompressionEncoding::Gzip);
    let given = Profile { attributes: [("v".into(), "x".repeat(10_000))].into(), ..profile("user-1", "") };
    assert_eq!(create(&mut client, given.clone()).await.attributes, given.attributes);
    assert_eq!(all_ids(&mut server.profiles()).await, ["user-1"]);
}

#[tokio::test]
async fn a_request_that_unpacks_to_more_than_4_mib_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.profiles().send_compressed(CompressionEncoding::Gzip);
    let request = LookupProfilesByEmailRequest { email: "x".repeat(64 * 1024 * 1024), ..Default::default() };
    let status = client.lookup_profiles_by_email(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
}

#[tokio::test]
async fn other_compressions_are_unimplemented() {
    let server = TestServer::start().await;
    let headers = [("grpc-encoding", "zstd")];
    let path = "/profilestore.v1.ProfileService/GetProfile";
    let answer = server.raw(path, &headers, b"\x01\x00\x00\x00\x01x".to_vec()).await;
    assert_eq!(answer.status.code(), Code::Unimplemented);
}
