//! What callers are told when something is wrong, with the details decoded.

use profilestore::pb::*;
use profilestore::store::{Corruption, StoreError};
use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::common::server::{TestServer, frame};
use crate::stores::{Fault, FaultyStore};
use crate::*;

const GET: &str = "/profilestore.v1.ProfileService/GetProfile";

fn get_request(paths: &[&str]) -> GetProfileRequest {
    GetProfileRequest { id: "user-1".into(), read_mask: mask(paths) }
}

/// One status from each call that reads the store.
async fn every_call(server: &TestServer) -> Vec<(&'static str, Status)> {
    let mut client = server.profiles();
    let given = Some(profile("user-1", "ada@a.example"));
    let email = || "ada@a.example".to_owned();
    let domain = || "a.example".to_owned();
    vec![
        ("get", client.get_profile(get_request(&[])).await.unwrap_err()),
        ("list", client.list_profiles(ListProfilesRequest::default()).await.unwrap_err()),
        (
            "batch get",
            client
                .batch_get_profiles(BatchGetProfilesRequest { ids: vec!["a".into()], read_mask: None })
                .await
                .unwrap_err(),
        ),
        (
            "lookup",
            client
                .lookup_profiles_by_email(LookupProfilesByEmailRequest { email: email(), ..Default::default() })
                .await
                .unwrap_err(),
        ),
        (
            "query",
            client
                .query_profiles_by_domain(QueryProfilesByDomainRequest { domain: domain(), ..Default::default() })
                .await
                .unwrap_err(),
        ),
        ("count", client.count_profiles(CountProfilesRequest::default()).await.unwrap_err()),
        ("domains", client.list_domains(ListDomainsRequest::default()).await.unwrap_err()),
        (
            "create",
            client
                .create_profile(CreateProfileRequest { profile: given.clone(), ..Default::default() })
                .await
                .unwrap_err(),
        ),
        (
            "update",
            client.update_profile(UpdateProfileRequest { profile: given, ..Default::default() }).await.unwrap_err(),
        ),
        (
            "delete",
            client
                .delete_profile(DeleteProfileRequest { id: "user-1".into(), ..Default::default() })
                .await
                .unwrap_err(),
        ),
    ]
}

#[tokio::test]
async fn a_failure_of_the_store_has_its_code_in_every_call() {
    for (error, code, expected_reason, retry) in [
        (StoreError::Overloaded, Code::ResourceExhausted, "OVERLOADED", true),
        (StoreError::DiskLow, Code::ResourceExhausted, "DISK_LOW", true),
        (StoreError::Closed, Code::Unavailable, "DRAINING", true),
        (StoreError::Failed { cause: "SECRET".into() }, Code::Unavailable, "STORE_FAILED", true),
        (StoreError::Corrupt(Corruption("SECRET".into())), Code::DataLoss, "CORRUPT_RECORD", false),
    ] {
        let server = TestServer::over(FaultyStore::new(Fault::Fails(error))).await;
        for (call, status) in every_call(&server).await {
            assert_eq!((status.code(), reason(&status).as_str()), (code, expected_reason), "{call}");
            let delay = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
            assert_eq!(delay.is_some_and(|delay| !delay.is_zero()), retry, "{call}");
            assert!(!format!("{status:?}").contains("SECRET"), "{call}");
        }
    }
}

#[tokio::test]
async fn a_record_that_is_no_profile_is_data_loss_when_it_must_be_decoded() {
    let server = TestServer::over(FaultyStore::new(Fault::HoldsGarbage)).await;
    let answer = server.profiles().get_profile(get_request(&["id"])).await;
    assert_refused(answer, Code::DataLoss, "CORRUPT_RECORD");
    let request = ListProfilesRequest { read_mask: mask(&["id"]), ..Default::default() };
    assert_refused(server.profiles().list_profiles(request).await, Code::DataLoss, "CORRUPT_RECORD");
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_request_is_reported_at_once() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let wrong = Profile { id: " ".into(), email: "secret".into(), display_name: "\n".into(), ..Profile::default() };
    let request = CreateProfileRequest { profile: Some(wrong.clone()), request_id: "x".into() };
    let status = assert_invalid(
        client.create_profile(request).await,
        &["request_id", "profile.id", "profile.email", "profile.display_name"],
    );
    assert!(!format!("{status:?}").contains("secret"));
    let request = UpdateProfileRequest {
        profile: Some(wrong.clone()),
        update_mask: mask(&["*"]),
        request_id: "x".into(),
        ..Default::default()
    };
    assert_invalid(
        client.update_profile(request).await,
        &["request_id", "profile.id", "profile.email", "profile.display_name"],
    );
    let request =
        UpdateProfileRequest { profile: Some(wrong), update_mask: mask(&["id", "no", "non"]), ..Default::default() };
    assert_invalid(
        client.update_profile(request).await,
        &["update_mask.paths[1]", "update_mask.paths[2]", "profile.id"],
    );
    assert_invalid(client.create_profile(CreateProfileRequest::default()).await, &["profile"]);
    assert_invalid(client.update_profile(UpdateProfileRequest::default()).await, &["profile"]);
    let request = DeleteProfileRequest { request_id: "x".into(), ..Default::default() };
    assert_invalid(client.delete_profile(request).await, &["request_id", "id"]);
}

#[tokio::test]
async fn invalid_reads_name_their_fields() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let unknown = || mask(&["nmae"]);
    let request = GetProfileRequest { id: String::new(), read_mask: unknown() };
    assert_invalid(client.get_profile(request).await, &["id", "read_mask.paths[0]"]);
    let request = BatchGetProfilesRequest { ids: vec!["a".into(), "ü".into()], read_mask: unknown() };
    assert_invalid(client.batch_get_profiles(request).await, &["ids[1]", "read_mask.paths[0]"]);
    let request = ListProfilesRequest { page_size: -1, page_token: "x".into(), read_mask: unknown() };
    assert_invalid(client.list_profiles(request).await, &["read_mask.paths[0]", "page_size", "page_token"]);
    let request = LookupProfilesByEmailRequest { page_size: -1, ..Default::default() };
    assert_invalid(client.lookup_profiles_by_email(request).await, &["email", "page_size"]);
    let request = QueryProfilesByDomainRequest { page_size: -1, ..Default::default() };
    assert_invalid(client.query_profiles_by_domain(request).await, &["domain", "page_size"]);
    let request = CountProfilesRequest { domain: "a_b".into(), include_subdomains: false };
    assert_invalid(client.count_profiles(request).await, &["domain"]);
    let request = ListDomainsRequest {
        parent_domain: "a b".into(),
        page_size: -1,
        order_by: "name".into(),
        page_token: "x".into(),
    };
    assert_invalid(client.list_domains(request).await, &["parent_domain", "order_by", "page_size", "page_token"]);
}

#[tokio::test]
async fn an_error_with_very_many_violations_still_reaches_the_caller() {
    let server = TestServer::start().await;
    let ids = (0..1000).map(|number| format!("bad id {number}")).collect();
    let answer = server.profiles().batch_get_profiles(BatchGetProfilesRequest { ids, read_mask: None }).await;
    let status = assert_refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    let listed = fields(&status);
    assert_eq!(listed[..2], ["ids[0]", "ids[1]"]);
    let omitted: usize = metadata(&status, "omitted_violations").unwrap().parse().unwrap();
    assert_eq!(listed.len() + omitted, 1000);
}

#[tokio::test]
async fn a_profile_over_its_limit_is_told_its_size_and_the_limit() {
    let server = TestServer::start().await;
    let attributes = [("v".into(), "x".repeat(20_000))].into();
    let request =
        CreateProfileRequest { profile: Some(Profile { attributes, ..profile("a", "") }), ..Default::default() };
    let status = assert_invalid(server.profiles().create_profile(request).await, &["profile"]);
    assert!(status.message().contains("16384") && status.message().contains("20087"), "{}", status.message());
}

#[tokio::test]
async fn a_message_that_cannot_be_decoded_is_the_callers_mistake() {
    let server = TestServer::start().await;
    let bad_utf8 = b"\x0a\x02\xff\xfe";
    for (what, message) in [
        ("no tag", &b"\xff"[..]),
        ("cut short", b"\x0a\x09abc"),
        ("wrong type", b"\x08\x01"),
        ("bad UTF-8", bad_utf8),
    ] {
        let answer = server.raw(GET, &[], frame(message)).await;
        assert_eq!(answer.status.code(), Code::InvalidArgument, "{what}");
        assert_eq!(reason(&answer.status), "MALFORMED_REQUEST", "{what}");
    }
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let server = TestServer::start().await;
    create(&mut server.profiles(), profile("user-1", "")).await;
    let mut message = get_request(&[]).encode_to_vec();
    message.extend_from_slice(b"\xfa\x3f\x03new");
    let answer = server.raw(GET, &[], frame(&message)).await;
    assert_eq!(answer.status.code(), Code::Ok);
    assert_eq!(Profile::decode(&answer.body[5..]).unwrap().id, "user-1");
}

#[tokio::test]
async fn a_message_over_4_mib_is_refused() {
    let server = TestServer::start().await;
    let email = "x".repeat(4 * 1024 * 1024 + 1);
    let request = LookupProfilesByEmailRequest { email, ..Default::default() };
    let status = server.profiles().lookup_profiles_by_email(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    let server = TestServer::start().await;
    for path in
        ["/profilestore.v1.ProfileService/Nothing", "/nowhere.v1.Service/Get", "/", "/profilestore.v1.ProfileService"]
    {
        assert_eq!(server.raw(path, &[], frame(b"")).await.status.code(), Code::Unimplemented, "{path}");
    }
}
