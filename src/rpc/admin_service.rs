//! `profilestore.v1.AdminService`: in the contract, and not served by this version yet.

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::error::RpcError;
use super::wire::admin_service_server::AdminService;
use crate::pb;

/// Answers the calls of `AdminService`.
pub struct AdminHandler;

#[tonic::async_trait]
impl AdminService for AdminHandler {
    type BackupStream = BoxStream<pb::BackupResponse>;
    type VerifyStream = BoxStream<pb::VerifyResponse>;

    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::GetStatusResponse>, Status> {
        Err(RpcError::NotImplemented("GetStatus").into())
    }

    async fn get_hot_keys(
        &self,
        _: Request<pb::GetHotKeysRequest>,
    ) -> Result<Response<pb::GetHotKeysResponse>, Status> {
        Err(RpcError::NotImplemented("GetHotKeys").into())
    }

    async fn backup(&self, _: Request<pb::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        Err(RpcError::NotImplemented("Backup").into())
    }

    async fn verify(&self, _: Request<pb::VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        Err(RpcError::NotImplemented("Verify").into())
    }
}
