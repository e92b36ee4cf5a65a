//! The writing calls of `ProfileService`.
//!
//! Everything that can be checked without the stored profile is checked before the commit, so that a bad
//! request never waits in the commit queue.

use prost::Message;
use uuid::Uuid;

use super::codec::EncodedProfile;
use super::error::RpcError;
use super::profile_service::ProfileHandler;
use super::request::request_id;
use crate::model::limits::MAX_PROFILE_BYTES;
use crate::model::{
    Canonicalization, Draft, Etag, Outcome, Precondition, Profile, ProfileId, Rejection, UpdateFn, UpdateMask,
    Violations, Write,
};
use crate::pb;
use crate::store::{CommitMode, Store, StoreError};

impl<S: Store> ProfileHandler<S> {
    pub(super) async fn create(&self, request: pb::CreateProfileRequest) -> Result<EncodedProfile, RpcError> {
        let mut violations = Violations::new();
        let request_id = violations.check(request_id(&request.request_id)).flatten();
        let draft = violations.check(required(request.profile).and_then(|mut profile| {
            if profile.id.is_empty() {
                profile.id = Uuid::now_v7().to_string();
            }
            Draft::from_profile(profile, self.settings, "profile")
        }));
        let Some(draft) = draft.filter(|_| violations.is_empty()) else { return Err(violations.into()) };
        refuse_request_id(request_id)?;
        stored(self.commit_one(Write::put(draft, Precondition::MustBeAbsent)).await?)
    }

    pub(super) async fn update(&self, request: pb::UpdateProfileRequest) -> Result<EncodedProfile, RpcError> {
        let size_bytes = request.encoded_len();
        let mut violations = Violations::new();
        let request_id = violations.check(request_id(&request.request_id)).flatten();
        let mask = violations.check(UpdateMask::parse(request.update_mask.as_ref(), "update_mask"));
        let profile = violations.check(required(request.profile));
        let checked = match (&mask, &profile) {
            (Some(mask), Some(profile)) => violations.check(masked_draft(mask, profile, self.settings)),
            (None, Some(profile)) => {
                violations.check(ProfileId::parse(&profile.id, "profile.id"));
                None
            }
            (_, None) => None,
        };
        // Also when a mask leaves most of it out: it waits in the queue as a whole.
        let given_bytes = profile.as_ref().map_or(0, Profile::encoded_len);
        if given_bytes > MAX_PROFILE_BYTES && !violations.iter().any(|violation| violation.field == "profile") {
            let description = format!("has {given_bytes} bytes encoded; at most {MAX_PROFILE_BYTES} are allowed");
            violations.add("profile", description);
        }
        let (Some(mask), Some(profile), Some(checked), true) = (mask, profile, checked, violations.is_empty()) else {
            return Err(violations.into());
        };
        refuse_request_id(request_id)?;

        let etag_given = !profile.etag.is_empty();
        let precondition = precondition(&profile.etag, request.allow_missing);
        let id = checked.id().clone();
        let write = match mask {
            // Nothing of the stored profile stays.
            UpdateMask::All => Write::put(checked, precondition),
            mask => {
                let function = update_function(mask, profile, self.settings);
                Write::update(id, function, precondition, size_bytes)
            }
        };
        match self.commit_one(write).await {
            // A caller who knows an etag takes the profile for present: making a new one would be wrong.
            Err(RpcError::Rejected { id, rejection: Rejection::NotFound }) if etag_given && request.allow_missing => {
                Err(RpcError::EtagOfAbsent { id })
            }
            outcome => stored(outcome?),
        }
    }

    pub(super) async fn delete(&self, request: pb::DeleteProfileRequest) -> Result<(), RpcError> {
        let mut violations = Violations::new();
        let request_id = violations.check(request_id(&request.request_id)).flatten();
        let id = violations.check(ProfileId::parse(&request.id, "id"));
        let Some(id) = id.filter(|_| violations.is_empty()) else { return Err(violations.into()) };
        refuse_request_id(request_id)?;
        let precondition = precondition(&request.etag, request.allow_missing);
        match self.commit_one(Write::delete(id, precondition)).await {
            Err(RpcError::Rejected { rejection: Rejection::NotFound, .. }) if request.allow_missing => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn commit_one(&self, write: Write) -> Result<Outcome, RpcError> {
        let id = write.id.clone();
        let outcomes = self.store.commit(vec![write], CommitMode::Each).await?;
        match outcomes.into_iter().next() {
            Some(Ok(outcome)) => Ok(outcome),
            Some(Err(rejection)) => Err(RpcError::Rejected { id, rejection }),
            None => Err(contract_broken("a write has no outcome")),
        }
    }
}

fn required(profile: Option<Profile>) -> Result<Profile, Violations> {
    profile.ok_or_else(|| Violations::one("profile", "must be given"))
}

/// Request ids are part of the contract and not remembered yet: to take one and to forget it would turn a
/// repeat that the caller believes harmless into a second write.
fn refuse_request_id(request_id: Option<Uuid>) -> Result<(), RpcError> {
    match request_id {
        None => Ok(()),
        Some(_) => Err(RpcError::NotImplemented("request_id")),
    }
}

fn precondition(etag: &str, allow_missing: bool) -> Precondition {
    match (etag, allow_missing) {
        ("", false) => Precondition::MustExist,
        ("", true) => Precondition::None,
        (etag, _) => Precondition::MustMatch(Etag::from_caller(etag.to_owned())),
    }
}

/// The draft of what the mask takes from the request and nothing else. Whatever is wrong with it is wrong
/// with every result of the update, since the stored profile can only add to it.
fn masked_draft(mask: &UpdateMask, given: &Profile, settings: Canonicalization) -> Result<Draft, Violations> {
    let blank = Profile { id: given.id.clone(), ..Profile::default() };
    Draft::from_profile(mask.apply(&blank, given.clone()), settings, "profile")
}

fn update_function(mask: UpdateMask, given: Profile, settings: Canonicalization) -> UpdateFn {
    Box::new(move |current| {
        let wanted = match current {
            Some(current) => mask.apply(current, given),
            None => given,
        };
        Draft::from_profile(wanted, settings, "profile")
    })
}

fn stored(outcome: Outcome) -> Result<EncodedProfile, RpcError> {
    match outcome {
        Outcome::Stored(record) | Outcome::Unchanged(record) => Ok(EncodedProfile(record.profile())),
        Outcome::Deleted(_) | Outcome::Absent => Err(contract_broken("a put was answered as a delete")),
    }
}

/// A store that answers against its contract has failed: what became of the write is unknown.
fn contract_broken(cause: &str) -> RpcError {
    tracing::error!(cause, "a store broke its contract");
    RpcError::Store(StoreError::Failed { cause: cause.to_owned() })
}

#[cfg(test)]
mod tests {
    use prost_types::FieldMask;

    use super::*;

    fn mask(paths: &[&str]) -> UpdateMask {
        let mask = FieldMask { paths: paths.iter().map(|path| path.to_string()).collect() };
        UpdateMask::parse(Some(&mask), "update_mask").unwrap()
    }

    #[test]
    fn only_what_the_mask_takes_is_checked_before_the_commit() {
        let given =
            Profile { id: "a".into(), email: "nobody".into(), display_name: "A".into(), ..Profile::default() };
        let check = |paths| masked_draft(&mask(paths), &given, Canonicalization::default());
        assert!(check(&["display_name"]).is_ok());
        assert!(check(&["display_name", "email"]).is_err());
        assert!(check(&["*"]).is_err());
        assert!(check(&[]).is_err());
    }

    #[test]
    fn an_etag_is_a_precondition_whatever_may_be_missing() {
        let matches = Precondition::MustMatch(Etag::from_caller("e".into()));
        assert_eq!(precondition("e", true), matches);
        assert_eq!(precondition("e", false), matches);
        assert_eq!(precondition("", true), Precondition::None);
        assert_eq!(precondition("", false), Precondition::MustExist);
    }
}
