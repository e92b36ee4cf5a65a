//! CreateProfile, UpdateProfile, DeleteProfile.

use std::sync::Arc;

use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::pb::*;
use profilestore::store::NoObserver;
use tonic::{Code, Status};

use crate::common::server::TestServer;
use crate::*;

async fn update(client: &mut Client, given: Profile, paths: &[&str]) -> Result<Profile, Status> {
    let request = UpdateProfileRequest { profile: Some(given), update_mask: mask(paths), ..Default::default() };
    client.update_profile(request).await.map(tonic::Response::into_inner)
}

async fn upsert(client: &mut Client, given: Profile, paths: &[&str]) -> Result<Profile, Status> {
    let request = UpdateProfileRequest {
        profile: Some(given),
        update_mask: mask(paths),
        allow_missing: true,
        ..Default::default()
    };
    client.update_profile(request).await.map(tonic::Response::into_inner)
}

async fn get(client: &mut Client, id: &str) -> Profile {
    client.get_profile(GetProfileRequest { id: id.into(), read_mask: None }).await.unwrap().into_inner()
}

/// A profile with all that a caller can set.
fn full(id: &str) -> Profile {
    let attributes = [("x".into(), "1".into()), ("y.z".into(), "2".into())].into();
    Profile { attributes, ..profile(id, "ada@a.example") }
}

fn caller_fields(profile: Profile) -> Profile {
    Profile { domain: String::new(), etag: String::new(), create_time: None, update_time: None, ..profile }
}

#[tokio::test]
async fn a_create_without_an_id_makes_a_uuid_v7() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let created = create(&mut client, profile("", "ada@a.example")).await;
    assert_eq!(uuid::Uuid::parse_str(&created.id).unwrap().get_version_num(), 7);
    assert_eq!(get(&mut client, &created.id).await, created);
    assert_ne!(create(&mut client, profile("", "")).await.id, created.id);
}

#[tokio::test]
async fn a_create_of_a_taken_id_changes_nothing() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let created = create(&mut client, full("user-1")).await;
    let request = CreateProfileRequest { profile: Some(profile("user-1", "")), ..Default::default() };
    let status = assert_refused(client.create_profile(request).await, Code::AlreadyExists, "PROFILE_EXISTS");
    assert_eq!(metadata(&status, "id").as_deref(), Some("user-1"));
    assert_eq!(get(&mut client, "user-1").await, created);
}

#[tokio::test]
async fn a_create_ignores_output_only_fields() {
    let server = TestServer::start().await;
    let forged = Profile {
        domain: "evil.example".into(),
        etag: "forged".into(),
        create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..full("user-1")
    };
    let created = create(&mut server.profiles(), forged).await;
    assert_eq!(created.domain, "a.example");
    assert_ne!(created.etag, "forged");
    assert_ne!(created.create_time.unwrap().seconds, 1);
}

#[tokio::test]
async fn a_second_profile_with_an_address_is_refused_where_addresses_are_unique() {
    let rules = EngineRules { unique_email: true, ..EngineRules::default() };
    let server = TestServer::over(MemoryStore::new(rules, Arc::new(NoObserver))).await;
    let mut client = server.profiles();
    create(&mut client, profile("1", "ada@a.example")).await;
    let request = CreateProfileRequest { profile: Some(profile("2", "ADA@A.example")), ..Default::default() };
    let status = assert_refused(client.create_profile(request).await, Code::AlreadyExists, "EMAIL_IN_USE");
    assert!(!format!("{status:?}").to_lowercase().contains("ada@"));
}

#[tokio::test]
async fn an_update_without_a_mask_changes_the_populated_fields() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let created = create(&mut client, full("user-1")).await;
    let given = Profile { id: "user-1".into(), display_name: "New".into(), ..Profile::default() };
    let updated = update(&mut client, given, &[]).await.unwrap();
    assert_eq!(caller_fields(updated.clone()), Profile { display_name: "New".into(), ..full("user-1") });
    assert_ne!(updated.etag, created.etag);
    assert_eq!(updated.create_time, created.create_time);

    let attributes = [("only".to_owned(), "this".to_owned())];
    let given = Profile { id: "user-1".into(), attributes: attributes.clone().into(), ..Profile::default() };
    assert_eq!(update(&mut client, given, &[]).await.unwrap().attributes, attributes.into());
}

#[tokio::test]
async fn an_update_with_a_star_replaces_everything() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let created = create(&mut client, full("user-1")).await;
    let given = Profile { id: "user-1".into(), display_name: "New".into(), ..Profile::default() };
    let updated = update(&mut client, given.clone(), &["*"]).await.unwrap();
    assert_eq!(caller_fields(updated.clone()), given);
    assert_eq!(updated.create_time, created.create_time);
}

#[tokio::test]
async fn an_update_of_an_attribute_sets_or_removes_that_entry() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, full("user-1")).await;
    let attributes = [("x".into(), "9".into()), ("unmasked".into(), "no".into())].into();
    let given = Profile { id: "user-1".into(), attributes, ..Profile::default() };
    let updated = update(&mut client, given, &["attributes.x", "attributes.y.z", "id", "etag"]).await.unwrap();
    let expected = Profile { attributes: [("x".into(), "9".into())].into(), ..full("user-1") };
    assert_eq!(caller_fields(updated), expected);
}

#[tokio::test]
async fn an_update_moves_a_profile_to_its_new_domain() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, full("user-1")).await;
    let given = Profile { id: "user-1".into(), email: "ada@b.example".into(), ..Profile::default() };
    assert_eq!(update(&mut client, given, &["email"]).await.unwrap().domain, "b.example");
    for (domain, expected) in [("a.example", 0), ("b.example", 1)] {
        let request = CountProfilesRequest { domain: domain.into(), include_subdomains: false };
        assert_eq!(client.count_profiles(request).await.unwrap().into_inner().count, expected);
    }
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_the_etag() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let created = create(&mut client, full("user-1")).await;
    for paths in [&[][..], &["*"], &["email"], &["attributes.x"]] {
        assert_eq!(update(&mut client, full("user-1"), paths).await.unwrap(), created, "{paths:?}");
    }
}

#[tokio::test]
async fn an_update_with_an_etag_needs_the_current_one() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let first = create(&mut client, full("user-1")).await;
    let given = Profile { display_name: "Second".into(), ..first.clone() };
    let second = update(&mut client, given, &["display_name"]).await.unwrap();
    for paths in [&["display_name"][..], &["*"], &[]] {
        let stale = Profile { display_name: "Third".into(), ..first.clone() };
        let status = assert_refused(update(&mut client, stale, paths).await, Code::Aborted, "ETAG_MISMATCH");
        assert_eq!(metadata(&status, "current_etag"), Some(second.etag.clone()));
    }
    assert_eq!(get(&mut client, "user-1").await, second);
}

#[tokio::test]
async fn an_update_of_an_absent_profile_is_not_found() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for (etag, paths) in [("", &["display_name"][..]), ("", &["*"]), ("some", &["*"]), ("some", &[])] {
        let given = Profile { etag: etag.into(), ..full("user-1") };
        assert_refused(update(&mut client, given, paths).await, Code::NotFound, "PROFILE_NOT_FOUND");
    }
    assert!(all_ids(&mut client).await.is_empty());
}

#[tokio::test]
async fn an_upsert_makes_an_absent_profile_from_all_given_fields() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for (id, paths) in [("1", &["display_name"][..]), ("2", &["*"]), ("3", &[])] {
        assert_eq!(caller_fields(upsert(&mut client, full(id), paths).await.unwrap()), full(id), "{paths:?}");
    }
    let given = Profile { display_name: "New".into(), email: "unmasked".into(), ..full("1") };
    let updated = upsert(&mut client, given, &["display_name"]).await.unwrap();
    assert_eq!(caller_fields(updated), Profile { display_name: "New".into(), ..full("1") });
}

#[tokio::test]
async fn an_upsert_with_an_etag_never_makes_a_profile() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for paths in [&["display_name"][..], &["*"]] {
        let given = Profile { etag: "some".into(), ..full("user-1") };
        assert_refused(upsert(&mut client, given, paths).await, Code::Aborted, "ETAG_MISMATCH");
    }
    assert!(all_ids(&mut client).await.is_empty());
}

#[tokio::test]
async fn what_only_the_stored_profile_makes_invalid_is_refused_too() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let attributes = |prefix: &str| (0..128).map(|number| (format!("{prefix}{number}"), String::new())).collect();
    create(&mut client, Profile { attributes: attributes("a"), ..profile("user-1", "") }).await;
    let given = Profile { id: "user-1".into(), attributes: attributes("b"), ..Profile::default() };
    assert_invalid(update(&mut client, given, &["attributes.b0"]).await, &["profile.attributes"]);

    let absent = Profile { email: "unmasked".into(), ..profile("user-2", "") };
    assert_invalid(upsert(&mut client, absent, &["display_name"]).await, &["profile.email"]);
}

#[tokio::test]
async fn a_delete_removes_the_profile() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let created = create(&mut client, full("user-1")).await;
    let delete = |etag: &str, allow_missing| DeleteProfileRequest {
        id: "user-1".into(),
        etag: etag.into(),
        allow_missing,
        ..Default::default()
    };
    let status = assert_refused(client.delete_profile(delete("stale", true)).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(metadata(&status, "current_etag"), Some(created.etag.clone()));
    client.delete_profile(delete(&created.etag, false)).await.unwrap();
    assert!(all_ids(&mut client).await.is_empty());

    for etag in ["", &created.etag] {
        let answer = client.delete_profile(delete(etag, false)).await;
        assert_refused(answer, Code::NotFound, "PROFILE_NOT_FOUND");
        client.delete_profile(delete(etag, true)).await.unwrap();
    }
}
