//! The gRPC services over any store: protobuf in and out, and nothing that a store should decide.
//!
//! [`profile_service`] answers callers (`reads`, `writes`, `import`, `export`, `watch` with its `watch_responses`, with `request`, `checked_write`
//! and `page_token` for what they share), [`admin_service`] operators. [`error`] is the one place where a failure becomes a status.
//! [`deadline`] ends every call at its caller's deadline; `fast_lane` answers hot reads past all of that, and `call_lane` makes
//! single writes and queries past tonic's router (with `first_piece`, `lane_request` and `lane_body` for what they share).
//! `observed` and `call_notes` tell an observer what became of each call. [`in_flight`] bounds the bytes of all requests,
//! `held_answers` those of all answers (with `answer_room` for who has room and who waits for it), `share` what one connection may have of both. [`services`] puts all of it together, with health
//! and reflection beside it; how it is served is the server's business.

pub mod admin_service;
mod answer_room;
pub mod at_once;
mod backup;
mod call_lane;
mod call_notes;
mod checked_write;
pub mod codec;
pub mod deadline;
pub mod error;
mod export;
mod fast_lane;
mod first_piece;
mod held_answers;
mod import;
pub mod in_flight;
mod lane_body;
// Open to the fuzz targets only (tests/fuzz).
#[doc(hidden)]
pub mod lane_request;
mod message_ends;
mod observed;
// Open to the fuzz targets only (tests/fuzz).
#[doc(hidden)]
pub mod page_token;
pub mod profile_service;
mod reads;
mod request;
mod share;
mod verify;
mod watch;
mod watch_responses;
mod writes;

/// Generated code: the server side of the services, in which a profile that leaves is already encoded.
#[allow(missing_docs, clippy::all, rustdoc::all)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/wire/profilestore.v1.rs"));
}

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::Layer;

use self::admin_service::AdminHandler;
pub use self::answer_room::ANSWER_BYTES_HELD;
use self::answer_room::HeldAnswers;
use self::call_lane::{CallLane, HandlerCalls, LaneCalls};
use self::call_notes::Noted;
use self::deadline::{Deadline, DeadlineLayer};
use self::fast_lane::FastLane;
use self::held_answers::Holding;
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
use crate::observe::hot_keys::HotKeys;
use crate::observe::{Calls, Observer};
use crate::store::Store;

/// The names under which health is reported: the server as a whole, and each service.
const HEALTH_NAMES: [&str; 3] = ["", profile_service_server::SERVICE_NAME, admin_service_server::SERVICE_NAME];

/// All services with what stands around them, from the connection inwards: who is told, what is held, the lane of the
/// hot reads, the notes, the bounds on requests, the deadlines, the lane of single calls.
pub type Stack = Observed<Holding<FastLane<Noted<Charged<Deadline<CallLane<Routes>>>>>>>;

/// All services, ready to be served.
#[derive(Clone)]
pub struct Services {
    routes: Routes,
    calls: Arc<dyn LaneCalls>,
    health: HealthReporter,
    cache: Option<Arc<HotCache>>,
    in_flight: Arc<InFlight>,
    hot_keys: Arc<HotKeys>,
    observer: Arc<Observer>,
    held: Arc<HeldAnswers>,
    /// Those of the observer, for GetStatus.
    observed_calls: Arc<OnceLock<Arc<Calls>>>,
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
    let hot_keys = Arc::new(HotKeys::new(std::thread::available_parallelism().map_or(1, usize::from)));
    let handler = Arc::new(ProfileHandler::new(store.clone(), feed.clone(), settings, hot_keys.clone()));
    let calls = Arc::new(HandlerCalls::new(handler.clone(), cache.clone()));
    let profiles = ProfileServiceServer::from_arc(handler)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let observed_calls = Arc::new(OnceLock::new());
    let admin = AdminServiceServer::new(AdminHandler::new(
        store,
        feed,
        cache.clone(),
        hot_keys.clone(),
        observed_calls.clone(),
    ))
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
    let held = HeldAnswers::new(ANSWER_BYTES_HELD);
    let observer = Arc::default();
    let services =
        Services { routes, calls, health, cache, in_flight, hot_keys, held, observer, observed_calls, watches_end };
    services.set_health(ServingStatus::Serving).await;
    Ok(services)
}

impl Services {
    /// The same services with another bound on the bytes of all requests in flight.
    pub fn with_request_bytes_in_flight(self, limit: usize) -> Self {
        Self { in_flight: InFlight::new(limit), ..self }
    }

    /// The same services with another bound on the bytes of all answers that are held.
    pub fn with_answer_bytes_held(self, limit: usize) -> Self {
        Self { held: HeldAnswers::new(limit), ..self }
    }

    /// The same services, with an observer who is told about their calls.
    pub fn with_observer(self, observer: Arc<Observer>) -> Self {
        if let Some(calls) = observer.calls() {
            // Only the first observer's calls are told; a server has one.
            let _ = self.observed_calls.set(calls.clone());
        }
        Self { observer, ..self }
    }

    /// The services with their deadlines and bounds, both lanes and their observer, as one service to serve.
    pub fn stack(&self) -> Stack {
        let lane = CallLane::new(self.routes.clone(), self.calls.clone());
        let charged = Charged::new(DeadlineLayer.layer(lane), self.in_flight.clone());
        let noted = Noted::new(charged, self.observer.clone());
        let holding =
            Holding::new(FastLane::new(noted, self.cache.clone(), self.hot_keys.clone()), self.held.clone());
        Observed::new(holding, self.observer.clone())
    }

    /// The same without the lanes, and unobserved.
    pub fn generated(&self) -> Charged<Deadline<Routes>> {
        Charged::new(DeadlineLayer.layer(self.routes.clone()), self.in_flight.clone())
    }

    /// What is read most.
    pub fn hot_keys(&self) -> &Arc<HotKeys> {
        &self.hot_keys
    }

    /// The bytes of the requests that are in flight now.
    pub fn request_bytes_in_flight(&self) -> usize {
        self.in_flight.bytes()
    }

    /// The bytes of the answers that are held now.
    pub fn answer_bytes_held(&self) -> usize {
        self.held.bytes()
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
