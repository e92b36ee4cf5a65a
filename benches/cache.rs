//! The hot cache beside others: what it finds, and what a get costs.
//!
//! `cargo bench --bench cache`. Our cache as the server uses it ([`CachedStore`]), a plain LRU, `moka` and
//! `quick_cache`, each with the same bound in bytes and the same account of an entry, before the same store
//! in memory; with `-- hits`, `costs` or `noting` only that part. The traces are the same for all; only reads of the keys count for the hit ratio, since nobody can
//! answer an id that is asked for once. Costs are medians of alternating rounds.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lru::LruCache;
use parking_lot::Mutex;
use profilestore::cache::{CacheOptions, CachedStore, HotCache};
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::model::{Canonicalization, Domain, ProfileId, Record};
use profilestore::observe::hot_keys::HotKeys;
use profilestore::server::sample::{self, Sampler};
use profilestore::store::{
    ChangeBounds, ChangePage, Commit, Cursor, DomainOrder, DomainPage, Hold, HoldName, NoObserver, Outcomes, Page,
    PageBounds, Position, Scope, Store, StoreError, StoreState, StoreStatus, VerifyProgress, VerifyReport,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEED: u64 = 7;
/// The ids that are read again and again.
const KEYS: u32 = 50_000;
/// Of as many keys, a fifth takes four fifths of the reads.
const ZIPF_EXPONENT: f64 = 0.92;
/// The bounds of the caches, in hundredths of what all keys take.
const CAPACITIES: [usize; 4] = [1, 5, 10, 25];
/// Reads of keys in a trace; the first of them fill the caches and are not counted.
const READS: usize = 500_000;
const WARM_UP: usize = 100_000;
/// A scan reads so many ids, each once, after every so many reads of keys.
const SCAN_EVERY: usize = 50_000;
const SCAN_IDS: u32 = 10_000;
/// One get in so many is of an id that is asked for once.
const ONE_OFF_EVERY: usize = 5;
/// The most popular keys become the least popular ones after every so many reads: all ranks move on by so many keys.
const SHIFT_EVERY: usize = 50_000;
const SHIFT_KEYS: u32 = 5_000;
/// All profiles: the keys, and enough others for the longest trace of ids that are asked for once.
const PROFILES: u32 = KEYS + 130_000;

const ROUNDS: usize = 5;
const HOT_KEYS: u32 = 1_000;
const HOT_GETS: usize = 200_000;
/// Gets that go round all profiles through a cache of a twentieth of them.
const MISSING_GETS: usize = 100_000;
const MISSING_SHARE: usize = 20;
/// So few reads in ten seconds are all counted among the hot keys.
const COUNTED: usize = 16_000;
/// What an entry takes beside its id and its record, as our cache counts it.
const ENTRY_OVERHEAD_BYTES: usize = 256;

fn main() {
    let store = Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(sample::load(&store, Canonicalization::default(), u64::from(PROFILES))).expect("loads");
    let ids: Arc<Vec<ProfileId>> = (0..PROFILES)
        .map(|n| ProfileId::parse(&Sampler::id(n.into()), "id").expect("valid"))
        .collect::<Vec<_>>()
        .into();
    let bench = Bench { key_bytes: runtime.block_on(mean_cost(&store, &ids)) * KEYS as usize, store, ids };
    // cargo adds options of its own.
    let chosen: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    if wanted("hits") {
        bench.hit_ratios();
    }
    if wanted("costs") {
        bench.costs();
    }
    if wanted("noting") {
        bench.noting();
    }
}

async fn mean_cost(store: &MemoryStore, ids: &[ProfileId]) -> usize {
    let mut bytes = 0;
    for id in &ids[..KEYS as usize] {
        bytes += cost(id, &store.get(id).await.expect("reads").expect("is there"));
    }
    bytes / KEYS as usize
}

fn cost(id: &ProfileId, record: &Record) -> usize {
    id.as_bytes().len() + record.stored_bytes().len() + ENTRY_OVERHEAD_BYTES
}

struct Bench {
    store: Arc<MemoryStore>,
    ids: Arc<Vec<ProfileId>>,
    /// What all keys take in a cache.
    key_bytes: usize,
}

impl Bench {
    fn hit_ratios(&self) {
        let mut keys = zipf(&mut SmallRng::seed_from_u64(SEED));
        keys.sort_unstable();
        let of_top_fifth = keys.partition_point(|key| *key < KEYS / 5) as f64 / keys.len() as f64;
        println!(
            "seed {SEED}, {KEYS} keys of {} bytes on average, {READS} reads of them; {:.0} % of the reads go to a fifth",
            self.key_bytes / KEYS as usize,
            of_top_fifth * 100.0
        );
        println!("\n{:<38} {:>8} {}", "hit ratio (%)", "capacity", header(11));
        let traces: [(&str, Vec<u32>); 4] = [
            ("Zipf", zipf(&mut SmallRng::seed_from_u64(SEED))),
            ("Zipf, every fifth get a one-off id", with_one_offs()),
            ("Zipf, a scan of one-offs now and then", with_scans()),
            ("Zipf, the hot set moves on", shifting()),
        ];
        for (name, trace) in &traces {
            for percent in CAPACITIES {
                let caches = self.caches(self.key_bytes * percent / 100);
                let ratios = caches.each(|cache| format!("{:.1}", 100.0 * self.hit_ratio(cache, trace)));
                println!("{name:<38} {percent:>6} % {}", cells(ratios, 11));
            }
        }
    }

    /// The part of the reads of keys after the warm-up that a cache answered.
    fn hit_ratio(&self, cache: &Contender, trace: &[u32]) -> f64 {
        let is_key = |number: &&u32| **number < KEYS;
        let counted_from =
            trace.iter().enumerate().filter(|(_, number)| is_key(number)).nth(WARM_UP).expect("is longer").0;
        let (warm_up, counted) = trace.split_at(counted_from);
        self.run(cache, warm_up);
        let before = cache.misses();
        self.run(cache, counted);
        let reads = counted.iter().filter(is_key).count() as u64;
        let one_offs = counted.len() as u64 - reads;
        let misses = cache.misses() - before - one_offs;
        (reads - misses) as f64 / reads as f64
    }

    fn costs(&self) {
        println!("\n{:<38} {:>8} {}", "nanoseconds of a get", "threads", header(12));
        let mut random = SmallRng::seed_from_u64(SEED);
        let hot: Vec<u32> = (0..HOT_GETS).map(|_| random.random_range(0..HOT_KEYS)).collect();
        let round: Vec<u32> = (0..PROFILES).cycle().take(PROFILES as usize + MISSING_GETS).collect();
        let mixed = zipf(&mut random);
        let large = CacheOptions::default().max_bytes;
        let all_bytes = self.key_bytes / KEYS as usize * PROFILES as usize;
        for threads in [1, 2] {
            self.cost("a hit, 1000 hot ids", threads, large, &hot);
            self.cost("a miss, its load and the insert", threads, all_bytes / MISSING_SHARE, &round);
            self.cost("Zipf at 10 %", threads, self.key_bytes / 10, &mixed[..HOT_GETS]);
        }
    }

    /// A row of costs: the caches are filled by a first run of the trace, then they take turns.
    fn cost(&self, name: &str, threads: usize, bytes: usize, trace: &[u32]) {
        let caches = self.caches(bytes);
        caches.each(|cache| self.run(cache, trace));
        let mut rounds: [Vec<f64>; CONTENDERS.len()] = Default::default();
        for _ in 0..ROUNDS {
            for (cache, costs) in caches.0.iter().zip(&mut rounds) {
                costs.push(self.nanoseconds(cache, threads, trace));
            }
        }
        let medians = rounds.map(median);
        println!(
            "{name:<38} {threads:>8} {}",
            cells(medians.map(|ns| format!("{ns:.0} ({:.2})", ns / medians[0])), 12)
        );
    }

    /// What a read pays for being noted among the hot keys: while every read is counted, and under load, when one in
    /// many is.
    fn noting(&self) {
        println!(
            "\n{:<38} {:>8} {:>12} {:>12} {:>12}",
            "nanoseconds to note", "threads", "a get", "of a batch", "counted"
        );
        let trace = zipf(&mut SmallRng::seed_from_u64(SEED));
        let ids: Vec<&str> = trace.iter().map(|number| self.ids[*number as usize].as_str()).collect();
        for threads in [1, 2] {
            let hot_keys = HotKeys::new(threads);
            let mut rounds: [Vec<f64>; 3] = Default::default();
            let get = |hot_keys: &HotKeys, ids: &[&str]| ids.iter().for_each(|id| hot_keys.note_id(id));
            let batch = |hot_keys: &HotKeys, ids: &[&str]| hot_keys.note_ids(ids.iter().copied());
            // The first pass is the one after which much is known to be read.
            self::noting(threads, &ids, |ids| get(&hot_keys, ids));
            for _ in 0..ROUNDS {
                rounds[0].push(self::noting(threads, &ids, |ids| get(&hot_keys, ids)));
                rounds[1]
                    .push(self::noting(threads, &ids, |ids| ids.chunks(100).for_each(|ids| batch(&hot_keys, ids))));
                let few = HotKeys::new(threads);
                rounds[2].push(self::noting(threads, &ids[..COUNTED], |ids| get(&few, ids)));
            }
            let [get, batch, counted] = rounds.map(median);
            println!("{:<38} {threads:>8} {get:>12.1} {batch:>12.1} {counted:>12.0}", "Zipf");
        }
    }

    /// Nanoseconds of a get while so many threads run through the trace, each from a place of its own.
    fn nanoseconds(&self, cache: &Contender, threads: usize, trace: &[u32]) -> f64 {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (first, last) = trace.split_at(trace.len() * thread / threads);
                scope.spawn(move || {
                    self.run(cache, last);
                    self.run(cache, first);
                });
            }
        });
        started.elapsed().as_nanos() as f64 / trace.len() as f64
    }

    fn run(&self, cache: &Contender, trace: &[u32]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            for number in trace {
                std::hint::black_box(cache.get(&self.ids[*number as usize]).await);
            }
        });
    }

    fn caches(&self, bytes: usize) -> Contenders {
        let options = CacheOptions { max_bytes: bytes, ..CacheOptions::default() };
        let ours = CachedStore::new(Shared(self.store.clone()), Arc::new(HotCache::new(options.clone())));
        let store = || Counted { store: self.store.clone(), loads: AtomicU64::new(0) };
        let moka = moka::future::Cache::builder()
            .weigher(|id: &ProfileId, record: &Record| cost(id, record) as u32)
            .max_capacity(bytes as u64)
            .time_to_live(options.ttl)
            .build();
        let items = bytes * KEYS as usize / self.key_bytes;
        let quick = quick_cache::sync::Cache::with_weighter(items, bytes as u64, Weigher);
        Contenders([
            Contender::Ours(ours),
            Contender::Lru(
                Mutex::new(PlainLru { entries: LruCache::unbounded(), bytes: 0, max_bytes: bytes }),
                store(),
            ),
            Contender::Moka(moka, store()),
            Contender::Quick(quick, store()),
        ])
    }
}

/// Nanoseconds to note one of these ids, while each of so many threads notes all of them.
fn noting(threads: usize, ids: &[&str], note: impl Fn(&[&str]) + Sync) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| note(ids));
        }
    });
    started.elapsed().as_nanos() as f64 / ids.len() as f64
}

fn zipf(random: &mut SmallRng) -> Vec<u32> {
    let ranks = Zipf::new(f64::from(KEYS), ZIPF_EXPONENT).expect("positive");
    (0..READS).map(|_| ranks.sample(random) as u32 - 1).collect()
}

fn with_one_offs() -> Vec<u32> {
    let mut one_offs = KEYS..PROFILES;
    let mut trace = Vec::new();
    for reads in zipf(&mut SmallRng::seed_from_u64(SEED)).chunks(ONE_OFF_EVERY - 1) {
        trace.extend_from_slice(reads);
        trace.push(one_offs.next().expect("enough profiles"));
    }
    trace
}

fn with_scans() -> Vec<u32> {
    let mut one_offs = KEYS..PROFILES;
    let mut trace = Vec::new();
    for reads in zipf(&mut SmallRng::seed_from_u64(SEED)).chunks(SCAN_EVERY) {
        trace.extend_from_slice(reads);
        trace.extend(one_offs.by_ref().take(SCAN_IDS as usize));
    }
    trace
}

fn shifting() -> Vec<u32> {
    let ranks = zipf(&mut SmallRng::seed_from_u64(SEED));
    let moved = |(read, rank)| (rank + (read / SHIFT_EVERY) as u32 * SHIFT_KEYS) % KEYS;
    ranks.into_iter().enumerate().map(moved).collect()
}

const CONTENDERS: [&str; 4] = ["ours", "plain LRU", "moka", "quick_cache"];

enum Contender {
    Ours(CachedStore<Shared>),
    Lru(Mutex<PlainLru>, Counted),
    Moka(moka::future::Cache<ProfileId, Record>, Counted),
    Quick(quick_cache::sync::Cache<ProfileId, Record, Weigher>, Counted),
}

struct Contenders([Contender; CONTENDERS.len()]);

impl Contenders {
    fn each<T>(&self, f: impl FnMut(&Contender) -> T) -> [T; CONTENDERS.len()] {
        self.0.each_ref().map(f)
    }
}

impl Contender {
    /// A read as a server makes it: simultaneous misses of one id load once, where the cache can do that.
    async fn get(&self, id: &ProfileId) -> Record {
        match self {
            Self::Ours(cached) => cached.get(id).await.expect("reads").expect("is there"),
            Self::Lru(cache, store) => {
                if let Some(record) = cache.lock().entries.get(id) {
                    return record.clone();
                }
                let record = store.load(id).await;
                cache.lock().insert(id, record.clone());
                record
            }
            Self::Moka(cache, store) => {
                cache.optionally_get_with_by_ref(id, async { Some(store.load(id).await) }).await.expect("is there")
            }
            Self::Quick(cache, store) => {
                let load = async { Ok::<_, StoreError>(store.load(id).await) };
                cache.get_or_insert_async(id, load).await.expect("reads")
            }
        }
    }

    fn misses(&self) -> u64 {
        match self {
            Self::Ours(cached) => cached.figures().misses,
            Self::Lru(_, store) | Self::Moka(_, store) | Self::Quick(_, store) => store.loads.load(Ordering::Relaxed),
        }
    }
}

/// The `lru` crate bounded in bytes, behind one lock.
struct PlainLru {
    entries: LruCache<ProfileId, Record>,
    bytes: usize,
    max_bytes: usize,
}

impl PlainLru {
    fn insert(&mut self, id: &ProfileId, record: Record) {
        self.bytes += cost(id, &record);
        if let Some((id, former)) = self.entries.push(id.clone(), record) {
            self.bytes -= cost(&id, &former);
        }
        while self.bytes > self.max_bytes {
            let Some((id, victim)) = self.entries.pop_lru() else { return };
            self.bytes -= cost(&id, &victim);
        }
    }
}

#[derive(Clone)]
struct Weigher;

impl quick_cache::Weighter<ProfileId, Record> for Weigher {
    fn weight(&self, id: &ProfileId, record: &Record) -> u64 {
        cost(id, record) as u64
    }
}

/// The store, and how often it was asked.
struct Counted {
    store: Arc<MemoryStore>,
    loads: AtomicU64,
}

impl Counted {
    async fn load(&self, id: &ProfileId) -> Record {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.store.get(id).await.expect("reads").expect("is there")
    }
}

fn header(width: usize) -> String {
    cells(CONTENDERS, width)
}

fn cells(cells: [impl Display; CONTENDERS.len()], width: usize) -> String {
    cells.iter().map(|cell| format!("{cell:>width$}")).collect::<Vec<_>>().join(" ")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One store inside several cached ones.
struct Shared(Arc<MemoryStore>);

impl Store for Shared {
    async fn get(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        self.0.get(id).await
    }

    async fn get_many(&self, ids: &[ProfileId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.0.get_many(ids).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcomes, StoreError> {
        self.0.commit(commit).await
    }

    async fn list(&self, scope: &Scope, after: Option<&Cursor>, bounds: PageBounds) -> Result<Page, StoreError> {
        self.0.list(scope, after, bounds).await
    }

    async fn list_domains(
        &self,
        parent: Option<&Domain>,
        order: DomainOrder,
        after: Option<&Cursor>,
        max_domains: usize,
    ) -> Result<DomainPage, StoreError> {
        self.0.list_domains(parent, order, after, max_domains).await
    }

    async fn count(&self, scope: &Scope) -> Result<u64, StoreError> {
        self.0.count(scope).await
    }

    fn status(&self) -> StoreStatus {
        self.0.status()
    }

    async fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.0.disk_bytes().await
    }

    fn watch_state(&self) -> watch::Receiver<StoreState> {
        self.0.watch_state()
    }

    async fn changes_after(&self, after: &Position, bounds: ChangeBounds) -> Result<ChangePage, StoreError> {
        self.0.changes_after(after, bounds).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.0.head().await
    }

    async fn oldest_position(&self) -> Result<Position, StoreError> {
        self.0.oldest_position().await
    }

    async fn hold(&self, name: &HoldName, position: &Position) -> Result<(), StoreError> {
        self.0.hold(name, position).await
    }

    async fn release_hold(&self, name: &HoldName) -> Result<bool, StoreError> {
        self.0.release_hold(name).await
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        self.0.holds().await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.0.watch_head()
    }

    fn position_of(&self, record: &Record) -> Position {
        self.0.position_of(record)
    }

    async fn verify_with(&self, progress: VerifyProgress) -> Result<VerifyReport, StoreError> {
        self.0.verify_with(progress).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.0.close().await
    }
}
