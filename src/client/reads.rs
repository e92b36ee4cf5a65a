//! The reading calls.

use std::collections::HashSet;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::error::ClientError;
use super::paged::{PageOptions, Paged, paged};
use super::{Client, Connection, field_mask};
use crate::pb::{
    BatchGetProfilesRequest, BatchGetProfilesResponse, CountProfilesRequest, DomainSummary, GetProfileRequest,
    GetStatusRequest, GetStatusResponse, ListDomainsRequest, ListDomainsResponse, ListProfilesRequest,
    LookupProfilesByEmailRequest, Profile, QueryProfilesByDomainRequest,
};

/// What a server says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It answers, and does not serve: it drains or its store has failed.
    NotServing,
}

/// The second half of the ids and the first: whoever takes from the end has the first one first. An id that is
/// repeated is answered once, so it must not come to stand in both.
fn halves_of_distinct(mut ids: Vec<String>) -> [Vec<String>; 2] {
    let mut seen = HashSet::with_capacity(ids.len());
    ids.retain(|id| seen.insert(id.clone()));
    let second = ids.split_off(ids.len() / 2);
    [second, ids]
}

impl Client {
    /// Gets a profile; `None` when there is none with this id.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// match client.get("ada").await? {
    ///     Some(profile) => println!("{} has the etag {}", profile.id, profile.etag),
    ///     None => println!("nobody"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self, id: impl Into<String>) -> Result<Option<Profile>, ClientError> {
        self.get_masked(id, Vec::new()).await
    }

    /// Gets some fields of a profile, for example `email` or `attributes.team`; without paths all.
    pub async fn get_masked(
        &self,
        id: impl Into<String>,
        read_mask: Vec<String>,
    ) -> Result<Option<Profile>, ClientError> {
        let request = GetProfileRequest { id: id.into(), read_mask: field_mask(read_mask) };
        let attempt =
            |connection: Connection, request| async move { connection.profiles().get_profile(request).await };
        match self.call(request, attempt).await {
            Ok(profile) => Ok(Some(profile)),
            Err(error) if error.reason() == "PROFILE_NOT_FOUND" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gets up to 1000 profiles; ids without a profile are among the missing ones. Where they are too large for one
    /// answer they are asked for in parts.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// let found = client.batch_get(["ada", "bob"].map(String::from).into(), Vec::new()).await?;
    /// println!("{} found, {} missing", found.profiles.len(), found.missing_ids.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn batch_get(
        &self,
        ids: Vec<String>,
        read_mask: Vec<String>,
    ) -> Result<BatchGetProfilesResponse, ClientError> {
        let mut all = BatchGetProfilesResponse::default();
        let mut parts = vec![ids];
        while let Some(ids) = parts.pop() {
            let request = BatchGetProfilesRequest { ids, read_mask: field_mask(read_mask.clone()) };
            let attempt = |connection: Connection, request| async move {
                connection.profiles().batch_get_profiles(request).await
            };
            match self.call(request.clone(), attempt).await {
                Ok(part) => {
                    all.profiles.extend(part.profiles);
                    all.missing_ids.extend(part.missing_ids);
                }
                Err(error) if error.reason() == "ANSWER_TOO_LARGE" && request.ids.len() > 1 => {
                    parts.extend(halves_of_distinct(request.ids));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// All profiles in the order of their ids.
    pub fn list(&self, options: PageOptions) -> Paged<Profile> {
        let PageOptions { page_size, read_mask } = options;
        let request = ListProfilesRequest { page_size, page_token: String::new(), read_mask: field_mask(read_mask) };
        paged(self.clone(), request, |client, request, page_token| async move {
            let request = ListProfilesRequest { page_token, ..request };
            let attempt =
                |connection: Connection, request| async move { connection.profiles().list_profiles(request).await };
            let page = client.call(request, attempt).await?;
            Ok((page.profiles, page.next_page_token))
        })
    }

    /// The profiles with exactly this e-mail address, in any spelling, in the order of their ids.
    pub fn lookup(&self, email: impl Into<String>, options: PageOptions) -> Paged<Profile> {
        let request = LookupProfilesByEmailRequest {
            email: email.into(),
            page_size: options.page_size,
            page_token: String::new(),
            read_mask: field_mask(options.read_mask),
        };
        paged(self.clone(), request, |client, request, page_token| async move {
            let request = LookupProfilesByEmailRequest { page_token, ..request };
            let attempt = |connection: Connection, request| async move {
                connection.profiles().lookup_profiles_by_email(request).await
            };
            let page = client.call(request, attempt).await?;
            Ok((page.profiles, page.next_page_token))
        })
    }

    /// The profiles of a domain, or of it and all its subdomains, in the order of the index.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// use futures_util::TryStreamExt;
    /// use profilestore::client::PageOptions;
    ///
    /// let options = PageOptions { page_size: 500, read_mask: vec!["id".into(), "email".into()] };
    /// let mut profiles = client.query("example.com", true, options);
    /// while let Some(profile) = profiles.try_next().await? {
    ///     println!("{}", profile.id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn query(&self, domain: impl Into<String>, include_subdomains: bool, options: PageOptions) -> Paged<Profile> {
        let request = query_request(domain.into(), include_subdomains, options);
        paged(self.clone(), request, |client, request, page_token| async move {
            client.fetch_query(QueryProfilesByDomainRequest { page_token, ..request }).await
        })
    }

    /// One page of what [`Client::query`] gives and the token of the next one, which is empty after the last:
    /// for whoever shows pages or counts calls. An empty `page_token` asks for the first page.
    pub async fn query_page(
        &self,
        domain: impl Into<String>,
        include_subdomains: bool,
        options: PageOptions,
        page_token: String,
    ) -> Result<(Vec<Profile>, String), ClientError> {
        let request = query_request(domain.into(), include_subdomains, options);
        self.fetch_query(QueryProfilesByDomainRequest { page_token, ..request }).await
    }

    async fn fetch_query(
        &self,
        request: QueryProfilesByDomainRequest,
    ) -> Result<(Vec<Profile>, String), ClientError> {
        let attempt = |connection: Connection, request| async move {
            connection.profiles().query_profiles_by_domain(request).await
        };
        let page = self.call(request, attempt).await?;
        Ok((page.profiles, page.next_page_token))
    }

    /// The domains that have a profile, with their counts, in the order of the index: `parent` and all below
    /// it, or all when it is empty.
    pub fn domains(&self, parent: impl Into<String>, page_size: i32) -> Paged<DomainSummary> {
        let request = ListDomainsRequest { parent_domain: parent.into(), page_size, ..ListDomainsRequest::default() };
        paged(self.clone(), request, |client, request, page_token| async move {
            let page = client.list_domains(ListDomainsRequest { page_token, ..request }).await?;
            Ok((page.domains, page.next_page_token))
        })
    }

    /// The domains with the most profiles, at most `count` of them (0 means 50, more than 1000 means 1000).
    pub async fn largest_domains(
        &self,
        parent: impl Into<String>,
        count: i32,
    ) -> Result<Vec<DomainSummary>, ClientError> {
        let request = ListDomainsRequest {
            parent_domain: parent.into(),
            page_size: count,
            page_token: String::new(),
            order_by: "profile_count desc".into(),
        };
        Ok(self.list_domains(request).await?.domains)
    }

    async fn list_domains(&self, request: ListDomainsRequest) -> Result<ListDomainsResponse, ClientError> {
        let attempt =
            |connection: Connection, request| async move { connection.profiles().list_domains(request).await };
        self.call(request, attempt).await
    }

    /// Counts the profiles of a domain, or of it and all its subdomains; an empty domain counts all profiles.
    pub async fn count(&self, domain: impl Into<String>, include_subdomains: bool) -> Result<u64, ClientError> {
        let request = CountProfilesRequest { domain: domain.into(), include_subdomains };
        let attempt =
            |connection: Connection, request| async move { connection.profiles().count_profiles(request).await };
        Ok(self.call(request, attempt).await?.count.try_into().unwrap_or_default())
    }

    /// What the server says about itself: version, sizes, counts, cache figures.
    pub async fn status(&self) -> Result<GetStatusResponse, ClientError> {
        let attempt = |connection: Connection, request| async move { connection.admin().get_status(request).await };
        self.call(GetStatusRequest {}, attempt).await
    }

    /// Whether the server serves. A server that cannot be reached is [`ClientError::Unavailable`].
    pub async fn health(&self) -> Result<Health, ClientError> {
        let attempt = |connection: Connection, request| async move { connection.health().check(request).await };
        let answer = self.call(HealthCheckRequest::default(), attempt).await?;
        Ok(if answer.status() == ServingStatus::Serving { Health::Serving } else { Health::NotServing })
    }
}

fn query_request(domain: String, include_subdomains: bool, options: PageOptions) -> QueryProfilesByDomainRequest {
    QueryProfilesByDomainRequest {
        domain,
        include_subdomains,
        page_size: options.page_size,
        page_token: String::new(),
        read_mask: field_mask(options.read_mask),
    }
}
