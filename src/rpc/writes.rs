//! The writing calls of `ProfileService`, but for the import.

use prost::Message;
use prost_types::FieldMask;

use super::answer_room::room_for;
use super::checked_write::{CheckedWrite, check_create, check_delete, check_update, request_mark};
use super::codec::EncodedProfile;
use super::error::RpcError;
use super::profile_service::ProfileHandler;
use super::wire;
use crate::model::limits::{MAX_BATCH_BYTES, MAX_BATCH_WRITES, MAX_PROFILE_BYTES};
use crate::model::{Canonicalization, Outcome, ProfileId, Record, Rejection, Violations};
use crate::pb;
use crate::pb::profile_write::Write as BatchedWrite;
use crate::store::{Commit, RequestMark, Store, StoreError};

/// The most bytes that a profile has in an answer beyond what its caller gave: id, etag, times, the canonical e-mail,
/// and the lengths around it.
const MAX_ADDED_BYTES: usize = 640;

impl<S: Store> ProfileHandler<S> {
    pub(super) async fn create(&self, mut request: pb::CreateProfileRequest) -> Result<EncodedProfile, RpcError> {
        let request_id = std::mem::take(&mut request.request_id);
        let mark = request_mark("CreateProfile", &request_id, &request);
        self.write(mark, check_create(request, self.settings)).await.and_then(encoded)
    }

    pub(super) async fn update(&self, mut request: pb::UpdateProfileRequest) -> Result<EncodedProfile, RpcError> {
        let request_id = std::mem::take(&mut request.request_id);
        let mark = request_mark("UpdateProfile", &request_id, &request);
        self.write(mark, check_update(request, self.settings)).await.and_then(encoded)
    }

    pub(super) async fn delete(&self, mut request: pb::DeleteProfileRequest) -> Result<(), RpcError> {
        let request_id = std::mem::take(&mut request.request_id);
        let mark = request_mark("DeleteProfile", &request_id, &request);
        self.write(mark, check_delete(&request)).await.map(drop)
    }

    /// Makes a single write. Gives the profile after it, if there is one.
    async fn write(
        &self,
        mark: Result<Option<RequestMark>, Violations>,
        write: Result<CheckedWrite, Violations>,
    ) -> Result<Option<Record>, RpcError> {
        let mut violations = Violations::new();
        let (mark, write) = (violations.check(mark), violations.check(write));
        let (Some(mark), Some(checked)) = (mark, write) else { return Err(violations.into()) };
        let info = checked.info();
        let mark = mark.map(|mark| with_made_ids(mark, std::slice::from_ref(&checked)));
        let commit = Commit::each(vec![checked.write]).for_request(mark);
        match self.store.commit(commit).await?.into_iter().next() {
            Some(Ok(outcome)) => Ok(outcome.into_record()),
            Some(Err(rejection)) => Err(info.refused(rejection, None)),
            None => Err(contract_broken("a write has no outcome")),
        }
    }

    pub(super) async fn batch_write(
        &self,
        mut request: pb::BatchWriteProfilesRequest,
    ) -> Result<wire::BatchWriteProfilesResponse, RpcError> {
        let mut violations = Violations::new();
        violations.check(check_bounds(&request));
        if !violations.is_empty() {
            return Err(violations.into());
        }
        let request_id = std::mem::take(&mut request.request_id);
        let answer_bytes = most_answered(&request, !request_id.is_empty());
        let mark = violations.check(request_mark("BatchWriteProfiles", &request_id, &request));
        let mut checked = Vec::with_capacity(request.writes.len());
        let mut paths = Vec::with_capacity(request.writes.len());
        for (index, write) in request.writes.into_iter().enumerate() {
            let (path, result) = check_batched(write, index, self.settings);
            checked.extend(violations.check(result.map_err(|violations| violations.below(&path))));
            paths.push(path);
        }
        let Some(mark) = mark.filter(|_| violations.is_empty()) else { return Err(violations.into()) };
        let _room = room_for(answer_bytes)?;
        let mark = mark.map(|mark| with_made_ids(mark, &checked));
        let infos: Vec<_> = checked.iter().map(CheckedWrite::info).collect();
        let writes = checked.into_iter().map(|checked| checked.write).collect();
        match self.store.commit(Commit::all(writes).for_request(mark)).await {
            Ok(outcomes) => {
                let profile = |outcome: Outcome| outcome.into_record().map(|record| record.profile());
                let results = outcomes.into_iter().flatten().map(profile);
                let results = results
                    .map(|profile| wire::ProfileWriteResult { profile: profile.unwrap_or_default() })
                    .collect();
                Ok(wire::BatchWriteProfilesResponse { results })
            }
            Err(StoreError::Rejected { index, rejection }) => {
                let rejection = match (rejection, paths.get(index)) {
                    (Rejection::Invalid(violations), Some(path)) => Rejection::Invalid(violations.below(path)),
                    (rejection, _) => rejection,
                };
                match infos.into_iter().nth(index) {
                    Some(info) => Err(info.refused(rejection, Some(index))),
                    None => Err(contract_broken("a write was refused that is not in its batch")),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The most bytes that the answer to a batch can have. What an update of some fields leaves of the others is known only to
/// the store, and so is what a repeated request finds.
fn most_answered(request: &pb::BatchWriteProfilesRequest, may_be_repeated: bool) -> usize {
    let answered = |write: &pb::ProfileWrite| {
        let (profile, is_whole) = match &write.write {
            Some(BatchedWrite::Create(create)) => (&create.profile, true),
            Some(BatchedWrite::Update(update)) => {
                let is_all = |mask: &FieldMask| mask.paths.first().is_some_and(|path| path == "*");
                (&update.profile, update.update_mask.as_ref().is_some_and(is_all))
            }
            Some(BatchedWrite::Delete(_)) | None => return 0,
        };
        let given = profile.as_ref().filter(|_| is_whole && !may_be_repeated);
        given.map_or(MAX_PROFILE_BYTES, Message::encoded_len) + MAX_ADDED_BYTES
    };
    request.writes.iter().map(answered).sum()
}

fn check_bounds(request: &pb::BatchWriteProfilesRequest) -> Result<(), Violations> {
    let mut violations = Violations::new();
    let writes = request.writes.len();
    if writes == 0 || writes > MAX_BATCH_WRITES {
        violations.add("writes", format!("must have 1 to {MAX_BATCH_WRITES} writes; it has {writes}"));
    }
    let bytes = request.encoded_len();
    if bytes > MAX_BATCH_BYTES {
        violations.add("writes", format!("take {bytes} bytes encoded; at most {MAX_BATCH_BYTES} are allowed"));
    }
    violations.into_result()
}

/// Checks one write of a batch. Gives the path under which it stands in the request too.
fn check_batched(
    write: pb::ProfileWrite,
    index: usize,
    settings: Canonicalization,
) -> (String, Result<CheckedWrite, Violations>) {
    let (name, request_id, checked) = match write.write {
        None => {
            let path = format!("writes[{index}]");
            let violations = Violations::one("write", "must be one of create, update and delete");
            return (path, Err(violations));
        }
        Some(BatchedWrite::Create(mut request)) => {
            ("create", std::mem::take(&mut request.request_id), check_create(request, settings))
        }
        Some(BatchedWrite::Update(mut request)) => {
            ("update", std::mem::take(&mut request.request_id), check_update(request, settings))
        }
        Some(BatchedWrite::Delete(request)) => ("delete", request.request_id.clone(), check_delete(&request)),
    };
    let mut violations = Violations::new();
    if !request_id.is_empty() {
        violations.add("request_id", "must be empty inside a batch, which has one for all its writes");
    }
    let checked = violations.check(checked).filter(|_| violations.is_empty()).ok_or(violations);
    (format!("writes[{index}].{name}"), checked)
}

fn with_made_ids(mark: RequestMark, writes: &[CheckedWrite]) -> RequestMark {
    let made = writes.iter().filter(|checked| checked.made_id);
    RequestMark { made_ids: made.map(|checked| checked.write.id.clone()).collect::<Box<[ProfileId]>>(), ..mark }
}

/// The answer to a create or an update. A repeated request finds nothing when the profile was deleted since.
fn encoded(record: Option<Record>) -> Result<EncodedProfile, RpcError> {
    record.map(|record| EncodedProfile(record.profile())).ok_or(RpcError::RepeatedAndGone)
}

/// A store that answers against its contract has failed: what became of the write is unknown.
fn contract_broken(cause: &str) -> RpcError {
    tracing::error!(cause, "a store broke its contract");
    RpcError::Store(StoreError::Failed { cause: cause.to_owned() })
}
