//! What callers meet on the wire: the services over a loopback connection, one file per behaviour.

mod common;

#[path = "wire/admin_streams.rs"]
mod admin_streams;
#[path = "wire/batches.rs"]
mod batches;
#[path = "wire/deadlines.rs"]
mod deadlines;
#[path = "wire/errors.rs"]
mod errors;
#[path = "wire/gzip.rs"]
mod gzip;
#[path = "wire/hot_keys.rs"]
mod hot_keys;
#[path = "wire/many_streams.rs"]
mod many_streams;
#[path = "wire/meddling.rs"]
mod meddling;
#[path = "wire/paging.rs"]
mod paging;
#[path = "wire/reads.rs"]
mod reads;
#[path = "wire/reflection_and_health.rs"]
mod reflection_and_health;
#[path = "wire/status.rs"]
mod status;
#[path = "wire/stores.rs"]
mod stores;
#[path = "wire/streams.rs"]
mod streams;
#[path = "wire/watch.rs"]
mod watch;
#[path = "wire/watch_ends.rs"]
mod watch_ends;
#[path = "wire/watch_many.rs"]
mod watch_many;
#[path = "wire/watch_snapshot.rs"]
mod watch_snapshot;
#[path = "wire/watcher.rs"]
mod watcher;
#[path = "wire/writes.rs"]
mod writes;

use profilestore::pb::Profile;
use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::pb::{CreateProfileRequest, ListProfilesRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

type Client = ProfileServiceClient<Channel>;

/// A profile with an id and an e-mail.
fn profile(id: &str, email: &str) -> Profile {
    Profile { id: id.into(), email: email.into(), display_name: format!("Name of {id}"), ..Profile::default() }
}

/// Creates a profile and returns it as the server did.
async fn create(client: &mut Client, profile: Profile) -> Profile {
    let request = CreateProfileRequest { profile: Some(profile), ..Default::default() };
    client.create_profile(request).await.unwrap().into_inner()
}

/// The ids of all profiles.
async fn all_ids(client: &mut Client) -> Vec<String> {
    let request = ListProfilesRequest { page_size: 1000, ..Default::default() };
    ids(&client.list_profiles(request).await.unwrap().into_inner().profiles)
}

fn ids(profiles: &[Profile]) -> Vec<String> {
    profiles.iter().map(|profile| profile.id.clone()).collect()
}

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|path| path.to_string()).collect() })
}

/// The stable reason of an error; every error of ours has one, under our domain.
fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "profilestore");
    info.reason.clone()
}

/// A variable part of an error.
fn metadata(status: &Status, key: &str) -> Option<String> {
    status.get_error_details().error_info()?.metadata.get(key).cloned()
}

/// The fields that a `BadRequest` names.
fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, expected_reason: &str) -> Status {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (code, expected_reason), "{status:?}");
    status
}

/// An INVALID_FIELD that names exactly these fields.
#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(answer: Result<T, Status>, expected: &[&str]) -> Status {
    let status = assert_refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), expected, "{status:?}");
    status
}
