//! `profilestore.v1.ProfileService` over any store.
//!
//! This file only binds names to calls; what they do is in `reads`, `writes`, `import`, `export` and `watch`.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::answers::sized;
use super::codec::EncodedProfile;
use super::export::{CHUNK, export};
use super::import::import;
use super::watch::watch;
use super::wire;
use super::wire::profile_service_server::ProfileService;
use crate::feed::Feed;
use crate::model::Canonicalization;
use crate::pb;
use crate::store::Store;

/// Answers the calls of `ProfileService` from a store.
pub struct ProfileHandler<S> {
    pub(super) store: Arc<S>,
    feed: Arc<Feed<S>>,
    /// How addresses become canonical; the store's index was built with the same.
    pub(super) settings: Canonicalization,
}

impl<S: Store> ProfileHandler<S> {
    /// A handler over a store whose index was built with `settings`, and the feed of its changes.
    pub fn new(store: Arc<S>, feed: Arc<Feed<S>>, settings: Canonicalization) -> Self {
        Self { store, feed, settings }
    }
}

#[tonic::async_trait]
impl<S: Store> ProfileService for ProfileHandler<S> {
    type ImportProfilesStream = BoxStream<pb::ImportProfilesResponse>;
    type ExportProfilesStream = BoxStream<wire::ExportProfilesResponse>;
    type WatchProfilesStream = BoxStream<wire::WatchProfilesResponse>;

    async fn get_profile(&self, request: Request<pb::GetProfileRequest>) -> Result<Response<EncodedProfile>, Status> {
        Ok(Response::new(self.get(request.into_inner()).await?))
    }

    async fn list_profiles(
        &self,
        request: Request<pb::ListProfilesRequest>,
    ) -> Result<Response<wire::ListProfilesResponse>, Status> {
        let page = self.list(request.into_inner()).await?;
        let bytes = page.bytes();
        let answer = wire::ListProfilesResponse { profiles: page.profiles, next_page_token: page.next_page_token };
        Ok(sized(answer, bytes))
    }

    async fn batch_get_profiles(
        &self,
        request: Request<pb::BatchGetProfilesRequest>,
    ) -> Result<Response<wire::BatchGetProfilesResponse>, Status> {
        let answer = self.batch_get(request.into_inner()).await?;
        let bytes = answer.profiles.iter().map(Bytes::len).sum();
        Ok(sized(answer, bytes))
    }

    async fn lookup_profiles_by_email(
        &self,
        request: Request<pb::LookupProfilesByEmailRequest>,
    ) -> Result<Response<wire::LookupProfilesByEmailResponse>, Status> {
        let page = self.lookup_by_email(request.into_inner()).await?;
        let bytes = page.bytes();
        let answer =
            wire::LookupProfilesByEmailResponse { profiles: page.profiles, next_page_token: page.next_page_token };
        Ok(sized(answer, bytes))
    }

    async fn query_profiles_by_domain(
        &self,
        request: Request<pb::QueryProfilesByDomainRequest>,
    ) -> Result<Response<wire::QueryProfilesByDomainResponse>, Status> {
        let page = self.query_by_domain(request.into_inner()).await?;
        let bytes = page.bytes();
        let answer =
            wire::QueryProfilesByDomainResponse { profiles: page.profiles, next_page_token: page.next_page_token };
        Ok(sized(answer, bytes))
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
        let answer = self.list_domains(request.into_inner()).await?;
        let bytes = answer.domains.iter().map(|each| each.domain.len() + 16).sum();
        Ok(sized(answer, bytes))
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
        let answer = self.batch_write(request.into_inner()).await?;
        let bytes = answer.encoded_len();
        Ok(sized(answer, bytes))
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
        let chunks: Self::ExportProfilesStream = Box::pin(export(self.store.clone(), request.into_inner())?);
        // One chunk waits for its reader.
        Ok(sized(chunks, CHUNK.max_bytes))
    }

    async fn watch_profiles(
        &self,
        request: Request<pb::WatchProfilesRequest>,
    ) -> Result<Response<Self::WatchProfilesStream>, Status> {
        Ok(Response::new(Box::pin(watch(self.feed.clone(), request.into_inner()).await?)))
    }
}
