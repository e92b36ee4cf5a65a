//! The calls that read.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message;
use tonic::Status;

use super::codec::EncodedProfile;
use super::error::{corrupt, invalid_fields, not_found, store_error};
use super::page_token::{self, Fingerprint};
use super::request::{fingerprint, page_bounds, page_size, read_mask};
use super::wire::{
    BatchGetProfilesResponse, ListProfilesResponse, LookupProfilesByEmailResponse, QueryProfilesByDomainResponse,
};
use crate::model::limits::MAX_BATCH_GET_IDS;
use crate::model::{Canonicalization, Domain, Email, ProfileId, ReadMask, Record, Violations};
use crate::pb;
use crate::store::{DomainOrder, Scope, Store};

/// GetProfile.
pub async fn get<S: Store>(store: &S, request: pb::GetProfileRequest) -> Result<EncodedProfile, Status> {
    let mut violations = Violations::new();
    let id = violations.check(ProfileId::parse(&request.id, "id"));
    let mask = violations.check(read_mask(request.read_mask.as_ref()));
    let (Some(id), Some(mask)) = (id, mask) else { return Err(invalid_fields(violations)) };
    match store.get(&id).await.map_err(store_error)? {
        Some(record) => masked(&record, &mask).map(EncodedProfile),
        None => Err(not_found(&id)),
    }
}

/// BatchGetProfiles.
pub async fn batch_get<S: Store>(
    store: &S,
    request: pb::BatchGetProfilesRequest,
) -> Result<BatchGetProfilesResponse, Status> {
    let mut violations = Violations::new();
    let mask = violations.check(read_mask(request.read_mask.as_ref()));
    if request.ids.is_empty() || request.ids.len() > MAX_BATCH_GET_IDS {
        violations.add("ids", format!("has {} ids; 1 to {MAX_BATCH_GET_IDS} are allowed", request.ids.len()));
        return Err(invalid_fields(violations));
    }
    let mut seen = HashSet::with_capacity(request.ids.len());
    let mut ids = Vec::with_capacity(request.ids.len());
    for (index, id) in request.ids.iter().enumerate() {
        // A repeated id is answered once, at its first place.
        if seen.insert(id.as_str()) {
            ids.extend(violations.check(ProfileId::parse(id, &format!("ids[{index}]"))));
        }
    }
    let Some(mask) = mask.filter(|_| violations.is_empty()) else { return Err(invalid_fields(violations)) };
    let records = store.get_many(&ids).await.map_err(store_error)?;
    let mut response = BatchGetProfilesResponse::default();
    for (id, record) in ids.iter().zip(records) {
        match record {
            Some(record) => response.profiles.push(masked(&record, &mask)?),
            None => response.missing_ids.push(id.to_string()),
        }
    }
    Ok(response)
}

/// ListProfiles.
pub async fn list<S: Store>(store: &S, request: pb::ListProfilesRequest) -> Result<ListProfilesResponse, Status> {
    let fingerprint = fingerprint("ListProfiles", &[], request.read_mask.as_ref());
    let paging = Paging { size: request.page_size, token: &request.page_token, fingerprint };
    let mask = read_mask(request.read_mask.as_ref());
    let (profiles, next_page_token) = page(store, Ok(Scope::All), paging, mask).await?;
    Ok(ListProfilesResponse { profiles, next_page_token })
}

/// LookupProfilesByEmail.
pub async fn lookup<S: Store>(
    store: &S,
    settings: Canonicalization,
    request: pb::LookupProfilesByEmailRequest,
) -> Result<LookupProfilesByEmailResponse, Status> {
    let scope = Email::parse(&request.email, settings, "email").map(|email| Scope::email(&email));
    let key = match &scope {
        Ok(Scope::Email(key)) => key.as_bytes(),
        _ => &[],
    };
    let fingerprint = fingerprint("LookupProfilesByEmail", &[key], request.read_mask.as_ref());
    let paging = Paging { size: request.page_size, token: &request.page_token, fingerprint };
    let mask = read_mask(request.read_mask.as_ref());
    let (profiles, next_page_token) = page(store, scope, paging, mask).await?;
    Ok(LookupProfilesByEmailResponse { profiles, next_page_token })
}

/// QueryProfilesByDomain.
pub async fn query<S: Store>(
    store: &S,
    request: pb::QueryProfilesByDomainRequest,
) -> Result<QueryProfilesByDomainResponse, Status> {
    let domain = Domain::parse(&request.domain, "domain");
    let name = domain.as_ref().map(Domain::as_str).unwrap_or_default();
    let arguments = [name.as_bytes(), &[u8::from(request.include_subdomains)]];
    let fingerprint = fingerprint("QueryProfilesByDomain", &arguments, request.read_mask.as_ref());
    let paging = Paging { size: request.page_size, token: &request.page_token, fingerprint };
    let mask = read_mask(request.read_mask.as_ref());
    let scope = domain.map(|domain| Scope::domain(&domain, request.include_subdomains));
    let (profiles, next_page_token) = page(store, scope, paging, mask).await?;
    Ok(QueryProfilesByDomainResponse { profiles, next_page_token })
}

/// CountProfiles.
pub async fn count<S: Store>(
    store: &S,
    request: pb::CountProfilesRequest,
) -> Result<pb::CountProfilesResponse, Status> {
    let scope = if request.domain.is_empty() {
        Scope::All
    } else {
        let domain = Domain::parse(&request.domain, "domain").map_err(invalid_fields)?;
        Scope::domain(&domain, request.include_subdomains)
    };
    let count = store.count(&scope).await.map_err(store_error)?;
    Ok(pb::CountProfilesResponse { count: i64::try_from(count).unwrap_or(i64::MAX) })
}

/// ListDomains.
pub async fn list_domains<S: Store>(
    store: &S,
    request: pb::ListDomainsRequest,
) -> Result<pb::ListDomainsResponse, Status> {
    let mut violations = Violations::new();
    let size = violations.check(page_size(request.page_size));
    let order = violations.check(domain_order(&request.order_by));
    let parent = match request.parent_domain.as_str() {
        "" => Some(None),
        parent => violations.check(Domain::parse(parent, "parent_domain")).map(Some),
    };
    if order == Some(DomainOrder::LargestFirst) && !request.page_token.is_empty() {
        violations.add("page_token", "must be empty with order_by: that order has one page");
    }
    let (Some(size), Some(order), Some(parent), true) = (size, order, parent, violations.is_empty()) else {
        return Err(invalid_fields(violations));
    };
    let name = parent.as_ref().map(Domain::as_str).unwrap_or_default();
    let fingerprint = Fingerprint::new("ListDomains", &[name.as_bytes()]);
    let after = page_token::decode(&request.page_token, fingerprint)?;
    let page = store.list_domains(parent.as_ref(), order, after.as_ref(), size).await.map_err(store_error)?;
    let domains = page.domains.into_iter().map(|count| pb::DomainSummary {
        domain: count.domain.to_string(),
        profile_count: i64::try_from(count.profiles).unwrap_or(i64::MAX),
    });
    Ok(pb::ListDomainsResponse {
        domains: domains.collect(),
        next_page_token: page_token::encode(page.next.as_ref(), fingerprint),
    })
}

fn domain_order(order_by: &str) -> Result<DomainOrder, Violations> {
    let words: Vec<_> = order_by.split_whitespace().collect();
    match words.as_slice() {
        [] => Ok(DomainOrder::Index),
        ["profile_count", "desc"] => Ok(DomainOrder::LargestFirst),
        _ => Err(Violations::one("order_by", "must be empty or `profile_count desc`")),
    }
}

/// Where a page begins and how long it may be, as the caller said it.
struct Paging<'a> {
    size: i32,
    token: &'a str,
    fingerprint: Fingerprint,
}

/// Reads a page of a scope. Everything that is wrong with the request is reported at once.
async fn page<S: Store>(
    store: &S,
    scope: Result<Scope, Violations>,
    paging: Paging<'_>,
    mask: Result<ReadMask, Violations>,
) -> Result<(Vec<Bytes>, String), Status> {
    let mut violations = Violations::new();
    let scope = violations.check(scope);
    let size = violations.check(page_size(paging.size));
    let mask = violations.check(mask);
    let (Some(scope), Some(size), Some(mask)) = (scope, size, mask) else {
        return Err(invalid_fields(violations));
    };
    let after = page_token::decode(paging.token, paging.fingerprint)?;
    let page = store.list(&scope, after.as_ref(), page_bounds(size)).await.map_err(store_error)?;
    let profiles = page.records.iter().map(|record| masked(record, &mask)).collect::<Result<_, _>>()?;
    Ok((profiles, page_token::encode(page.next.as_ref(), paging.fingerprint)))
}

/// The bytes to send: those that are stored, unless a mask asks for less.
fn masked(record: &Record, mask: &ReadMask) -> Result<Bytes, Status> {
    if mask.is_all() {
        return Ok(record.profile());
    }
    let profile = record.decode().map_err(|_| corrupt())?;
    Ok(mask.select(profile).encode_to_vec().into())
}
