//! ProfileService: which call is answered where.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::codec::EncodedProfile;
use super::wire::profile_service_server::ProfileService;
use super::wire::{
    BatchGetProfilesResponse, ListProfilesResponse, LookupProfilesByEmailResponse, QueryProfilesByDomainResponse,
};
use super::{reads, writes};
use crate::model::Canonicalization;
use crate::pb;
use crate::store::Store;

/// The service over a store.
pub struct ProfileApi<S> {
    store: Arc<S>,
    settings: Canonicalization,
}

impl<S> ProfileApi<S> {
    /// The settings decide what the canonical form of an address is; they must be the store's.
    pub fn new(store: Arc<S>, settings: Canonicalization) -> Self {
        Self { store, settings }
    }
}

#[tonic::async_trait]
impl<S: Store> ProfileService for ProfileApi<S> {
    async fn get_profile(&self, request: Request<pb::GetProfileRequest>) -> Result<Response<EncodedProfile>, Status> {
        reads::get(&*self.store, request.into_inner()).await.map(Response::new)
    }

    async fn list_profiles(
        &self,
        request: Request<pb::ListProfilesRequest>,
    ) -> Result<Response<ListProfilesResponse>, Status> {
        reads::list(&*self.store, request.into_inner()).await.map(Response::new)
    }

    async fn batch_get_profiles(
        &self,
        request: Request<pb::BatchGetProfilesRequest>,
    ) -> Result<Response<BatchGetProfilesResponse>, Status> {
        reads::batch_get(&*self.store, request.into_inner()).await.map(Response::new)
    }

    async fn lookup_profiles_by_email(
        &self,
        request: Request<pb::LookupProfilesByEmailRequest>,
    ) -> Result<Response<LookupProfilesByEmailResponse>, Status> {
        reads::lookup(&*self.store, self.settings, request.into_inner()).await.map(Response::new)
    }

    async fn query_profiles_by_domain(
        &self,
        request: Request<pb::QueryProfilesByDomainRequest>,
    ) -> Result<Response<QueryProfilesByDomainResponse>, Status> {
        reads::query(&*self.store, request.into_inner()).await.map(Response::new)
    }

    async fn count_profiles(
        &self,
        request: Request<pb::CountProfilesRequest>,
    ) -> Result<Response<pb::CountProfilesResponse>, Status> {
        reads::count(&*self.store, request.into_inner()).await.map(Response::new)
    }

    async fn list_domains(
        &self,
        request: Request<pb::ListDomainsRequest>,
    ) -> Result<Response<pb::ListDomainsResponse>, Status> {
        reads::list_domains(&*self.store, request.into_inner()).await.map(Response::new)
    }

    async fn create_profile(
        &self,
        request: Request<pb::CreateProfileRequest>,
    ) -> Result<Response<EncodedProfile>, Status> {
        writes::create(&*self.store, self.settings, request.into_inner()).await.map(Response::new)
    }

    async fn update_profile(
        &self,
        request: Request<pb::UpdateProfileRequest>,
    ) -> Result<Response<EncodedProfile>, Status> {
        writes::update(&*self.store, self.settings, request.into_inner()).await.map(Response::new)
    }

    async fn delete_profile(&self, request: Request<pb::DeleteProfileRequest>) -> Result<Response<()>, Status> {
        writes::delete(&*self.store, request.into_inner()).await.map(Response::new)
    }
}
