//! `profilestore.v1.ProfileService` over any store.
//!
//! This file only binds names to calls; what they do is in `reads`, `writes`, `import`, `export` and `watch`.

use std::pin::Pin;
use std::sync::Arc;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::codec::EncodedProfile;
use super::export::export;
use super::import::import;
use super::watch::watch;
use super::watch_responses::WatchResponses;
use super::wire;
use super::wire::profile_service_server::ProfileService;
use crate::feed::Feed;
use crate::model::Canonicalization;
use crate::observe::hot_keys::HotKeys;
use crate::pb;
use crate::store::Store;

/// Answers the calls of `ProfileService` from a store.
pub struct ProfileHandler<S> {
    pub(super) store: Arc<S>,
    feed: Arc<Feed<S>>,
    /// How addresses become canonical; the store's index was built with the same.
    pub(super) settings: Canonicalization,
    /// Where reads are noted.
    pub(super) hot_keys: Arc<HotKeys>,
}

impl<S: Store> ProfileHandler<S> {
    /// A handler over a store whose index was built with `settings`, and the feed of its changes; it notes what is read
    /// in `hot_keys`.
    pub fn new(store: Arc<S>, feed: Arc<Feed<S>>, settings: Canonicalization, hot_keys: Arc<HotKeys>) -> Self {
        Self { store, feed, settings, hot_keys }
    }
}

#[tonic::async_trait]
impl<S: Store> ProfileService for ProfileHandler<S> {
    type ImportProfilesStream = BoxStream<pb::ImportProfilesResponse>;
    type ExportProfilesStream = BoxStream<wire::ExportProfilesResponse>;
    type WatchProfilesStream = Pin<Box<WatchResponses<S>>>;

    async fn get_profile(&self, request: Request<pb::GetProfileRequest>) -> Result<Response<EncodedProfile>, Status> {
        Ok(Response::new(self.get(request.into_inner()).await?))
    }

    async fn list_profiles(
        &self,
        request: Request<pb::ListProfilesRequest>,
    ) -> Result<Response<wire::ListProfilesResponse>, Status> {
        let page = self.list(request.into_inner()).await?;
        Ok(Response::new(wire::ListProfilesResponse {
            profiles: page.profiles,
            next_page_token: page.next_page_token,
        }))
    }

    async fn batch_get_profiles(
        &self,
        request: Request<pb::BatchGetProfilesRequest>,
    ) -> Result<Response<wire::BatchGetProfilesResponse>, Status> {
        Ok(Response::new(self.batch_get(request.into_inner()).await?))
    }

    async fn lookup_profiles_by_email(
        &self,
        request: Request<pb::LookupProfilesByEmailRequest>,
    ) -> Result<Response<wire::LookupProfilesByEmailResponse>, Status> {
        let page = self.lookup_by_email(request.into_inner()).await?;
        Ok(Response::new(wire::LookupProfilesByEmailResponse {
            profiles: page.profiles,
            next_page_token: page.next_page_token,
        }))
    }

    async fn query_profiles_by_domain(
        &self,
        request: Request<pb::QueryProfilesByDomainRequest>,
    ) -> Result<Response<wire::QueryProfilesByDomainResponse>, Status> {
        let page = self.query_by_domain(request.into_inner()).await?;
        Ok(Response::new(wire::QueryProfilesByDomainResponse {
            profiles: page.profiles,
            next_page_token: page.next_page_token,
        }))
    }

    async fn count_profiles(
        &self,
        request: Request<pb::CountProfilesRequest>,
    ) -> Result<Response<pb::CountProfilesResponse>, Status> {
        Ok(Response::new(self.count(request.into_inner()).await?))
    }

    async fn list_domains(
        &self,
        request: Request<pb::ListDomainsRequest>,
    ) -> Result<Response<pb::ListDomainsResponse>, Status> {
        Ok(Response::new(self.list_domains(request.into_inner()).await?))
    }

    async fn create_profile(
        &self,
        request: Request<pb::CreateProfileRequest>,
    ) -> Result<Response<EncodedProfile>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await?))
    }

    async fn update_profile(
        &self,
        request: Request<pb::UpdateProfileRequest>,
    ) -> Result<Response<EncodedProfile>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn delete_profile(&self, request: Request<pb::DeleteProfileRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.delete(request.into_inner()).await?))
    }

    async fn batch_write_profiles(
        &self,
        request: Request<pb::BatchWriteProfilesRequest>,
    ) -> Result<Response<wire::BatchWriteProfilesResponse>, Status> {
        Ok(Response::new(self.batch_write(request.into_inner()).await?))
    }

    async fn import_profiles(
        &self,
        request: Request<Streaming<pb::ImportProfilesRequest>>,
    ) -> Result<Response<Self::ImportProfilesStream>, Status> {
        let import = import(self.store.clone(), self.settings, request.into_inner());
        Ok(Response::new(Box::pin(import)))
    }

    async fn export_profiles(
        &self,
        request: Request<pb::ExportProfilesRequest>,
    ) -> Result<Response<Self::ExportProfilesStream>, Status> {
        Ok(Response::new(Box::pin(export(self.store.clone(), request.into_inner())?)))
    }

    async fn watch_profiles(
        &self,
        request: Request<pb::WatchProfilesRequest>,
    ) -> Result<Response<Self::WatchProfilesStream>, Status> {
        Ok(Response::new(watch(self.feed.clone(), request.into_inner()).await?))
    }
}
