//! The status page at `/` of the admin listener, and the JSON that it asks for once a second.
//!
//! A task reads the server's counters every second and keeps the last five minutes ([`history`]), so a page has its
//! plots when it is opened, and who looks at it costs the server no more than some kilobytes of JSON: what takes time to
//! put together is made at most once a second, however many look.
//!
//! Invariants: all is bounded: the points, the rows of each table, an answer (some 40 KB). The page loads nothing but
//! itself, and its policy forbids the browser to. Nothing on it is personal data ([`document`]).

mod document;
mod figures;
mod history;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, Uri, header};
use axum::response::IntoResponse;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::document::{Document, Head, Hot, Ids, ServerState, Slow, Totals};
use self::figures::Reading;
use self::history::History;
use crate::cache::HotCache;
use crate::feed::Feed;
use crate::figures::Distribution;
use crate::observe::Calls;
use crate::observe::hot_keys::HotKeys;
use crate::observe::slowest_calls::SlowestCalls;
use crate::store::{Store, StoreState};

const EVERY: Duration = Duration::from_secs(1);
/// What takes reading files is read after so many seconds.
const SIZES_EVERY: u64 = 10;
/// The rows of the tables.
const HOT_KEYS: usize = 10;
const SLOW_CALLS: usize = 10;

/// Where the figures come from.
pub struct Sources<S> {
    /// The store.
    pub store: Arc<S>,
    /// What the store's committer counts: the writes in each group, and how long the groups took to be
    /// written to the log and synced, in nanoseconds.
    pub commits: Box<dyn Fn() -> (Distribution, Distribution) + Send + Sync>,
    /// The cache in front of it.
    pub cache: Arc<HotCache>,
    /// Its changes.
    pub feed: Arc<Feed<S>>,
    /// `None` when calls are not counted.
    pub calls: Option<Arc<Calls>>,
    /// What is read most.
    pub hot_keys: Arc<HotKeys>,
    /// What was slow.
    pub slow: Arc<SlowestCalls>,
    /// Cancelled when no more calls are wanted.
    pub draining: CancellationToken,
    /// Show ids as they are.
    pub whole_ids: bool,
}

/// The page with what it shows.
struct StatusPage<S> {
    sources: Sources<S>,
    ids: Ids,
    started: Instant,
    history: Mutex<History>,
    /// What takes reading files.
    sizes: Mutex<Sizes>,
    /// All but the points, with the number of the next point when it was made.
    head: Mutex<Option<(u64, Arc<Head>)>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    disk_bytes: Option<u64>,
    watchers: u64,
}

/// The page and its JSON. Until `end` is cancelled the figures are read every second.
///
/// # Panics
///
/// Outside of a tokio runtime, on which they are read.
pub fn routes<S: Store>(sources: Sources<S>, end: CancellationToken) -> Router {
    let page = Arc::new(StatusPage {
        ids: Ids::new(sources.whole_ids),
        sources,
        started: Instant::now(),
        history: Mutex::new(History::new()),
        sizes: Mutex::default(),
        head: Mutex::default(),
    });
    tokio::spawn(end.run_until_cancelled_owned(read_on(page.clone())));
    Router::new().route("/", get(html)).route("/status.json", get(json::<S>)).with_state(page)
}

impl<S: Store> StatusPage<S> {
    /// Reads the counters.
    fn reading(&self) -> Reading {
        let Sources { store, commits, cache, calls, .. } = &self.sources;
        let (groups, syncs) = commits();
        Reading {
            at: Instant::now(),
            calls: calls.as_ref().map(|calls| calls.figures()),
            cache: cache.figures(),
            groups,
            syncs,
            queue: store.status().queued_commits,
        }
    }

    /// Reads what takes reading files. Those who look at a server whose disk does not answer want the rest.
    async fn read_sizes(&self) {
        let read = async { (self.sources.store.disk_bytes().await, self.sources.feed.window().await) };
        let Ok((disk_bytes, window)) = tokio::time::timeout(EVERY, read).await else { return };
        *self.sizes.lock() =
            Sizes { disk_bytes: disk_bytes.ok(), watchers: window.map_or(0, |window| window.watchers as u64) };
    }

    /// All but the points as of the last reading.
    fn head(&self) -> Arc<Head> {
        let mut made = self.head.lock();
        let history = self.history.lock();
        let next = history.next();
        if let Some((number, head)) = &*made
            && *number == next
        {
            return head.clone();
        }
        let (now, methods) = history.now();
        drop(history);
        let Sources { store, cache, calls, hot_keys, slow, draining, .. } = &self.sources;
        let status = store.status();
        let state = match status.state {
            StoreState::Failed { .. } => "failed",
            _ if draining.is_cancelled() => "draining",
            StoreState::Closed => "closed",
            StoreState::Open => "serving",
        };
        let cached = cache.figures();
        let sizes = *self.sizes.lock();
        let at = Instant::now();
        let head = Arc::new(Head {
            server: ServerState {
                version: env!("CARGO_PKG_VERSION"),
                engine: status.engine,
                state,
                uptime_seconds: self.started.elapsed().as_secs(),
            },
            now,
            totals: Totals {
                profiles: status.totals.profiles,
                domains: status.totals.domains,
                live_bytes: status.totals.profile_bytes,
                disk_bytes: sizes.disk_bytes,
                cache_entries: cached.entries,
                cache_bytes: cached.bytes,
                cache_capacity_bytes: cached.capacity_bytes,
                cache_evictions: cached.evictions,
                watchers: sizes.watchers,
            },
            counts_calls: calls.is_some(),
            methods,
            hot: Hot::new(hot_keys.hottest(HOT_KEYS), &self.ids),
            slow: slow.slowest(at, SLOW_CALLS).iter().map(|call| Slow::new(call, at)).collect(),
        });
        *made = Some((next, head.clone()));
        head
    }
}

async fn read_on<S: Store>(page: Arc<StatusPage<S>>) {
    let mut ticks = tokio::time::interval(EVERY);
    // Rates are about the time that has really passed, so a late reading needs no others to make up for it.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_u64.. {
        ticks.tick().await;
        if number.is_multiple_of(SIZES_EVERY) {
            page.read_sizes().await;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let reading = page.reading();
        page.sources.slow.tick(reading.at);
        page.history.lock().add(time.as_millis() as u64, reading);
    }
}

/// For everything that is served here. Nobody keeps it, and no other site may show or read it.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

async fn html() -> impl IntoResponse {
    // Only what carries this number is applied and run.
    let nonce = STANDARD.encode(rand::random::<[u8; 16]>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let page = include_str!("page.html")
        .replace("{nonce}", &nonce)
        .replace("{style}", include_str!("page.css"))
        .replace("{script}", include_str!("page.js"));
    let own =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (header::CONTENT_SECURITY_POLICY, policy)];
    (HEADERS, own, page)
}

async fn json<S: Store>(State(page): State<Arc<StatusPage<S>>>, uri: Uri) -> impl IntoResponse {
    let head = page.head();
    let (first, points) = page.history.lock().points_from(after(&uri));
    // Only maps with keys that are not strings cannot be written, and there are none.
    let body = serde_json::to_vec(&Document { head: &head, first, points }).unwrap_or_default();
    (HEADERS, [(header::CONTENT_TYPE, "application/json")], body)
}

/// The number of the first point that is wanted, in `?after=N`; 0, which is none, when it is not a number.
fn after(uri: &Uri) -> u64 {
    let number = uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("after=")));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
