//! The reading calls of `ProfileService`.
//!
//! Invariant: without a read mask no profile is decoded; what is stored is what is sent.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message;
use prost_types::FieldMask;

use super::codec::EncodedProfile;
use super::error::RpcError;
use super::page_token::{CallFingerprint, PageToken};
use super::profile_service::ProfileHandler;
use super::request::{Paging, fingerprint, to_int64};
use super::wire;
use crate::cache::HotCache;
use crate::model::limits::{MAX_BATCH_GET_IDS, MAX_PAGE_BYTES};
use crate::model::{Domain, Email, ProfileId, ReadMask, Record, Violations};
use crate::pb;
use crate::store::{Corruption, DomainOrder, PageBounds, Scope, Store, StoreError};

/// A page of encoded profiles and the token of the next one.
pub struct ProfilePage {
    /// The profiles, encoded.
    pub profiles: Vec<Bytes>,
    /// Empty at the end.
    pub next_page_token: String,
}

impl<S: Store> ProfileHandler<S> {
    pub(super) async fn get(&self, request: pb::GetProfileRequest) -> Result<EncodedProfile, RpcError> {
        let mut violations = Violations::new();
        let id = violations.check(ProfileId::parse(&request.id, "id"));
        let mask = violations.check(ReadMask::parse(request.read_mask.as_ref(), "read_mask"));
        let (Some(id), Some(mask)) = (id, mask) else { return Err(violations.into()) };
        self.hot_keys.note_id(id.as_str());
        match self.store.get(&id).await? {
            Some(record) => render(&record, &mask).map(EncodedProfile),
            None => Err(RpcError::NotFound { id }),
        }
    }

    pub(super) async fn batch_get(
        &self,
        request: pb::BatchGetProfilesRequest,
    ) -> Result<wire::BatchGetProfilesResponse, RpcError> {
        let mut violations = Violations::new();
        let ids = violations.check(distinct_ids(&request.ids));
        let mask = violations.check(ReadMask::parse(request.read_mask.as_ref(), "read_mask"));
        let (Some(ids), Some(mask)) = (ids, mask) else { return Err(violations.into()) };
        self.hot_keys.note_ids(ids.iter().map(ProfileId::as_str));
        let records = self.store.get_many(&ids).await?;
        let mut response = wire::BatchGetProfilesResponse::default();
        for (id, record) in ids.iter().zip(records) {
            match record {
                Some(record) => response.profiles.push(render(&record, &mask)?),
                None => response.missing_ids.push(id.to_string()),
            }
        }
        let bytes = response.encoded_len();
        if bytes > MAX_PAGE_BYTES {
            return Err(RpcError::AnswerTooLarge { bytes, limit: MAX_PAGE_BYTES });
        }
        Ok(response)
    }

    pub(super) async fn list(&self, request: pb::ListProfilesRequest) -> Result<ProfilePage, RpcError> {
        let paging = Paging { page_size: request.page_size, page_token: request.page_token };
        self.page("ListProfiles", Ok(Scope::All), paging, request.read_mask).await
    }

    pub(super) async fn lookup_by_email(
        &self,
        request: pb::LookupProfilesByEmailRequest,
    ) -> Result<ProfilePage, RpcError> {
        let scope = Email::parse(&request.email, self.settings, "email").map(|email| Scope::email(&email));
        let paging = Paging { page_size: request.page_size, page_token: request.page_token };
        self.page("LookupProfilesByEmail", scope, paging, request.read_mask).await
    }

    pub(super) async fn query_by_domain(
        &self,
        request: pb::QueryProfilesByDomainRequest,
    ) -> Result<ProfilePage, RpcError> {
        let domain = Domain::parse(&request.domain, "domain");
        let scope = queried_scope(domain.as_ref(), request.include_subdomains);
        let paging = Paging { page_size: request.page_size, page_token: request.page_token };
        let page = self.page("QueryProfilesByDomain", scope, paging, request.read_mask).await?;
        if let Ok(domain) = &domain {
            self.hot_keys.note_domain(domain.as_str());
        }
        Ok(page)
    }

    /// The same with the answer encoded; `message` is the request as it was sent, under which the cache keeps it.
    pub(super) async fn encoded_query(
        &self,
        message: Bytes,
        request: pb::QueryProfilesByDomainRequest,
        cache: Option<&HotCache>,
    ) -> Result<Bytes, RpcError> {
        let domain = Domain::parse(&request.domain, "domain");
        let scope = queried_scope(domain.as_ref(), request.include_subdomains);
        let ticket = cache.zip(scope.as_ref().ok()).and_then(|(cache, scope)| cache.pages().ticket(scope));
        let paging = Paging { page_size: request.page_size, page_token: request.page_token };
        let page = self.page("QueryProfilesByDomain", scope, paging, request.read_mask).await?;
        let ProfilePage { profiles, next_page_token } = page;
        let answer: Bytes = wire::QueryProfilesByDomainResponse { profiles, next_page_token }.encode_to_vec().into();
        if let Ok(domain) = &domain {
            self.hot_keys.note_domain(domain.as_str());
            if let (Some(cache), Some(ticket)) = (cache, ticket) {
                cache.pages().fill(&message, ticket, domain, &answer);
            }
        }
        Ok(answer)
    }

    pub(super) async fn count(
        &self,
        request: pb::CountProfilesRequest,
    ) -> Result<pb::CountProfilesResponse, RpcError> {
        let scope = if request.domain.is_empty() {
            Scope::All
        } else {
            Scope::domain(&Domain::parse(&request.domain, "domain")?, request.include_subdomains)
        };
        Ok(pb::CountProfilesResponse { count: to_int64(self.store.count(&scope).await?) })
    }

    pub(super) async fn list_domains(
        &self,
        request: pb::ListDomainsRequest,
    ) -> Result<pb::ListDomainsResponse, RpcError> {
        let mut violations = Violations::new();
        let parent = match request.parent_domain.as_str() {
            "" => None,
            parent => violations.check(Domain::parse(parent, "parent_domain")),
        };
        let order = violations.check(domain_order(&request.order_by)).unwrap_or(DomainOrder::Index);
        let mut paging = Paging { page_size: request.page_size, page_token: request.page_token };
        if order == DomainOrder::LargestFirst && !paging.page_token.is_empty() {
            violations.add("page_token", "must be empty with order_by, which gives one page only");
            paging.page_token.clear();
        }
        let page = paging.parse(violations)?;
        let call =
            CallFingerprint::new("ListDomains").and(parent.as_ref().map_or(b"", |parent| parent.as_str().as_bytes()));
        let max_domains = page.max_entries;
        let after = page.cursor(call)?;
        let page = self.store.list_domains(parent.as_ref(), order, after.as_ref(), max_domains).await?;
        let summary = |(domain, profiles): (Domain, u64)| pb::DomainSummary {
            domain: domain.to_string(),
            profile_count: to_int64(profiles),
        };
        Ok(pb::ListDomainsResponse {
            domains: page.domains.into_iter().map(|count| summary((count.domain, count.profiles))).collect(),
            next_page_token: page.next.map(|next| PageToken::new(call, next).encode()).unwrap_or_default(),
        })
    }

    /// A page of a scope for any of the calls that list profiles.
    async fn page(
        &self,
        call: &str,
        scope: Result<Scope, Violations>,
        paging: Paging,
        given_mask: Option<FieldMask>,
    ) -> Result<ProfilePage, RpcError> {
        let mut violations = Violations::new();
        let scope = violations.check(scope);
        let mask = violations.check(ReadMask::parse(given_mask.as_ref(), "read_mask"));
        let page = paging.parse(violations)?;
        // Without violations both are there.
        let (Some(scope), Some(mask)) = (scope, mask) else { return Err(Violations::new().into()) };
        let call = fingerprint(call, &scope, &mask, given_mask.as_ref());
        let bounds = PageBounds { max_records: page.max_entries, max_bytes: MAX_PAGE_BYTES };
        let after = page.cursor(call)?;
        let page = self.store.list(&scope, after.as_ref(), bounds).await?;
        Ok(ProfilePage {
            profiles: page.records.iter().map(|record| render(record, &mask)).collect::<Result<_, _>>()?,
            next_page_token: page.next.map(|next| PageToken::new(call, next).encode()).unwrap_or_default(),
        })
    }
}

fn queried_scope(domain: Result<&Domain, &Violations>, include_subdomains: bool) -> Result<Scope, Violations> {
    domain.map(|domain| Scope::domain(domain, include_subdomains)).map_err(Violations::clone)
}

/// The profile as it is sent: as it is stored, or decoded to select the fields of a mask.
fn render(record: &Record, mask: &ReadMask) -> Result<Bytes, RpcError> {
    if mask.is_all() {
        return Ok(record.profile());
    }
    let profile = record
        .decode()
        .map_err(|_| StoreError::Corrupt(Corruption("a record passes its checksum but is not a profile".into())))?;
    Ok(mask.select(profile).encode_to_vec().into())
}

/// The ids without repeats, in the order of their first places.
fn distinct_ids(given: &[String]) -> Result<Vec<ProfileId>, Violations> {
    if given.is_empty() || given.len() > MAX_BATCH_GET_IDS {
        let description = format!("has {} entries; 1 to {MAX_BATCH_GET_IDS} are allowed", given.len());
        return Err(Violations::one("ids", description));
    }
    let mut violations = Violations::new();
    let mut ids = Vec::with_capacity(given.len());
    let mut seen = HashSet::with_capacity(given.len());
    for (index, id) in given.iter().enumerate() {
        if seen.insert(id) {
            ids.extend(violations.check(ProfileId::parse(id, &format!("ids[{index}]"))));
        }
    }
    violations.into_result().map(|()| ids)
}

fn domain_order(order_by: &str) -> Result<DomainOrder, Violations> {
    let words: Vec<_> = order_by.split_whitespace().collect();
    match words[..] {
        [] => Ok(DomainOrder::Index),
        ["profile_count", "desc"] => Ok(DomainOrder::LargestFirst),
        _ => Err(Violations::one("order_by", "must be empty or `profile_count desc`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_ids_keep_their_first_place() {
        let given = ["b", "a", "b", "c", "a"].map(String::from);
        let ids: Vec<_> = distinct_ids(&given).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(ids, ["b", "a", "c"]);
    }

    #[test]
    fn bad_ids_are_named_by_their_places() {
        let given = ["a", "", "b", " "].map(String::from);
        let violations = distinct_ids(&given).unwrap_err();
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["ids[1]", "ids[3]"]);
    }

    #[test]
    fn domains_have_two_orders() {
        assert_eq!(domain_order(""), Ok(DomainOrder::Index));
        for spelling in ["profile_count desc", "  profile_count   desc "] {
            assert_eq!(domain_order(spelling), Ok(DomainOrder::LargestFirst));
        }
        for bad in ["profile_count", "profile_count asc", "domain", "profile_count desc, domain", "desc"] {
            assert!(domain_order(bad).is_err(), "{bad}");
        }
    }
}
