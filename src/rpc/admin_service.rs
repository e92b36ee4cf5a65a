//! `profilestore.v1.AdminService`: what operators ask.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::backup::backup;
use super::error::RpcError;
use super::request::to_int64;
use super::verify::verify;
use super::watch::token_of;
use super::wire::admin_service_server::AdminService;
use crate::cache::{CacheFigures, HotCache};
use crate::feed::{Feed, Window};
use crate::figures::LATENCY_BOUNDS;
use crate::model::{CommitTime, Violations};
use crate::observe::hot_keys::{HotKey, HotKeys, Hottest};
use crate::observe::{Calls, Code, MethodFigures};
use crate::pb;
use crate::store::{Hold, Store, StoreError, StoreStatus};

/// How many hot keys of a kind are returned when the caller leaves it to the server, and at most.
const DEFAULT_HOT_KEYS: usize = 20;
const MAX_HOT_KEYS: usize = 100;

/// How long GetStatus waits for the disk.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers the calls of `AdminService`.
pub struct AdminHandler<S> {
    store: Arc<S>,
    feed: Arc<Feed<S>>,
    /// The cache in front of the store, for its figures.
    cache: Option<Arc<HotCache>>,
    hot_keys: Arc<HotKeys>,
    /// Set when calls are counted.
    calls: Arc<OnceLock<Arc<Calls>>>,
    started: Instant,
}

impl<S: Store> AdminHandler<S> {
    /// A handler over a store; the server's uptime counts from here.
    pub fn new(
        store: Arc<S>,
        feed: Arc<Feed<S>>,
        cache: Option<Arc<HotCache>>,
        hot_keys: Arc<HotKeys>,
        calls: Arc<OnceLock<Arc<Calls>>>,
    ) -> Self {
        Self { store, feed, cache, hot_keys, calls, started: Instant::now() }
    }

    /// All that is in memory, and what the disk tells in time: operators ask when something is wrong.
    async fn status(&self) -> pb::GetStatusResponse {
        let StoreStatus { engine, totals, .. } = self.store.status();
        let calls = self.calls.get().map(|calls| calls.figures());
        let (disk_bytes, window) = tokio::join!(in_time(self.store.disk_bytes()), in_time(self.feed.window()));
        pb::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: engine.to_owned(),
            uptime: prost_types::Duration::try_from(self.started.elapsed()).ok(),
            profile_count: to_int64(totals.profiles),
            domain_count: to_int64(totals.domains),
            live_bytes: to_int64(totals.profile_bytes),
            disk_bytes: disk_bytes.map(to_int64),
            cache: self.cache.as_ref().map(|cache| cache_status(&cache.figures())),
            feed: Some(feed_status(&self.feed, window.as_ref())),
            methods: calls
                .iter()
                .flat_map(|calls| &calls.methods)
                .filter(|of| of.begun > 0)
                .map(method_status)
                .collect(),
            latency_bounds: calls.iter().flat_map(|_| LATENCY_BOUNDS).map(latency_bound).collect(),
        }
    }
}

/// What a question to the disk gives, if it has an answer soon.
async fn in_time<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()
}

/// How many hot keys of a kind are wanted.
fn hot_key_limit(limit: i32) -> Result<usize, Violations> {
    match usize::try_from(limit) {
        Ok(0) => Ok(DEFAULT_HOT_KEYS),
        Ok(limit) => Ok(limit.min(MAX_HOT_KEYS)),
        Err(_) => {
            let description = format!("must not be negative; 1 to {MAX_HOT_KEYS} are of use");
            Err(Violations::one("limit", description))
        }
    }
}

fn hot_keys_response(Hottest { ids, domains, window }: Hottest) -> pb::GetHotKeysResponse {
    let key = |HotKey { key, reads, error }: HotKey| pb::HotKey {
        key,
        read_count: to_int64(reads),
        error_bound: to_int64(error),
    };
    pb::GetHotKeysResponse {
        ids: ids.into_iter().map(key).collect(),
        domains: domains.into_iter().map(key).collect(),
        window: prost_types::Duration::try_from(window).ok(),
    }
}

fn method_status(figures: &MethodFigures) -> pb::MethodStatus {
    let ended = |wanted: fn(Code) -> bool| {
        let counts = Code::all().zip(&figures.by_code).filter(|(code, _)| wanted(*code));
        to_int64(counts.map(|(_, count)| count).sum())
    };
    pb::MethodStatus {
        method: format!("{}/{}", figures.method.service(), figures.method.name()),
        streaming: figures.method.kind() != "unary",
        started_count: to_int64(figures.begun),
        error_count: ended(|code| code != Code::OK),
        server_error_count: ended(Code::is_server_error),
        latency_counts: figures.latency.counts.iter().copied().map(to_int64).collect(),
    }
}

fn latency_bound(nanos: u64) -> prost_types::Duration {
    // No bound is longer than what a Duration of the API holds.
    prost_types::Duration::try_from(Duration::from_nanos(nanos)).unwrap_or_default()
}

fn feed_status<S: Store>(feed: &Feed<S>, window: Option<&Window>) -> pb::FeedStatus {
    pb::FeedStatus {
        oldest_token: window.map(|window| token_of(window.oldest)).unwrap_or_default(),
        newest_token: token_of(window.map_or_else(|| feed.newest(), |window| window.newest)),
        oldest_time: window.and_then(|window| window.oldest_time).map(CommitTime::to_timestamp),
        watcher_count: to_int64(feed.watchers() as u64),
        holds: window.iter().flat_map(|window| &window.holds).map(feed_hold).collect(),
    }
}

fn feed_hold(hold: &Hold) -> pb::FeedHold {
    pb::FeedHold {
        name: hold.name.to_string(),
        token: token_of(hold.position),
        lag_count: to_int64(hold.lag),
        lost_count: to_int64(hold.lost),
    }
}

fn cache_status(figures: &CacheFigures) -> pb::CacheStatus {
    pb::CacheStatus {
        hit_count: to_int64(figures.hits),
        miss_count: to_int64(figures.misses),
        negative_hit_count: to_int64(figures.negative_hits),
        eviction_count: to_int64(figures.evictions),
        entry_count: to_int64(figures.entries),
        size_bytes: to_int64(figures.bytes),
        capacity_bytes: to_int64(figures.capacity_bytes),
    }
}

#[tonic::async_trait]
impl<S: Store> AdminService for AdminHandler<S> {
    type BackupStream = BoxStream<pb::BackupResponse>;
    type VerifyStream = BoxStream<pb::VerifyResponse>;

    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::GetStatusResponse>, Status> {
        Ok(Response::new(self.status().await))
    }

    async fn get_hot_keys(
        &self,
        request: Request<pb::GetHotKeysRequest>,
    ) -> Result<Response<pb::GetHotKeysResponse>, Status> {
        let limit = hot_key_limit(request.get_ref().limit).map_err(RpcError::from)?;
        Ok(Response::new(hot_keys_response(self.hot_keys.hottest(limit))))
    }

    async fn backup(&self, _: Request<pb::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        Ok(Response::new(Box::pin(backup(self.store.clone()))))
    }

    async fn verify(&self, _: Request<pb::VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        Ok(Response::new(Box::pin(verify(self.store.clone()))))
    }
}
