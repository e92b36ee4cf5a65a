//! What a write is about, as far as it can be checked without the stored profile.
//!
//! Everything here happens before the commit, so that a bad request never waits in the commit queue. A single
//! call and a write of a batch are checked by the same functions; only the path of what is wrong differs.

use prost::Message;
use uuid::Uuid;

use super::error::RpcError;
use super::page_token::CallFingerprint;
use crate::model::limits::MAX_PROFILE_BYTES;
use crate::model::{
    Canonicalization, Draft, Etag, Precondition, Profile, ProfileId, Rejection, UpdateFn, UpdateMask, Violations,
    Write,
};
use crate::pb;
use crate::store::{RequestId, RequestMark};

/// A write that can be committed.
pub struct CheckedWrite {
    /// The write.
    pub write: Write,
    /// Whether the server made the profile's id.
    pub made_id: bool,
    /// The caller knows an etag and would have the profile made if it is missing: a contradiction once it is.
    etag_of_what_may_be_missing: bool,
}

/// What must be known of a write when it was refused.
#[derive(Debug, Clone)]
pub struct WriteInfo {
    /// The profile.
    pub id: ProfileId,
    etag_of_what_may_be_missing: bool,
}

impl CheckedWrite {
    fn new(write: Write) -> Self {
        Self { write, made_id: false, etag_of_what_may_be_missing: false }
    }

    /// What must be known once the write is gone into the store.
    pub fn info(&self) -> WriteInfo {
        WriteInfo { id: self.write.id.clone(), etag_of_what_may_be_missing: self.etag_of_what_may_be_missing }
    }
}

impl WriteInfo {
    /// The failure of a refused write; `index` is its place in a batch.
    pub fn refused(self, rejection: Rejection, index: Option<usize>) -> RpcError {
        match rejection {
            // A caller who knows an etag takes the profile for present: making a new one would be wrong.
            Rejection::NotFound if self.etag_of_what_may_be_missing => RpcError::EtagOfAbsent { id: self.id, index },
            rejection => RpcError::Rejected { id: self.id, index, rejection },
        }
    }
}

/// Checks a create. An empty id is replaced by a new one.
pub fn check_create(
    request: pb::CreateProfileRequest,
    settings: Canonicalization,
) -> Result<CheckedWrite, Violations> {
    let mut profile = required(request.profile)?;
    let made_id = profile.id.is_empty();
    if made_id {
        profile.id = Uuid::now_v7().to_string();
    }
    let draft = Draft::from_profile(profile, settings, "profile")?;
    Ok(CheckedWrite { made_id, ..CheckedWrite::new(Write::put(draft, Precondition::MustBeAbsent)) })
}

/// Checks an update.
pub fn check_update(
    request: pb::UpdateProfileRequest,
    settings: Canonicalization,
) -> Result<CheckedWrite, Violations> {
    let mut violations = Violations::new();
    let mask_bytes = request.update_mask.as_ref().map_or(0, Message::encoded_len);
    let mask = violations.check(UpdateMask::parse(request.update_mask.as_ref(), "update_mask"));
    let Some(mut profile) = violations.check(required(request.profile)) else { return Err(violations) };
    let given_bytes = profile.encoded_len();
    let condition = std::mem::take(&mut profile.etag);
    let etag_of_what_may_be_missing = !condition.is_empty() && request.allow_missing;
    let precondition = match (etag(condition), request.allow_missing) {
        (Some(etag), _) => Precondition::MustMatch(etag),
        (None, true) => Precondition::None,
        (None, false) => Precondition::MustExist,
    };
    let write = match mask {
        // Nothing of the stored profile stays.
        Some(UpdateMask::All) => {
            let draft = violations.check(Draft::from_profile(profile, settings, "profile"));
            draft.map(|draft| Write::put(draft, precondition))
        }
        Some(mask) => violations.check(masked_draft(&mask, &profile, settings)).map(|checked| {
            let function = update_function(mask, profile, settings);
            Write::update(checked.id().clone(), function, precondition, given_bytes + mask_bytes)
        }),
        None => {
            violations.check(ProfileId::parse(&profile.id, "profile.id"));
            None
        }
    };
    // Also when a mask leaves most of it out: it waits in the queue as a whole.
    if given_bytes > MAX_PROFILE_BYTES && !violations.iter().any(|violation| violation.field == "profile") {
        let description = format!("has {given_bytes} bytes encoded; at most {MAX_PROFILE_BYTES} are allowed");
        violations.add("profile", description);
    }
    let Some(write) = write.filter(|_| violations.is_empty()) else { return Err(violations) };
    Ok(CheckedWrite { etag_of_what_may_be_missing, ..CheckedWrite::new(write) })
}

/// Checks a delete.
pub fn check_delete(request: &pb::DeleteProfileRequest) -> Result<CheckedWrite, Violations> {
    let id = ProfileId::parse(&request.id, "id")?;
    let precondition = match (etag(request.etag.clone()), request.allow_missing) {
        (Some(etag), true) => Precondition::MustMatchIfPresent(etag),
        (Some(etag), false) => Precondition::MustMatch(etag),
        (None, true) => Precondition::None,
        (None, false) => Precondition::MustExist,
    };
    Ok(CheckedWrite::new(Write::delete(id, precondition)))
}

/// Takes the request id out of a request: by it and by a hash of the rest the store knows a repetition.
pub fn request_mark(call: &str, request_id: &str, rest: &impl Message) -> Result<Option<RequestMark>, Violations> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let id = Uuid::try_parse(request_id).map_err(|_| Violations::one("request_id", "must be a UUID"))?;
    // Maps are encoded in order, so equal requests have equal bytes.
    let fingerprint = CallFingerprint::new(call).and(&rest.encode_to_vec()).value();
    Ok(Some(RequestMark { id: RequestId(id.into_bytes()), fingerprint, made_ids: Box::default() }))
}

fn required(profile: Option<Profile>) -> Result<Profile, Violations> {
    profile.ok_or_else(|| Violations::one("profile", "must be given"))
}

fn etag(etag: String) -> Option<Etag> {
    (!etag.is_empty()).then(|| Etag::from_caller(etag))
}

/// The draft of what the mask takes from the request and nothing else. Whatever is wrong with it is wrong
/// with every result of the update, since the stored profile can only add to it.
fn masked_draft(mask: &UpdateMask, given: &Profile, settings: Canonicalization) -> Result<Draft, Violations> {
    let mut masked = Profile { id: given.id.clone(), ..Profile::default() };
    mask.apply(&mut masked, given);
    Draft::from_profile(masked, settings, "profile")
}

fn update_function(mask: UpdateMask, given: Profile, settings: Canonicalization) -> UpdateFn {
    Box::new(move |current| {
        let wanted = match current {
            Some(mut current) => {
                mask.apply(&mut current, &given);
                current
            }
            None => given,
        };
        Draft::from_profile(wanted, settings, "profile")
    })
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
        let check = |etag: &str, allow_missing| {
            let profile = Profile { id: "a".into(), etag: etag.into(), ..Profile::default() };
            let request = pb::UpdateProfileRequest {
                profile: Some(profile),
                allow_missing,
                ..pb::UpdateProfileRequest::default()
            };
            check_update(request, Canonicalization::default()).map(|checked| checked.write.precondition).unwrap()
        };
        let matches = Precondition::MustMatch(Etag::from_caller("e".into()));
        assert_eq!(check("e", true), matches);
        assert_eq!(check("e", false), matches);
        assert_eq!(check("", true), Precondition::None);
        assert_eq!(check("", false), Precondition::MustExist);
    }

    #[test]
    fn a_request_id_is_empty_or_a_uuid() {
        let mark = |request_id| request_mark("Call", request_id, &pb::DeleteProfileRequest::default());
        assert_eq!(mark(""), Ok(None));
        assert!(mark("01890a5d-ac96-774b-bcce-b302099a8057").unwrap().is_some());
        assert_eq!(mark("x").unwrap_err().iter().next().unwrap().field, "request_id");
    }

    #[test]
    fn equal_requests_have_equal_marks_and_others_do_not() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let delete = |id: &str| pb::DeleteProfileRequest { id: id.into(), ..pb::DeleteProfileRequest::default() };
        let mark = |call, request| request_mark(call, id, &request).unwrap().unwrap();
        // The fingerprint is stored: it must be the same in every version.
        assert_eq!(mark("DeleteProfile", delete("a")).fingerprint, 0x3ad1_185e_ec57_be79);
        assert_eq!(mark("DeleteProfile", delete("a")), mark("DeleteProfile", delete("a")));
        assert_ne!(mark("DeleteProfile", delete("a")), mark("DeleteProfile", delete("b")));
        assert_ne!(mark("DeleteProfile", delete("a")), mark("CreateProfile", delete("a")));
    }
}
