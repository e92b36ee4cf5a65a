//! The gRPC services over any store: protobuf in and out, and nothing that a store should decide.
//!
//! [`profile_service`] answers callers (`reads`, `writes`, `import`, `export`, `watch`, with `request`, `checked_write`
//! and `page_token` for what they share), [`admin_service`] operators. [`error`] is the one place where a failure becomes a status.
//! [`deadline`] ends every call at its caller's deadline; `fast_lane` (with `lane_request` and `lane_body`) answers
//! hot reads past all of that; `observed` and `call_notes` tell an observer what became of each call. [`in_flight`] bounds
//! the bytes of all requests, [`answers`] those of all large answers. [`services`] puts all of it together, with health
//! and reflection beside it; how it is served is the server's business.

pub mod admin_service;
pub mod answers;
mod backup;
mod call_notes;
mod checked_write;
pub mod codec;
pub mod deadline;
pub mod error;
mod export;
mod fast_lane;
mod import;
pub mod in_flight;
mod lane_body;
mod lane_request;
mod message_ends;
mod observed;
mod page_token;
pub mod profile_service;
mod reads;
mod request;
mod verify;
mod watch;
mod writes;

/// Generated code: the server side of the services, in which a profile that leaves is already encoded.
#[allow(missing_docs, clippy::all, rustdoc::all)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/wire/profilestore.v1.rs"));
}

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::Layer;

use self::admin_service::AdminHandler;
pub use self::answers::ANSWER_BYTES_IN_FLIGHT;
use self::answers::{Answered, Answers};
use self::call_notes::Noted;
use self::deadline::{Deadline, DeadlineLayer};
use self::fast_lane::FastLane;
pub use self::in_flight::REQUEST_BYTES_IN_FLIGHT;
use self::in_flight::{Charged, InFlight};
use self::observed::Observed;
use self::profile_service::ProfileHandler;
use self::wire::admin_service_server::{self, AdminServiceServer};
use self::wire::profile_service_server::{self, ProfileServiceServer};
use crate::cache::HotCache;
use crate::feed::{Feed, MAX_WATCHERS};
use crate::model::Canonicalization;
use crate::model::limits::MAX_REQUEST_BYTES;
use crate::observe::Observer;
use crate::store::Store;

/// The names under which health is reported: the server as a whole, and each service.
const HEALTH_NAMES: [&str; 3] = ["", profile_service_server::SERVICE_NAME, admin_service_server::SERVICE_NAME];

/// All services, ready to be served.
#[derive(Clone)]
pub struct Services {
    routes: Routes,
    health: HealthReporter,
    cache: Option<Arc<HotCache>>,
    in_flight: Arc<InFlight>,
    answers: Arc<Answers>,
    observer: Arc<Observer>,
    /// Ends the watches.
    watches_end: CancellationToken,
}

/// The services over a store whose index was built with `settings`; `cache` is the one in front of it, for its
/// figures and for the fast lane.
pub async fn services<S: Store>(
    store: Arc<S>,
    cache: Option<Arc<HotCache>>,
    settings: Canonicalization,
) -> Result<Services, tonic_reflection::server::Error> {
    let feed = Arc::new(Feed::start(store.clone(), MAX_WATCHERS));
    services_with_feed(store, feed, cache, settings).await
}

/// The same with a feed of the store's changes that was made before.
pub async fn services_with_feed<S: Store>(
    store: Arc<S>,
    feed: Arc<Feed<S>>,
    cache: Option<Arc<HotCache>>,
    settings: Canonicalization,
) -> Result<Services, tonic_reflection::server::Error> {
    let watches_end = feed.closing().clone();
    let profiles = ProfileServiceServer::new(ProfileHandler::new(store.clone(), feed.clone(), settings))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let admin = AdminServiceServer::new(AdminHandler::new(store, feed, cache.clone()))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let health = HealthReporter::new();
    let routes = Routes::new(profiles)
        .add_service(admin)
        .add_service(HealthServer::new(HealthService::from_health_reporter(health.clone())))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    let in_flight = InFlight::new(REQUEST_BYTES_IN_FLIGHT);
    let (answers, observer) = (Answers::new(ANSWER_BYTES_IN_FLIGHT), Arc::default());
    let services = Services { routes, health, cache, in_flight, answers, observer, watches_end };
    services.set_health(ServingStatus::Serving).await;
    Ok(services)
}

impl Services {
    /// The same services with another bound on the bytes of all requests in flight.
    pub fn with_request_bytes_in_flight(self, limit: usize) -> Self {
        Self { in_flight: InFlight::new(limit), ..self }
    }

    /// The same services with another bound on the bytes of all large answers in flight.
    pub fn with_answer_bytes_in_flight(self, limit: usize) -> Self {
        Self { answers: Answers::new(limit), ..self }
    }

    /// The same services, with an observer who is told about their calls.
    pub fn with_observer(self, observer: Arc<Observer>) -> Self {
        Self { observer, ..self }
    }

    /// The services with their deadlines and bounds, the fast lane and their observer, as one service to serve.
    pub fn stack(&self) -> Observed<FastLane<Noted<Charged<Deadline<Answered<Routes>>>>>> {
        let noted = Noted::new(self.generated(), self.observer.clone());
        Observed::new(FastLane::new(noted, self.cache.clone(), self.answers.clone()), self.observer.clone())
    }

    /// The same without the fast lane, and unobserved.
    pub fn generated(&self) -> Charged<Deadline<Answered<Routes>>> {
        let answered = Answered::new(self.routes.clone(), self.answers.clone());
        Charged::new(DeadlineLayer.layer(answered), self.in_flight.clone())
    }

    /// The bytes of the requests that are in flight now.
    pub fn request_bytes_in_flight(&self) -> usize {
        self.in_flight.bytes()
    }

    /// The bytes of the large answers that are on their way now.
    pub fn answer_bytes_in_flight(&self) -> usize {
        self.answers.bytes()
    }

    /// Reports to health checks that no more calls are wanted here.
    pub async fn set_not_serving(&self) {
        self.set_health(ServingStatus::NotServing).await;
    }

    /// Ends the streams that watch the health, which would otherwise keep a draining server waiting. They see
    /// the last status first.
    pub async fn end_health_watches(&self) {
        let mut health = self.health.clone();
        for name in HEALTH_NAMES {
            health.clear_service_status(name).await;
        }
    }

    /// Ends the watches: each sends what its watcher has not seen, then fails with `DRAINING`.
    pub fn end_watches(&self) {
        self.watches_end.cancel();
    }

    async fn set_health(&self, status: ServingStatus) {
        for name in HEALTH_NAMES {
            self.health.set_service_status(name, status).await;
        }
    }
}

/// Reflection shows our services, health, and the `google.rpc` messages in the details of errors.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
