//! gRPC: protobuf in and out, over any store.
//!
//! A call is checked as a whole, turned into the model's values, given to the store, and its result is turned
//! back. [`error`] is the one place where a failure becomes a status. Profiles leave as the bytes that are
//! stored ([`codec`]); only a read mask makes the server decode one.

pub mod codec;
pub mod deadline;
pub mod error;
mod page_token;
mod profile_service;
mod reads;
mod request;
mod writes;

mod wire {
    //! The generated server side, in which a profile that leaves is already encoded (see `build.rs`).
    #![allow(missing_docs, clippy::all, rustdoc::all)]
    include!(concat!(env!("OUT_DIR"), "/wire/profilestore.v1.rs"));
}

use std::sync::Arc;

use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Layer;

use self::deadline::{Deadline, DeadlineLayer};
use self::profile_service::ProfileApi;
use self::wire::admin_service_server::{AdminService, AdminServiceServer, SERVICE_NAME as ADMIN_SERVICE};
use self::wire::profile_service_server::{ProfileServiceServer, SERVICE_NAME as PROFILE_SERVICE};
use crate::model::{Canonicalization, limits};
use crate::store::Store;

/// All services and the switch of their health.
pub struct Services {
    routes: Routes,
    health: HealthReporter,
}

/// The admin service, all of whose calls are still to come.
struct AdminApi;

impl AdminService for AdminApi {}

/// The services over a store: profiles, admin, health, reflection.
pub async fn services<S: Store>(
    store: Arc<S>,
    settings: Canonicalization,
) -> Result<Services, tonic_reflection::server::Error> {
    let profiles = ProfileServiceServer::new(ProfileApi::new(store, settings))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(limits::MAX_REQUEST_BYTES)
        .max_encoding_message_size(usize::MAX);
    let admin = AdminServiceServer::new(AdminApi)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(limits::MAX_REQUEST_BYTES);
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in ["", PROFILE_SERVICE, ADMIN_SERVICE] {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let reflection = || {
        // The details of errors too, so that grpcurl can show them.
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(crate::pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(profiles)
        .add_service(admin)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok(Services { routes, health })
}

impl Services {
    /// The services behind what every call passes.
    pub fn stack(&self) -> Deadline<Routes> {
        DeadlineLayer.layer(self.routes.clone())
    }

    /// Tells whoever asks that this server is going away.
    pub async fn set_not_serving(&self) {
        for service in ["", PROFILE_SERVICE, ADMIN_SERVICE] {
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
}
