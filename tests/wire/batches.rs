//! BatchWriteProfiles, and request ids on every write.

use profilestore::pb::profile_write::Write;
use profilestore::pb::*;
use tonic::Code;

use crate::common::server::TestServer;
use crate::*;

const UUID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const OTHER_UUID: &str = "01890a5d-ac96-774b-bcce-b302099a8058";

fn creation(profile: Profile) -> ProfileWrite {
    let request = CreateProfileRequest { profile: Some(profile), ..Default::default() };
    ProfileWrite { write: Some(Write::Create(request)) }
}

fn update(profile: Profile, paths: &[&str]) -> ProfileWrite {
    let request = UpdateProfileRequest { profile: Some(profile), update_mask: mask(paths), ..Default::default() };
    ProfileWrite { write: Some(Write::Update(request)) }
}

fn deletion(request: DeleteProfileRequest) -> ProfileWrite {
    ProfileWrite { write: Some(Write::Delete(request)) }
}

fn batch(writes: Vec<ProfileWrite>) -> BatchWriteProfilesRequest {
    BatchWriteProfilesRequest { writes, ..Default::default() }
}

#[tokio::test]
async fn a_batch_is_made_as_a_whole_with_a_result_for_each_write() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for id in ["old", "gone"] {
        create(&mut client, profile(id, "ada@a.example")).await;
    }
    let gone = DeleteProfileRequest { id: "gone".into(), ..Default::default() };
    let absent =
        DeleteProfileRequest { id: "none".into(), etag: "e".into(), allow_missing: true, ..Default::default() };
    let renamed = Profile { id: "old".into(), display_name: "New".into(), ..Default::default() };
    let writes = vec![
        creation(profile("new", "bob@b.example")),
        update(renamed, &["display_name"]),
        deletion(gone),
        deletion(absent),
        creation(profile("", "")),
    ];
    let results = client.batch_write_profiles(batch(writes)).await.unwrap().into_inner().results;
    let profiles: Vec<_> = results.iter().map(|result| result.profile.as_ref()).collect();
    assert_eq!(profiles.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, false, true]);
    assert_eq!((profiles[0].unwrap().id.as_str(), profiles[0].unwrap().domain.as_str()), ("new", "b.example"));
    assert_eq!(
        (profiles[1].unwrap().display_name.as_str(), profiles[1].unwrap().email.as_str()),
        ("New", "ada@a.example")
    );
    assert_eq!(uuid::Uuid::parse_str(&profiles[4].unwrap().id).unwrap().get_version_num(), 7);
    assert_eq!(all_ids(&mut client).await.len(), 3);
}

#[tokio::test]
async fn a_batch_with_one_refused_write_changes_nothing_and_names_it() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, profile("taken", "")).await;
    let refused = [
        (creation(profile("taken", "")), Code::AlreadyExists, "PROFILE_EXISTS"),
        (update(profile("none", ""), &["*"]), Code::NotFound, "PROFILE_NOT_FOUND"),
        (update(Profile { etag: "e".into(), ..profile("taken", "") }, &[]), Code::Aborted, "ETAG_MISMATCH"),
        (
            ProfileWrite {
                write: Some(Write::Update(UpdateProfileRequest {
                    profile: Some(Profile { etag: "e".into(), ..profile("none", "") }),
                    allow_missing: true,
                    ..Default::default()
                })),
            },
            Code::Aborted,
            "ETAG_MISMATCH",
        ),
    ];
    for (write, code, reason) in refused {
        let writes = vec![creation(profile("a", "")), write, creation(profile("b", ""))];
        let status = assert_refused(client.batch_write_profiles(batch(writes)).await, code, reason);
        assert_eq!(metadata(&status, "index").as_deref(), Some("1"));
        assert!(status.message().starts_with("writes[1]"), "{}", status.message());
        assert_eq!(all_ids(&mut client).await, ["taken"]);
    }
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_batch_is_said_at_once() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let with_id = CreateProfileRequest { profile: Some(profile("x", "")), request_id: UUID.into() };
    let writes = vec![
        creation(profile("a b", "nobody")),
        ProfileWrite { write: None },
        ProfileWrite { write: Some(Write::Create(with_id)) },
        deletion(DeleteProfileRequest::default()),
        update(profile("ok", ""), &["nothing"]),
    ];
    let request = BatchWriteProfilesRequest { writes, request_id: "x".into() };
    assert_invalid(
        client.batch_write_profiles(request).await,
        &[
            "request_id",
            "writes[0].create.profile.id",
            "writes[0].create.profile.email",
            "writes[1].write",
            "writes[2].create.request_id",
            "writes[3].delete.id",
            "writes[4].update.update_mask.paths[0]",
        ],
    );
    assert_invalid(client.batch_write_profiles(batch(Vec::new())).await, &["writes"]);
    let many = (0..101).map(|number| creation(profile(&number.to_string(), ""))).collect();
    assert_invalid(client.batch_write_profiles(batch(many)).await, &["writes"]);
    let large = |number: usize| {
        let attributes = [("x".to_owned(), "y".repeat(12_000))].into();
        creation(Profile { attributes, ..profile(&number.to_string(), "") })
    };
    assert_invalid(client.batch_write_profiles(batch((0..90).map(large).collect())).await, &["writes"]);
    client.batch_write_profiles(batch((0..80).map(large).collect())).await.unwrap();
    let twice =
        vec![creation(profile("z", "")), deletion(DeleteProfileRequest { id: "z".into(), ..Default::default() })];
    let status = assert_invalid(client.batch_write_profiles(batch(twice)).await, &["writes[1]"]);
    assert_eq!(metadata(&status, "index").as_deref(), Some("1"));
    assert_eq!(all_ids(&mut client).await.len(), 80);
}

/// An update that is valid by itself and makes the stored profile too large.
#[tokio::test]
async fn what_an_update_in_a_batch_would_make_is_checked_too() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let attributes = |key: &str| [(key.to_owned(), "y".repeat(9_000))].into();
    create(&mut client, Profile { attributes: attributes("a"), ..profile("x", "") }).await;
    let more = Profile { id: "x".into(), attributes: attributes("b"), ..Default::default() };
    let writes = vec![creation(profile("new", "")), update(more, &["attributes.b"])];
    let status = assert_invalid(client.batch_write_profiles(batch(writes)).await, &["writes[1].update.profile"]);
    assert_eq!(metadata(&status, "index").as_deref(), Some("1"));
    assert_eq!(all_ids(&mut client).await, ["x"]);
}

#[tokio::test]
async fn a_repeated_request_is_answered_and_not_made_again() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let creation_of = |id: &str, request_id: &str| CreateProfileRequest {
        profile: Some(profile(id, "ada@a.example")),
        request_id: request_id.into(),
    };
    // Also when the server made the id.
    let made = client.create_profile(creation_of("", UUID)).await.unwrap().into_inner();
    assert_eq!(client.create_profile(creation_of("", UUID)).await.unwrap().into_inner(), made);
    assert_eq!(all_ids(&mut client).await.len(), 1);

    let renaming = UpdateProfileRequest {
        profile: Some(Profile { id: made.id.clone(), display_name: "Mine".into(), ..Default::default() }),
        request_id: OTHER_UUID.into(),
        ..Default::default()
    };
    client.update_profile(renaming.clone()).await.unwrap();
    let theirs = Profile { id: made.id.clone(), display_name: "Theirs".into(), ..Default::default() };
    client.update_profile(UpdateProfileRequest { profile: Some(theirs), ..Default::default() }).await.unwrap();
    let again = client.update_profile(renaming).await.unwrap().into_inner();
    assert_eq!(again.display_name, "Theirs");

    let deletion = DeleteProfileRequest {
        id: made.id.clone(),
        request_id: "01890a5d-ac96-774b-bcce-b302099a8059".into(),
        ..Default::default()
    };
    client.delete_profile(deletion.clone()).await.unwrap();
    client.delete_profile(deletion).await.unwrap();
    let answer = client.create_profile(creation_of("", UUID)).await;
    assert_refused(answer, Code::NotFound, "PROFILE_NOT_FOUND");
    assert!(all_ids(&mut client).await.is_empty());
}

#[tokio::test]
async fn a_request_id_of_another_request_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let attributes = [("x".into(), "1".into()), ("y".into(), "2".into())].into();
    let wanted = Profile { attributes, ..profile("user-1", "") };
    let request = CreateProfileRequest { profile: Some(wanted.clone()), request_id: UUID.into() };
    client.create_profile(request.clone()).await.unwrap();
    client.create_profile(request).await.unwrap();

    let other = CreateProfileRequest { profile: Some(profile("user-2", "")), request_id: UUID.into() };
    let status = assert_refused(client.create_profile(other).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    assert_eq!(fields(&status), ["request_id"]);
    let update = UpdateProfileRequest { profile: Some(wanted), request_id: UUID.into(), ..Default::default() };
    assert_refused(client.update_profile(update).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    let delete = DeleteProfileRequest { id: "user-1".into(), request_id: UUID.into(), ..Default::default() };
    assert_refused(client.delete_profile(delete).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    let writes = BatchWriteProfilesRequest { writes: vec![creation(profile("user-2", ""))], request_id: UUID.into() };
    assert_refused(client.batch_write_profiles(writes).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    assert_eq!(all_ids(&mut client).await, ["user-1"]);
}

#[tokio::test]
async fn a_repeated_batch_is_answered_and_not_made_again() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let request = BatchWriteProfilesRequest {
        writes: vec![creation(profile("", "a@a.example")), creation(profile("b", "")), creation(profile("", ""))],
        request_id: UUID.into(),
    };
    let first = client.batch_write_profiles(request.clone()).await.unwrap().into_inner();
    let again = client.batch_write_profiles(request).await.unwrap().into_inner();
    assert_eq!(first, again);
    assert_eq!(all_ids(&mut client).await.len(), 3);
}
