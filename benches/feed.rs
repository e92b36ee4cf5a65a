//! The feed over the wire: fan-out, catch-up, and what watchers cost those who write and read.
//!
//! `cargo bench --bench feed`, or with `-- --domains` the watchers of a domain each alone. Server and watchers share this process and this machine's cores, over loopback
//! connections, so the figures hold the cost of both ends.

#[path = "feed/domains.rs"]
mod domains;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use profilestore::cache::{CacheOptions, CachedStore, HotCache};
use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::feed::{Feed, Filter, MAX_MESSAGE_BYTES, Step};
use profilestore::model::{Canonicalization, Draft, Precondition, Profile, ProfileId, Write};
use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::pb::watch_profiles_request::Start;
use profilestore::pb::{WatchProfilesRequest, WatchStart};
use profilestore::rpc;
use profilestore::server::sample::{self, Sampler};
use profilestore::server::serving::{self, ServingLimits};
use profilestore::store::{Commit, Store};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROFILES: u64 = 300_000;
const SEED: u64 = 7;
const CATCH_UPS: usize = 3;
const FAN_OUTS: [usize; 3] = [1, 100, 1000];
/// So many watchers share a connection.
const WATCHERS_PER_CONNECTION: usize = 100;
const FAN_OUT_TIME: Duration = Duration::from_secs(3);
/// Changes a second while fan-out is measured.
const PACE: u64 = 2000;
const ROUNDS: usize = 5;
const ROUND_TIME: Duration = Duration::from_secs(1);
const WRITERS: usize = 16;
const HOT_IDS: u64 = 1000;

type Cached = CachedStore<SledStore>;

struct Bench {
    store: Arc<Cached>,
    feed: Arc<Feed<Cached>>,
    address: String,
    shutdown: CancellationToken,
    profiles: Vec<Profile>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let dir = tempfile::Builder::new().prefix("bench-feed").tempdir_in(dir).expect("a directory");
    let mut arguments = std::env::args().skip(1);
    if arguments.next().is_some_and(|first| first == domains::WATCH) {
        runtime.block_on(domains::watch(arguments));
        return;
    }
    let only_domains = std::env::args().any(|argument| argument == "--domains");
    runtime.block_on(async {
        let bench = Bench::start(dir.path()).await;
        println!("seed {SEED}; {PROFILES} changes of about 400 bytes in the log");
        if !only_domains {
            bench.catch_up().await;
            bench.fan_out().await;
            bench.cost().await;
        }
        domains::measure(&bench).await;
        bench.shutdown.cancel();
    });
}

impl Bench {
    async fn start(dir: &Path) -> Self {
        let cache = Arc::new(HotCache::new(CacheOptions::default()));
        let sled = SledStore::open(SledOptions::new(dir), cache.clone()).await.expect("opens");
        let store = Arc::new(CachedStore::new(sled, cache.clone()));
        sample::load(&store, Canonicalization::default(), PROFILES).await.expect("loads");
        let feed = Arc::new(Feed::start(store.clone(), 10_000));
        let canonicalization = Canonicalization::default();
        let services = rpc::services_with_feed(store.clone(), feed.clone(), Some(cache), canonicalization);
        let services = services.await.expect("services");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let limits = ServingLimits { drain_timeout: Duration::from_secs(1), ..ServingLimits::default() };
        let shutdown = CancellationToken::new();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        tokio::spawn(serving::serve(listener, services.stack(), threads, limits, shutdown.clone()));
        Self { store, feed, address, shutdown, profiles: Sampler::new(100_000).take(20_000).collect() }
    }

    /// A client with its own connection.
    fn client(&self) -> ProfileServiceClient<Channel> {
        client_of(&self.address)
    }

    async fn catch_up(&self) {
        println!("\n{:<60} {:>12}", "catch-up from the oldest", "events/s");
        for _ in 0..CATCH_UPS {
            let feed_alone = self.catch_up_in_process().await;
            println!("{:<60} {feed_alone:>12.0}", "in the server, without the wire");
            let wire = self.catch_up_by(1).await;
            println!("{:<60} {wire:>12.0}", "one watcher that decodes every profile, both ends here");
            let wires = self.catch_up_by(4).await;
            println!("{:<60} {wires:>12.0}", "four of them, all together");
        }
    }

    async fn catch_up_in_process(&self) -> f64 {
        let mut subscription = self.feed.watch_from_oldest(Filter::all()).await.expect("watches");
        let (mut seen, started) = (0, Instant::now());
        while seen < PROFILES {
            if let Step::Batch(batch) = subscription.advance(MAX_MESSAGE_BYTES).await.expect("reads") {
                seen += batch.events.len() as u64;
            }
        }
        seen as f64 / started.elapsed().as_secs_f64()
    }

    async fn catch_up_by(&self, watchers: usize) -> f64 {
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..watchers {
            let client = self.client();
            tasks.spawn(async move { watch(client, WatchStart::Oldest, PROFILES, &AtomicU64::new(0)).await });
        }
        tasks.join_all().await;
        (watchers as u64 * PROFILES) as f64 / started.elapsed().as_secs_f64()
    }

    /// So many idle or busy watchers, which count what they get and end when they are dropped.
    async fn watchers(&self, count: usize, start: WatchStart) -> (JoinSet<()>, Arc<AtomicU64>) {
        let (mut tasks, seen, begun) = (JoinSet::new(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut client = self.client();
        for number in 0..count {
            if number % WATCHERS_PER_CONNECTION == 0 {
                client = self.client();
            }
            let (mut client, seen, begun) = (client.clone(), seen.clone(), begun.clone());
            tasks.spawn(async move {
                let request =
                    WatchProfilesRequest { start: Some(Start::StartAt(start as i32)), ..Default::default() };
                let mut stream = client.watch_profiles(request).await.expect("watches").into_inner();
                begun.fetch_add(1, Ordering::Relaxed);
                loop {
                    match stream.message().await {
                        Ok(Some(response)) => {
                            seen.fetch_add(response.events.len() as u64, Ordering::Relaxed);
                        }
                        // Whoever waits for its events would wait for ever.
                        ended => panic!("a watcher of {count} ended early: {ended:?}"),
                    }
                }
            });
        }
        while begun.load(Ordering::Relaxed) < count as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (tasks, seen)
    }

    async fn fan_out(&self) {
        println!(
            "\n{:<28} {:>14} {:>14} {:>12} {:>16}",
            "fan-out", "changes/s", "events/s", "CPU, cores", "CPU us/event"
        );
        for count in FAN_OUTS {
            let (tasks, seen) = self.watchers(count, WatchStart::Now).await;
            let (cpu, started) = (cpu_seconds(), Instant::now());
            let mut written = 0;
            let mut ticks = tokio::time::interval(Duration::from_millis(10));
            while started.elapsed() < FAN_OUT_TIME {
                ticks.tick().await;
                let writes = (0..PACE / 100).map(|_| self.put(written)).collect();
                self.store.commit(Commit::each(writes)).await.expect("commits");
                written += PACE / 100;
            }
            while seen.load(Ordering::Relaxed) < written * count as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            let events = (written * count as u64) as f64;
            println!(
                "{:<28} {:>14.0} {:>14.0} {:>12.2} {:>16.2}",
                format!("{count} watchers"),
                written as f64 / seconds,
                events / seconds,
                cpu / seconds,
                cpu * 1e6 / events
            );
            drop(tasks);
        }
    }

    /// A put that changes its profile.
    fn put(&self, number: u64) -> Write {
        let mut profile = self.profiles[number as usize % self.profiles.len()].clone();
        profile.attributes.insert("version".into(), rand::random::<u64>().to_string());
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").expect("valid");
        Write::put(draft, Precondition::None)
    }

    async fn cost(&self) {
        println!("\n{:<44} {:>12} {:>10} {:>12} {:>10}", "beside", "puts/s", "ratio", "hot get ns", "ratio");
        let cases: [(&str, usize, WatchStart); 4] = [
            ("nobody", 0, WatchStart::Now),
            ("one watcher of all", 1, WatchStart::Now),
            ("1000 watchers of a domain without changes", 1000, WatchStart::Unspecified),
            ("one that catches up from the oldest", 1, WatchStart::Oldest),
        ];
        let mut figures = vec![(Vec::new(), Vec::new()); cases.len()];
        for _ in 0..ROUNDS {
            for ((_, count, start), (puts, gets)) in cases.iter().zip(&mut figures) {
                let beside = self.beside(*count, *start).await;
                puts.push(self.puts().await);
                drop(beside);
                let beside = self.beside(*count, *start).await;
                gets.push(self.gets().await);
                drop(beside);
            }
        }
        let nobody = (median(&figures[0].0), median(&figures[0].1));
        for ((name, ..), (puts, gets)) in cases.iter().zip(&figures) {
            let (puts, gets) = (median(puts), median(gets));
            println!("{name:<44} {puts:>12.0} {:>10.2} {gets:>12.0} {:>10.2}", puts / nobody.0, gets / nobody.1);
        }
    }

    async fn beside(&self, count: usize, start: WatchStart) -> JoinSet<()> {
        if start != WatchStart::Unspecified {
            return self.watchers(count, start).await.0;
        }
        let mut tasks = JoinSet::new();
        let mut client = self.client();
        for number in 0..count {
            if number % WATCHERS_PER_CONNECTION == 0 {
                client = self.client();
            }
            let mut client = client.clone();
            let request = WatchProfilesRequest { domain: "nobody.invalid".into(), ..Default::default() };
            let mut stream = client.watch_profiles(request).await.expect("watches").into_inner();
            tasks.spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
        }
        tasks
    }

    /// Puts a second, with some in flight.
    async fn puts(&self) -> f64 {
        let started = Instant::now();
        let puts = (0..WRITERS as u64).map(|writer| async move {
            let mut made = 0;
            while started.elapsed() < ROUND_TIME {
                let write = self.put(writer * 1000 + made % 1000);
                self.store.commit(Commit::each(vec![write])).await.expect("commits");
                made += 1;
            }
            made
        });
        let made: u64 = futures_util::future::join_all(puts).await.into_iter().sum();
        made as f64 / started.elapsed().as_secs_f64()
    }

    /// Nanoseconds of a get that the cache answers.
    async fn gets(&self) -> f64 {
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut id = || ProfileId::parse(&Sampler::id(random.random_range(0..HOT_IDS)), "id").expect("valid");
        let ids: Vec<_> = (0..HOT_IDS).map(|_| id()).collect();
        let (started, mut gets) = (Instant::now(), 0u64);
        while started.elapsed() < ROUND_TIME / 4 {
            for id in &ids {
                assert!(std::hint::black_box(self.store.get(id).await.expect("reads")).is_some());
                gets += 1;
            }
        }
        started.elapsed().as_nanos() as f64 / gets as f64
    }
}

/// A client with its own connection.
fn client_of(address: &str) -> ProfileServiceClient<Channel> {
    let endpoint = Channel::from_shared(address.to_owned()).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
    ProfileServiceClient::new(endpoint.connect_lazy())
}

/// Watches until so many events have come.
async fn watch(mut client: ProfileServiceClient<Channel>, start: WatchStart, count: u64, seen: &AtomicU64) {
    let request = WatchProfilesRequest { start: Some(Start::StartAt(start as i32)), ..Default::default() };
    let mut stream = client.watch_profiles(request).await.expect("watches").into_inner();
    while seen.load(Ordering::Relaxed) < count {
        let response = stream.message().await.expect("goes on").expect("goes on");
        seen.fetch_add(response.events.len() as u64, Ordering::Relaxed);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The processor time of this process so far, in ticks of a hundredth of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
