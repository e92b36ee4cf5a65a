//! A watch that begins with a snapshot, and the proof that nothing is missed and nothing goes back in time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::model::Write;
use profilestore::pb::*;
use profilestore::store::{NoObserver, Scope, Store};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tonic::Code;

use crate::common::profiles::{UNBOUNDED, commit, delete, put, subtree};
use crate::common::server::{TestServer, memory_store};
use crate::meddling::MeddlingStore;
use crate::watcher::{Request, Watcher, short};
use crate::*;

const IDS: usize = 1500;
const CHANGES: usize = 10_000;
const GROUP: usize = 8;
/// Long enough for a machine with other things to do.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(180);
/// The id of the last write; whoever has seen it has seen everything.
const LAST: &str = "zz-last";

#[tokio::test]
async fn a_snapshot_is_all_matches_then_the_mark_then_changes() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut client = server.profiles();
    for first in (0..2400).step_by(100) {
        let address = |number: usize| format!("u@{}.example", if number.is_multiple_of(3) { "x" } else { "y" });
        let puts = (first..first + 100).map(|number| put(&format!("u{number:04}"), &address(number), "1"));
        commit(&*store, puts.collect()).await;
    }
    commit(&*store, vec![put("u0000", "u@x.example", "2"), delete("u0003")]).await;
    let request = Request::now().domain("x.example", true).snapshot();
    let mut watcher = request.send(&mut client).await.unwrap();
    let mut events = Vec::new();
    loop {
        let response = watcher.response().await;
        events.extend(response.events.clone());
        if response.current {
            assert_eq!(response.events, []);
            break;
        }
    }
    assert_eq!(events.len(), 799);
    let mut log = Request::oldest().send(&mut client).await.unwrap();
    let log = log.events(2402).await;
    for event in &events {
        assert_eq!(event.r#type(), ProfileEventType::Put);
        // A profile of a snapshot is the change that made it what it is.
        assert!(log.contains(event), "{event:?}");
    }
    commit(&*store, vec![put("u0001", "moved@x.example", "2"), delete("u0000")]).await;
    assert_eq!(watcher.next(2).await, ["PUT u0001", "DELETE u0000"]);
    let mut again = Request::after(&watcher.token).domain("x.example", true).send(&mut client).await.unwrap();
    commit(&*store, vec![delete("u0001")]).await;
    assert_eq!((again.next(1).await, again.response().await.current), (vec!["DELETE u0001".into()], false));
}

#[tokio::test]
async fn a_snapshot_of_nothing_is_current_at_once() {
    let server = TestServer::start().await;
    let mut watcher = Request::now().domain("x.example", true).snapshot().send(&mut server.profiles()).await.unwrap();
    while !watcher.response().await.current {}
    create(&mut server.profiles(), profile("a", "a@x.example")).await;
    assert_eq!(watcher.next(1).await, ["PUT a"]);
}

#[tokio::test]
async fn a_snapshots_token_goes_on_in_the_middle_of_it() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut client = server.profiles();
    for first in (0..5000).step_by(100) {
        commit(&*store, (first..first + 100).map(|number| put(&format!("u{number:04}"), "", "")).collect()).await;
    }
    let mut watcher = Request::now().snapshot().send(&mut client).await.unwrap();
    let first = watcher.response().await;
    assert!(!first.events.is_empty() && !first.current);
    let mut rest = Request::after(&first.resume_token).send(&mut client).await.unwrap();
    let mut found: Vec<_> = first.events.iter().map(short).collect();
    loop {
        let response = rest.response().await;
        found.extend(response.events.iter().map(short));
        if response.current {
            break;
        }
    }
    assert_eq!(found, (0..5000).map(|number| format!("PUT u{number:04}")).collect::<Vec<_>>());
}

/// What a random writer did: each write's id and version, in order; a delete has none.
type History = Vec<(String, Option<u64>)>;

/// Random puts, moves and deletes, in commits of a few, with a pause now and then; `made` counts them. It goes on while there
/// are watchers to be cut who have not been cut often enough, as on a busy machine those who are late and get much at once.
async fn write_throughout<S: Store>(
    store: Arc<S>,
    made: Arc<AtomicUsize>,
    to_cut: Arc<AtomicUsize>,
    seed: u64,
) -> History {
    let mut random = SmallRng::seed_from_u64(seed);
    let (mut history, mut version) = (History::new(), 0);
    while history.len() < CHANGES || to_cut.load(Ordering::SeqCst) > 0 && history.len() < 5 * CHANGES {
        let mut writes: Vec<Write> = Vec::new();
        for _ in 0..random.random_range(1..=GROUP) {
            let id = format!("u{:04}", random.random_range(0..IDS));
            version += 1;
            if random.random_bool(0.15) {
                writes.push(delete(&id));
                history.push((id, None));
            } else {
                let email = ["a@x.example", "b@mail.x.example", "c@y.example", ""][random.random_range(0..4)];
                writes.push(put(&id, email, &version.to_string()));
                history.push((id, Some(version)));
            }
        }
        commit(&*store, writes).await;
        made.store(history.len(), Ordering::SeqCst);
        if history.len() >= CHANGES || random.random_bool(0.05) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    commit(&*store, vec![put(LAST, "last@x.example", "0")]).await;
    history
}

/// So often at least are those cut who are cut.
const CUTS: usize = 4;

/// How likely a watcher is cut after a response, and how many there are who have not been cut often enough.
struct Cut {
    chance: f64,
    to_cut: Arc<AtomicUsize>,
}

/// What a watcher believes.
#[derive(Default)]
struct Belief {
    profiles: BTreeMap<String, Profile>,
    positions: HashSet<String>,
    /// The versions that it saw of each profile, in order, without repeats.
    versions: BTreeMap<String, Vec<u64>>,
    currents: usize,
    cuts: usize,
}

impl Belief {
    fn take(&mut self, response: WatchProfilesResponse) {
        self.currents += usize::from(response.current);
        for event in response.events {
            let again = !self.positions.insert(event.position.clone());
            match event.r#type() {
                ProfileEventType::Put => {
                    let profile = event.profile.unwrap();
                    assert_eq!(profile.id, event.id);
                    let version: u64 = profile.display_name.parse().unwrap();
                    let versions = self.versions.entry(event.id.clone()).or_default();
                    if !again {
                        assert!(
                            versions.last().is_none_or(|last| *last < version),
                            "{} goes back from {versions:?} to {version}",
                            event.id
                        );
                        versions.push(version);
                    }
                    self.profiles.insert(event.id, profile);
                }
                ProfileEventType::Delete | ProfileEventType::Left => {
                    assert!(event.profile.is_none());
                    self.profiles.remove(&event.id);
                }
                ProfileEventType::Unspecified => panic!("never sent"),
            }
        }
    }

    /// The same, unless it takes too long: heartbeats would come for ever.
    async fn watch_to_the_end(self, client: Client, request: Request, cut: Cut, seed: u64) -> Self {
        let watch = self.watch(client, request, cut, seed);
        tokio::time::timeout(PATIENCE, watch).await.expect("the last write comes")
    }

    /// Watches until the last write; cuts the stream now and then and goes on elsewhere, as a client does.
    async fn watch(mut self, mut client: Client, request: Request, cut: Cut, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut watcher: Watcher = request.clone().send(&mut client).await.unwrap();
        while !(self.versions.contains_key(LAST) && (self.currents > 0 || !request.0.include_snapshot)) {
            self.take(watcher.response().await);
            if random.random_bool(cut.chance) {
                self.cuts += 1;
                if self.cuts == CUTS {
                    cut.to_cut.fetch_sub(1, Ordering::SeqCst);
                }
                let mut next = Request::after(&watcher.token);
                next.0.domain.clone_from(&request.0.domain);
                next.0.include_subdomains = request.0.include_subdomains;
                watcher = next.send(&mut client).await.unwrap();
            }
        }
        self
    }
}

async fn prove<S: Store>(store: Arc<S>, seed: u64) {
    for first in (0..IDS).step_by(100) {
        commit(
            &*store,
            (first..first + 100).map(|number| put(&format!("u{number:04}"), "a@x.example", "0")).collect(),
        )
        .await;
    }
    let server = TestServer::sharing(store.clone(), 100).await;
    let oldest = Request::oldest();
    let in_domain = |request: Request| request.domain("x.example", true);
    let requests = [
        (Request::now().snapshot(), Scope::All, 0.0),
        (in_domain(Request::now().snapshot()), subtree("x.example"), 0.0),
        (Request::now().snapshot(), Scope::All, 0.2),
        (in_domain(Request::now().snapshot()), subtree("x.example"), 0.2),
        (oldest.clone(), Scope::All, 0.2),
        (in_domain(oldest), subtree("x.example"), 0.2),
    ];
    let made = Arc::new(AtomicUsize::new(0));
    let to_cut = Arc::new(AtomicUsize::new(requests.iter().filter(|(_, _, chance)| *chance > 0.0).count()));
    let writer = tokio::spawn(write_throughout(store.clone(), made.clone(), to_cut.clone(), seed));
    crate::common::soon(async {
        while made.load(Ordering::SeqCst) < 500 {
            tokio::task::yield_now().await
        }
    })
    .await;
    let watches: Vec<_> = (requests.iter())
        .map(|(request, _, chance)| {
            let cut = Cut { chance: *chance, to_cut: to_cut.clone() };
            tokio::spawn(Belief::default().watch_to_the_end(server.profiles(), request.clone(), cut, seed))
        })
        .collect();
    let history = writer.await.unwrap();
    for (watch, (request, scope, cut)) in watches.into_iter().zip(&requests) {
        let belief = watch.await.unwrap();
        let name = format!("{:?}, cut {} times", request.0, belief.cuts);
        assert_eq!(belief.currents >= 1, request.0.include_snapshot, "{name}");
        assert!(*cut == 0.0 || belief.cuts >= CUTS, "{name}");
        let records = store.list(scope, None, UNBOUNDED).await.unwrap().records;
        let stored: BTreeMap<_, _> = records
            .iter()
            .map(|record| record.decode().unwrap())
            .map(|profile| (profile.id.clone(), profile))
            .collect();
        assert_eq!(belief.profiles.len(), stored.len(), "{name}");
        assert!(belief.profiles == stored, "{name}: what was sent comes to what is stored");
        if *scope == Scope::All && !request.0.include_snapshot {
            // Every write of all, once and in order.
            let mut expected: BTreeMap<String, Vec<u64>> =
                (0..IDS).map(|id| (format!("u{id:04}"), vec![0])).collect();
            for (id, version) in &history {
                expected.get_mut(id).unwrap().extend(version);
            }
            expected.insert(LAST.into(), vec![0]);
            assert!(belief.versions == expected, "{name}: every version was sent");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missed_and_nothing_goes_back_while_a_writer_writes_in_memory() {
    prove(Arc::new(memory_store()), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missed_and_nothing_goes_back_while_a_writer_writes_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledOptions::new(dir.path()), Arc::new(NoObserver)).await.unwrap();
    prove(Arc::new(store), 2).await;
}

/// Every page of the snapshot is read between writes, before and behind it. When the snapshot is complete the watcher
/// has what is stored, although the store was never still.
#[tokio::test]
async fn a_snapshot_of_a_store_that_is_never_still_is_complete_at_its_mark() {
    for (seed, cut) in [(1, 0.0), (2, 0.0), (3, 0.5), (4, 0.5)] {
        for domain in ["", "x.example"] {
            let store = Arc::new(MeddlingStore::new(4000, seed));
            store.meddle(4000).await;
            let server = TestServer::sharing(store.clone(), 100).await;
            let (mut client, mut random) = (server.profiles(), SmallRng::seed_from_u64(seed));
            let request = Request::now().domain(domain, true).snapshot();
            let mut watcher = request.send(&mut client).await.unwrap();
            let (mut belief, mut responses) = (Belief::default(), 0);
            while belief.currents == 0 {
                belief.take(watcher.response().await);
                responses += 1;
                if belief.currents == 0 && random.random_bool(cut) {
                    let next = Request::after(&watcher.token).domain(domain, true);
                    watcher = next.send(&mut client).await.unwrap();
                }
            }
            assert!(responses >= 3, "{responses} responses");
            let scope = if domain.is_empty() { Scope::All } else { subtree(domain) };
            let records = store.inner.list(&scope, None, UNBOUNDED).await.unwrap().records;
            let stored: Vec<_> = records.iter().map(|record| record.decode().unwrap()).collect();
            let stored: BTreeMap<_, _> = stored.into_iter().map(|profile| (profile.id.clone(), profile)).collect();
            assert!(belief.profiles == stored, "seed {seed}, {domain:?}: the snapshot is complete");
        }
    }
}

#[tokio::test]
async fn a_snapshot_token_is_bound_to_its_domain() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing(store.clone(), 100).await;
    commit(&*store, (0..100).map(|number| put(&format!("u{number}"), "a@x.example", &"n".repeat(250))).collect())
        .await;
    let mut client = server.profiles();
    let token = Request::now().snapshot().send(&mut client).await.unwrap().response().await.resume_token;
    let of_domain = Request::after(&token).domain("x.example", true);
    assert_refused(client.watch_profiles(of_domain.0).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
}
