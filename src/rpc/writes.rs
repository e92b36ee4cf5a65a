//! The calls that write.

use prost::Message;
use tonic::Status;
use uuid::Uuid;

use super::codec::EncodedProfile;
use super::error::{self, invalid_fields, not_built, store_error};
use crate::model::{
    Canonicalization, Draft, Etag, Outcome, Precondition, Profile, ProfileId, Rejection, UpdateFn, UpdateMask,
    Violations, Write,
};
use crate::pb;
use crate::store::{CommitMode, Store, StoreError};

/// CreateProfile.
pub async fn create<S: Store>(
    store: &S,
    settings: Canonicalization,
    request: pb::CreateProfileRequest,
) -> Result<EncodedProfile, Status> {
    let mut violations = Violations::new();
    let request_id = violations.check(check_request_id(&request.request_id));
    let draft = match request.profile {
        Some(mut profile) => {
            if profile.id.is_empty() {
                profile.id = Uuid::now_v7().to_string();
            }
            violations.check(Draft::from_profile(profile, settings, "profile"))
        }
        None => violations.check(Err(Violations::one("profile", "must be given"))),
    };
    let (Some(request_id), Some(draft)) = (request_id, draft) else { return Err(invalid_fields(violations)) };
    request_id.refuse()?;
    match commit(store, Write::put(draft, Precondition::MustBeAbsent)).await? {
        Ok(outcome) => stored(outcome),
        Err(rejection) => Err(error::rejection(rejection)),
    }
}

/// UpdateProfile.
pub async fn update<S: Store>(
    store: &S,
    settings: Canonicalization,
    request: pb::UpdateProfileRequest,
) -> Result<EncodedProfile, Status> {
    let size_bytes = request.encoded_len();
    let mut violations = Violations::new();
    let request_id = violations.check(check_request_id(&request.request_id));
    let mask = violations.check(UpdateMask::parse(request.update_mask.as_ref(), "update_mask"));
    let given = match request.profile {
        Some(profile) => {
            let id = violations.check(ProfileId::parse(&profile.id, "profile.id"));
            check_given(&profile, settings, mask.as_ref(), id.is_some(), &mut violations);
            id.map(|id| (id, profile))
        }
        None => violations.check(Err(Violations::one("profile", "must be given"))),
    };
    let (Some(request_id), Some(mask), Some((id, given)), true) = (request_id, mask, given, violations.is_empty())
    else {
        return Err(invalid_fields(violations));
    };
    request_id.refuse()?;
    let has_etag = !given.etag.is_empty();
    let precondition = match (has_etag, request.allow_missing) {
        (true, _) => Precondition::MustMatch(Etag::from_caller(given.etag.clone())),
        (false, true) => Precondition::None,
        (false, false) => Precondition::MustExist,
    };
    let function: UpdateFn = Box::new(move |current| {
        let wanted = match current {
            Some(current) => mask.apply(current, given),
            // Made from the given fields, whatever the mask.
            None => given,
        };
        Draft::from_profile(wanted, settings, "profile")
    });
    match commit(store, Write::update(id.clone(), function, precondition, size_bytes)).await? {
        Ok(outcome) => stored(outcome),
        Err(Rejection::NotFound) if has_etag && request.allow_missing => Err(error::etag_of_absent()),
        Err(Rejection::NotFound) => Err(error::not_found(&id)),
        Err(rejection) => Err(error::rejection(rejection)),
    }
}

/// DeleteProfile.
pub async fn delete<S: Store>(store: &S, request: pb::DeleteProfileRequest) -> Result<(), Status> {
    let mut violations = Violations::new();
    let request_id = violations.check(check_request_id(&request.request_id));
    let id = violations.check(ProfileId::parse(&request.id, "id"));
    let (Some(request_id), Some(id)) = (request_id, id) else { return Err(invalid_fields(violations)) };
    request_id.refuse()?;
    let precondition = match request.etag {
        etag if etag.is_empty() => Precondition::MustExist,
        etag => Precondition::MustMatch(Etag::from_caller(etag)),
    };
    match commit(store, Write::delete(id.clone(), precondition)).await? {
        Ok(_) => Ok(()),
        // The wish was that it be gone, and it is.
        Err(Rejection::NotFound) if request.allow_missing => Ok(()),
        Err(Rejection::NotFound) => Err(error::not_found(&id)),
        Err(rejection) => Err(error::rejection(rejection)),
    }
}

/// Commits one write.
async fn commit<S: Store>(store: &S, write: Write) -> Result<Result<Outcome, Rejection>, Status> {
    let mut outcomes = match store.commit(vec![write], CommitMode::All).await {
        Ok(outcomes) => outcomes,
        Err(StoreError::Rejected { rejection, .. }) => return Ok(Err(rejection)),
        Err(error) => return Err(store_error(error)),
    };
    outcomes.pop().ok_or_else(|| Status::internal("the store gave no outcome"))
}

fn stored(outcome: Outcome) -> Result<EncodedProfile, Status> {
    match outcome {
        Outcome::Stored(record) | Outcome::Unchanged(record) => Ok(EncodedProfile(record.profile())),
        Outcome::Deleted(_) | Outcome::Absent => Err(Status::internal("the store deleted instead of writing")),
    }
}

/// Finds what is wrong with the given fields themselves, before anything is queued. Only fields that the mask
/// takes over count; what the result as a whole breaks is found when it is known.
fn check_given(
    given: &Profile,
    settings: Canonicalization,
    mask: Option<&UpdateMask>,
    id_is_good: bool,
    violations: &mut Violations,
) {
    let Some(mask) = mask else { return };
    let empty = Profile { id: if id_is_good { given.id.clone() } else { "unknown".into() }, ..Profile::default() };
    let wanted = mask.apply(&empty, given.clone());
    violations.check(Draft::from_profile(wanted, settings, "profile"));
}

/// A request id that was given, which is not remembered yet.
struct RequestId(bool);

impl RequestId {
    fn refuse(&self) -> Result<(), Status> {
        // Accepting it without remembering it would promise what is not kept.
        if self.0 { Err(not_built("request_id")) } else { Ok(()) }
    }
}

fn check_request_id(request_id: &str) -> Result<RequestId, Violations> {
    if request_id.is_empty() || Uuid::try_parse(request_id).is_ok() {
        return Ok(RequestId(!request_id.is_empty()));
    }
    Err(Violations::one("request_id", "must be empty or a UUID"))
}
