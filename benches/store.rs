//! The store by itself: hit, miss, page, durable put; small against large.
//!
//! `cargo bench --bench store`; with `-- --puts` only the puts by size. One run measures a small and a large store in turn, and
//! prints the ratios between them: the cost of a get, a page and a put should not grow with the number of profiles. A harness of
//! our own, because the ratio between two stores, in alternating rounds, is the point.
//!
//! `PROFILESTORE_BENCH_LARGE` sets the size of the large store (default 1,000,000), and
//! `PROFILESTORE_BENCH_SLED_CACHE_MIB` the size of sled's page cache.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use profilestore::cache::{CacheOptions, CachedStore, HotCache};
use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::model::{Canonicalization, Domain, Draft, Precondition, Profile, ProfileId, Write};
use profilestore::server::sample::{self, Sampler};
use profilestore::store::{Commit, NoObserver, PageBounds, Scope, Store};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SMALL: u64 = 10_000;
const LARGE: u64 = 1_000_000;
const SEED: u64 = 7;
/// Rounds alternate between the stores; the median of them counts.
const ROUNDS: usize = 9;
/// The same for both sizes, so that only the size of the store differs.
const HOT_IDS: u64 = 1_000;
const HOT_GETS: usize = 200_000;
/// Gets that the cache cannot answer, of ids spread over the whole store or over a fixed set.
const COLD_GETS: usize = 20_000;
const PAGES: usize = 300;
const PAGE_RECORDS: usize = 100;
/// The same for both sizes; the largest domain of the small store has more.
const HOT_PAGES: usize = 10;
const PUT_TIME: Duration = Duration::from_secs(2);
const PUT_GROUPS: [usize; 6] = [1, 4, 16, 64, 128, 256];
const PUT_GROUPS_BY_SIZE: [usize; 3] = [1, 16, 256];
/// Spread over the whole store; more than the committer remembers of what it wrote last.
const PUT_PROFILES: u64 = 100_000;

const PUTS_BESIDE_SNAPSHOTS: usize = 64;
const SNAPSHOT_ROUNDS: usize = 5;

type Cached = CachedStore<SledStore>;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let large = std::env::var("PROFILESTORE_BENCH_LARGE").ok().and_then(|n| n.parse().ok()).unwrap_or(LARGE);
    let dir = tempfile::Builder::new().prefix("bench-store").tempdir_in(bench_dir()).expect("a directory");
    runtime.block_on(async {
        println!("seed {SEED}, {ROUNDS} alternating rounds, medians; small = {SMALL} profiles, large = {large}");
        let small_store = open(&dir.path().join("small"), SMALL).await;
        let large_store = open(&dir.path().join("large"), large).await;
        if !std::env::args().any(|argument| argument == "--puts") {
            reads(&small_store, &large_store, large).await;
        }
        puts_by_size(&small_store, &large_store, large).await;
        println!(
            "memory of this process with both stores: {} MiB (resident now), {} MiB (peak)",
            status_mib("VmRSS"),
            status_mib("VmHWM")
        );
        small_store.close().await.expect("closes");
        large_store.close().await.expect("closes");
        drop((small_store, large_store));
        if !std::env::args().any(|argument| argument == "--puts") {
            puts(&dir.path().join("puts")).await;
        }
    });
}

/// The defaults, but for what `PROFILESTORE_BENCH_SLED_CACHE_MIB` says.
fn sled_options(path: &Path) -> SledOptions {
    let defaults = SledOptions::new(path);
    let mib = std::env::var("PROFILESTORE_BENCH_SLED_CACHE_MIB").ok().and_then(|mib| mib.parse::<u64>().ok());
    SledOptions { sled_cache_bytes: mib.map_or(defaults.sled_cache_bytes, |mib| mib << 20), ..defaults }
}

/// Beside the build, which is on a real disk; a temporary directory may be in memory.
fn bench_dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

async fn open(path: &Path, profiles: u64) -> Arc<Cached> {
    let cache = Arc::new(HotCache::new(CacheOptions::default()));
    let sled = SledStore::open(sled_options(path), cache.clone()).await.expect("opens");
    let store = Arc::new(CachedStore::new(sled, cache));
    let started = Instant::now();
    sample::load(&store, Canonicalization::default(), profiles).await.expect("loads");
    println!(
        "loaded {profiles} profiles at {:.0} profiles/s, durable",
        profiles as f64 / started.elapsed().as_secs_f64()
    );
    store
}

async fn reads(small: &Arc<Cached>, large: &Arc<Cached>, large_count: u64) {
    println!("\n{:<44} {:>10} {:>10} {:>12}", "read", "small", "large", "large/small");
    let hot = async |store: Arc<Cached>| gets(&*store, HOT_GETS, HOT_IDS).await;
    hot(small.clone()).await;
    hot(large.clone()).await;
    row("get, hit, 1000 hot ids (ns)", small, large, hot).await;
    let sizes = [(small.clone(), SMALL), (large.clone(), large_count)];
    let miss_fixed = async |store: Arc<Cached>| gets(store.inner(), COLD_GETS, HOT_IDS).await;
    row("get, cache bypassed, 1000 hot ids (ns)", small, large, miss_fixed).await;
    let miss_spread = async |store: Arc<Cached>| {
        let count = sizes.iter().find(|(sized, _)| Arc::ptr_eq(sized, &store)).map_or(SMALL, |(_, count)| *count);
        gets(store.inner(), COLD_GETS, count).await
    };
    row("get, cache bypassed, ids over all (ns)", small, large, miss_spread).await;
    let pages_fixed = async |store: Arc<Cached>| pages(&*store, HOT_PAGES).await;
    pages_fixed(small.clone()).await;
    pages_fixed(large.clone()).await;
    row("page of 100 by domain, 1000 rows in turn (ns)", small, large, pages_fixed).await;
    let pages_walk = async |store: Arc<Cached>| pages(&*store, PAGES).await;
    row("page of 100 by domain, walking on (ns)", small, large, pages_walk).await;
}

async fn row<F>(name: &str, small: &Arc<Cached>, large: &Arc<Cached>, measure: impl Fn(Arc<Cached>) -> F)
where
    F: Future<Output = f64>,
{
    let (mut of_small, mut of_large) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_small.push(measure(small.clone()).await);
        of_large.push(measure(large.clone()).await);
    }
    let ratios = of_small.iter().zip(&of_large).map(|(small, large)| large / small).collect();
    println!("{name:<44} {:>10.0} {:>10.0} {:>12.2}", median(of_small), median(of_large), median(ratios));
}

/// Nanoseconds of one get.
async fn gets<S: Store>(store: &S, count: usize, ids: u64) -> f64 {
    let mut random = SmallRng::seed_from_u64(SEED);
    let ids: Vec<_> = (0..count)
        .map(|_| ProfileId::parse(&Sampler::id(random.random_range(0..ids)), "id").expect("valid"))
        .collect();
    let started = Instant::now();
    for id in &ids {
        assert!(std::hint::black_box(store.get(id).await.expect("reads")).is_some());
    }
    started.elapsed().as_nanos() as f64 / count as f64
}

/// Nanoseconds of one page of the largest domain: of its first `distinct` pages in turn.
async fn pages<S: Store>(store: &S, distinct: usize) -> f64 {
    let domain = Domain::parse(&Sampler::domain(1), "domain").expect("valid");
    let bounds = PageBounds { max_records: PAGE_RECORDS, max_bytes: usize::MAX };
    let scope = Scope::domain(&domain, true);
    let started = Instant::now();
    let mut after = None;
    for page_number in 0..PAGES {
        let page = store.list(&scope, after.as_ref(), bounds).await.expect("reads");
        assert!(!page.records.is_empty());
        // Without a next page the walk begins again.
        after = if (page_number + 1) % distinct == 0 { None } else { page.next };
    }
    started.elapsed().as_nanos() as f64 / PAGES as f64
}

/// Puts of profiles that are there, with the cache around the store as in the server.
async fn puts_by_size(small: &Arc<Cached>, large: &Arc<Cached>, large_count: u64) {
    println!("\n{:<44} {:>10} {:>10} {:>12}", "durable puts of stored profiles", "small", "large", "large/small");
    let spread = |count: u64| -> Arc<Vec<Profile>> {
        let step = count.div_ceil(PUT_PROFILES).max(1) as usize;
        Arc::new(Sampler::new(count).take(count as usize).step_by(step).collect())
    };
    let (of_small, of_large) = (spread(SMALL), spread(large_count));
    for in_flight in PUT_GROUPS_BY_SIZE {
        let rate = async |store: Arc<Cached>| {
            let profiles = if Arc::ptr_eq(&store, small) { &of_small } else { &of_large };
            puts_in_flight(&store, profiles, in_flight).await
        };
        row(&format!("{in_flight} in flight (puts/s)"), small, large, rate).await;
    }
}

async fn puts(path: &Path) {
    println!("\n{:<44} {:>10} {:>12}", "durable puts of 400-byte profiles", "puts/s", "against 1");
    let store = Arc::new(SledStore::open(SledOptions::new(path), Arc::new(NoObserver)).await.expect("opens"));
    let profiles: Arc<Vec<Profile>> = Arc::new(Sampler::new(100_000).take(100_000).collect());
    let mut alone = None;
    for in_flight in PUT_GROUPS {
        let rate = puts_in_flight(&store, &profiles, in_flight).await;
        let alone = *alone.get_or_insert(rate);
        println!("{:<44} {rate:>10.0} {:>12.1}", format!("{in_flight} in flight"), rate / alone);
    }
    puts_beside_snapshots(&store, &profiles).await;
    store.close().await.expect("closes");
}

/// In alternating rounds, since the store grows.
async fn puts_beside_snapshots(store: &Arc<SledStore>, profiles: &Arc<Vec<Profile>>) {
    let (mut ratios, mut snapshots) = (Vec::new(), 0);
    for _ in 0..SNAPSHOT_ROUNDS {
        let without = puts_in_flight(store, profiles, PUTS_BESIDE_SNAPSHOTS).await;
        let made = Arc::new(AtomicU64::new(0));
        let making = {
            let (store, made) = (store.clone(), made.clone());
            tokio::spawn(async move {
                while store.snapshot().await.is_ok() {
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        ratios.push(puts_in_flight(store, profiles, PUTS_BESIDE_SNAPSHOTS).await / without);
        making.abort();
        // The one under way is made to its end.
        store.snapshot().await.ok();
        snapshots += made.load(Ordering::Relaxed);
    }
    let name = format!("{PUTS_BESIDE_SNAPSHOTS} in flight, snapshots all the time");
    println!("{name:<44} {:>10.2} of the rate without ({snapshots} snapshots)", median(ratios));
}

/// Puts a second with so many callers, each waiting for its own put; every put changes its profile.
async fn puts_in_flight<S: Store>(store: &Arc<S>, profiles: &Arc<Vec<Profile>>, callers: usize) -> f64 {
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let (store, profiles) = (store.clone(), profiles.clone());
        tasks.spawn(async move {
            let mut random = SmallRng::seed_from_u64(SEED + caller as u64);
            let mut puts = 0u64;
            while started.elapsed() < PUT_TIME {
                let mut profile = profiles[random.random_range(0..profiles.len())].clone();
                profile.attributes.insert("version".into(), random.random::<u64>().to_string());
                let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").expect("valid");
                let outcomes = store.commit(Commit::all(vec![Write::put(draft, Precondition::None)])).await;
                outcomes.expect("commits");
                puts += 1;
            }
            puts
        });
    }
    let puts: u64 = tasks.join_all().await.into_iter().sum();
    puts as f64 / started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A figure of this process's memory.
fn status_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
