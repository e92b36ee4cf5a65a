//! GetHotKeys.

use profilestore::pb::admin_service_client::AdminServiceClient;
use profilestore::pb::*;

use crate::common::server::{TestServer, memory_store};
use crate::*;

async fn hot(server: &TestServer, limit: i32) -> GetHotKeysResponse {
    let mut admin = AdminServiceClient::new(server.channel());
    admin.get_hot_keys(GetHotKeysRequest { limit }).await.unwrap().into_inner()
}

fn counts(keys: &[HotKey]) -> Vec<(&str, i64)> {
    assert!(keys.iter().all(|each| each.error_bound == 0), "so few reads are counted exactly: {keys:?}");
    keys.iter().map(|each| (each.key.as_str(), each.read_count)).collect()
}

/// Reads by every call that reads, some answered by the fast lane and some not.
async fn read(server: &TestServer) {
    let mut profiles = server.profiles();
    for id in ["a", "b"] {
        create(&mut profiles, profile(id, &format!("{id}@mail.Example.com"))).await;
    }
    let get = |id: &str, masked: bool| GetProfileRequest {
        id: id.into(),
        read_mask: if masked { mask(&["id"]) } else { None },
    };
    for _ in 0..3 {
        profiles.get_profile(get("a", false)).await.unwrap();
    }
    profiles.get_profile(get("a", true)).await.unwrap();
    for _ in 0..2 {
        profiles.get_profile(get("absent", false)).await.unwrap_err();
    }
    profiles.get_profile(get("no id", false)).await.unwrap_err();
    for ids in [vec!["a", "b"], vec!["b", "a", "b"], vec!["b", "a", "gone"]] {
        let ids = ids.into_iter().map(String::from).collect();
        profiles.batch_get_profiles(BatchGetProfilesRequest { ids, read_mask: None }).await.unwrap();
    }
    for (domain, subdomains) in [("MAIL.example.com", false), ("mail.example.com.", true), ("example.com", true)] {
        let request = QueryProfilesByDomainRequest {
            domain: domain.into(),
            include_subdomains: subdomains,
            ..QueryProfilesByDomainRequest::default()
        };
        profiles.query_profiles_by_domain(request).await.unwrap();
    }
    let nowhere = QueryProfilesByDomainRequest { domain: "no domain".into(), ..Default::default() };
    profiles.query_profiles_by_domain(nowhere).await.unwrap_err();
}

#[tokio::test]
async fn each_read_is_counted_once_whatever_answers_it() {
    for server in [TestServer::start().await, TestServer::over(memory_store()).await] {
        read(&server).await;
        let answer = hot(&server, 0).await;
        assert_eq!(counts(&answer.ids), [("a", 7), ("b", 3), ("absent", 2), ("gone", 1)]);
        assert_eq!(counts(&answer.domains), [("mail.example.com", 2), ("example.com", 1)]);
        let window = answer.window.unwrap();
        assert!((0..=60).contains(&window.seconds), "{window:?}");
    }
}

#[tokio::test]
async fn the_limit_has_a_default_and_a_bound_and_is_not_negative() {
    let server = TestServer::start().await;
    let mut profiles = server.profiles();
    let ids: Vec<_> = (0..150).map(|number| format!("u{number:03}")).collect();
    for length in [50, 100, 150] {
        let ids = ids[..length].to_vec();
        profiles.batch_get_profiles(BatchGetProfilesRequest { ids, read_mask: None }).await.unwrap();
    }
    for (limit, expected) in [(0, 20), (1, 1), (60, 60), (100, 100), (101, 100), (i32::MAX, 100)] {
        let answer = hot(&server, limit).await;
        assert_eq!(answer.ids.len(), expected, "limit {limit}");
        assert!(answer.ids.is_sorted_by_key(|each| -each.read_count));
        assert_eq!((answer.ids[0].key.as_str(), answer.ids[0].read_count), ("u000", 3));
    }
    let mut admin = AdminServiceClient::new(server.channel());
    for limit in [-1, i32::MIN] {
        let status = assert_invalid(admin.get_hot_keys(GetHotKeysRequest { limit }).await, &["limit"]);
        assert!(status.message().contains("100"), "the bound: {}", status.message());
    }
}

#[tokio::test]
async fn nothing_is_hot_before_anything_is_read() {
    let server = TestServer::start().await;
    let answer = hot(&server, 5).await;
    assert_eq!((answer.ids.len(), answer.domains.len()), (0, 0));
}
