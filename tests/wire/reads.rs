//! GetProfile, BatchGetProfiles, LookupProfilesByEmail, CountProfiles and read masks.

use profilestore::pb::*;
use prost::Message;
use tonic::Code;

use crate::common::server::TestServer;
use crate::*;

#[tokio::test]
async fn a_get_returns_the_profile_as_it_was_created() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let mut given = profile("user-1", "Ada@Bücher.Example");
    given.attributes.insert("k.dotted".into(), "v".into());
    let created = create(&mut client, given.clone()).await;
    assert_eq!(created.domain, "xn--bcher-kva.example");
    assert!(!created.etag.is_empty());
    assert_eq!(created.create_time, created.update_time);
    assert!(created.create_time.is_some());

    let request = GetProfileRequest { id: "user-1".into(), read_mask: None };
    let got = client.get_profile(request).await.unwrap().into_inner();
    assert_eq!(got, created);
    let as_given =
        Profile { domain: String::new(), etag: String::new(), create_time: None, update_time: None, ..got };
    assert_eq!(as_given, given);
}

#[tokio::test]
async fn a_get_of_an_absent_profile_is_not_found_and_names_the_id() {
    let server = TestServer::start().await;
    let answer = server.profiles().get_profile(GetProfileRequest { id: "nobody".into(), read_mask: None }).await;
    let status = assert_refused(answer, Code::NotFound, "PROFILE_NOT_FOUND");
    assert_eq!(metadata(&status, "id").as_deref(), Some("nobody"));
}

#[tokio::test]
async fn a_read_mask_selects_what_is_returned() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let mut given = profile("user-1", "ada@a.example");
    given.attributes = [("x".into(), "1".into()), ("y.z".into(), "2".into())].into();
    let created = create(&mut client, given).await;

    let mut get = async |paths: &[&str]| {
        let request = GetProfileRequest { id: "user-1".into(), read_mask: mask(paths) };
        client.get_profile(request).await.unwrap().into_inner()
    };
    assert_eq!(get(&[]).await, created);
    assert_eq!(get(&["*"]).await, created);
    let selected = get(&["email", "attributes.y.z", "etag"]).await;
    let expected = Profile {
        email: "ada@a.example".into(),
        attributes: [("y.z".into(), "2".into())].into(),
        etag: created.etag.clone(),
        ..Profile::default()
    };
    assert_eq!(selected, expected);
    assert_eq!(get(&["attributes.absent"]).await, Profile::default());
}

#[tokio::test]
async fn a_read_mask_holds_for_every_call_that_returns_profiles() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, profile("user-1", "ada@a.example")).await;
    let expected = [Profile { display_name: "Name of user-1".into(), ..Profile::default() }];
    let read_mask = mask(&["display_name"]);

    let request = BatchGetProfilesRequest { ids: vec!["user-1".into()], read_mask: read_mask.clone() };
    assert_eq!(client.batch_get_profiles(request).await.unwrap().into_inner().profiles, expected);
    let request = ListProfilesRequest { read_mask: read_mask.clone(), ..Default::default() };
    assert_eq!(client.list_profiles(request).await.unwrap().into_inner().profiles, expected);
    let request = LookupProfilesByEmailRequest {
        email: "ada@a.example".into(),
        read_mask: read_mask.clone(),
        ..Default::default()
    };
    assert_eq!(client.lookup_profiles_by_email(request).await.unwrap().into_inner().profiles, expected);
    let request = QueryProfilesByDomainRequest { domain: "a.example".into(), read_mask, ..Default::default() };
    assert_eq!(client.query_profiles_by_domain(request).await.unwrap().into_inner().profiles, expected);
}

#[tokio::test]
async fn a_batch_get_answers_in_request_order_and_reports_what_is_missing() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for id in ["a", "b", "c"] {
        create(&mut client, profile(id, "")).await;
    }
    let wanted = ["c", "x", "a", "c", "x", "y", "a"].map(String::from).to_vec();
    let request = BatchGetProfilesRequest { ids: wanted, read_mask: None };
    let response = client.batch_get_profiles(request).await.unwrap().into_inner();
    assert_eq!(ids(&response.profiles), ["c", "a"]);
    assert_eq!(response.missing_ids, ["x", "y"]);
}

#[tokio::test]
async fn a_batch_get_takes_1_to_1000_ids_and_never_answers_more_than_clients_take() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let large = |id: &str| Profile { attributes: [("v".into(), "x".repeat(15_000))].into(), ..profile(id, "") };
    let many: Vec<_> = (0..1000).map(|number| format!("user-{number:04}")).collect();
    for id in &many[..300] {
        create(&mut client, large(id)).await;
    }
    let ask = |ids: &[String], paths: &[&str]| BatchGetProfilesRequest {
        ids: ids.to_vec(),
        read_mask: mask(paths).filter(|mask| !mask.paths.is_empty()),
    };
    let response = client.batch_get_profiles(ask(&many[100..], &[])).await.unwrap().into_inner();
    assert_eq!((response.profiles.len(), response.missing_ids.len()), (200, 700));
    // Twice: the second time the fast lane has all of them.
    for _ in 0..2 {
        let refused = client.batch_get_profiles(ask(&many[..300], &[])).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::OutOfRange, "ANSWER_TOO_LARGE".to_owned()));
    }
    let response = client.batch_get_profiles(ask(&many, &["id"])).await.unwrap().into_inner();
    assert_eq!(response.profiles.len(), 300, "a mask makes room");

    let too_many = many.into_iter().chain(["one-more".into()]).collect();
    for wrong in [vec![], too_many] {
        let request = BatchGetProfilesRequest { ids: wrong, read_mask: None };
        assert_invalid(client.batch_get_profiles(request).await, &["ids"]);
    }
}

#[tokio::test]
async fn a_lookup_finds_every_spelling_of_an_address_and_no_other_address() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, profile("2", "Ada@bücher.example")).await;
    create(&mut client, profile("1", "ada@xn--bcher-kva.example")).await;
    create(&mut client, profile("3", "adam@bücher.example")).await;
    create(&mut client, profile("4", "ada@a.bücher.example")).await;
    for email in ["ada@BÜCHER.example.", "ADA@xn--bcher-kva.EXAMPLE"] {
        let request = LookupProfilesByEmailRequest { email: email.into(), ..Default::default() };
        let response = client.lookup_profiles_by_email(request).await.unwrap().into_inner();
        assert_eq!(ids(&response.profiles), ["1", "2"], "{email}");
        assert_eq!(response.next_page_token, "");
    }
}

#[tokio::test]
async fn counts_are_of_all_of_a_domain_or_of_a_subtree() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for (id, email) in [
        ("1", "a@example.com"),
        ("2", "b@example.com"),
        ("3", "c@mail.example.com"),
        ("4", "d@badexample.com"),
        ("5", ""),
    ] {
        create(&mut client, profile(id, email)).await;
    }
    for (domain, include_subdomains, expected) in [
        ("", false, 5),
        ("", true, 5),
        ("Example.COM.", false, 2),
        ("example.com", true, 3),
        ("com", false, 0),
        ("com", true, 4),
        ("nowhere.example", true, 0),
    ] {
        let request = CountProfilesRequest { domain: domain.into(), include_subdomains };
        let count = client.count_profiles(request).await.unwrap().into_inner().count;
        assert_eq!(count, expected, "{domain} {include_subdomains}");
    }
}

#[tokio::test]
async fn the_status_counts_what_is_stored() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let mut bytes = 0;
    for (id, email) in [("a", "a@x.example"), ("b", "b@x.example"), ("c", "c@y.example"), ("d", "")] {
        bytes += create(&mut client, profile(id, email)).await.encoded_len();
    }
    let mut admin = admin_service_client::AdminServiceClient::new(server.channel());
    let status = admin.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.profile_count, status.domain_count, status.live_bytes), (4, 2, bytes as i64));
    assert_eq!((status.version.as_str(), status.engine.as_str()), (env!("CARGO_PKG_VERSION"), "memory"));
    assert!(status.uptime.is_some());
}
