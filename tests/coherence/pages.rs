//! Pages of a domain, over the whole stack of services, while commits are under way: what a page shows is never
//! old, and never lacks what was committed before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use profilestore::cache::{CachedStore, HotCache};
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::model::{Canonicalization, Write};
use profilestore::pb::{QueryProfilesByDomainRequest, QueryProfilesByDomainResponse};
use profilestore::rpc::{self, Services};
use profilestore::store::Store;
use prost::Message;
use tokio::task::{JoinHandle, JoinSet};
use tower::ServiceExt;

use crate::common::gated::{GatedStore, Point, gated_and_cached};
use crate::common::profiles::*;
use crate::common::soon;
use crate::common::stacks::cache;

const QUERY: &str = "/profilestore.v1.ProfileService/QueryProfilesByDomain";
/// Enough for a page to be kept, and to come from the cache.
const ASKED: usize = 3;

async fn services<S: Store>(store: &Arc<CachedStore<S>>) -> Services {
    rpc::services(store.clone(), Some(store.cache().clone()), Canonicalization::default()).await.unwrap()
}

/// The names of the profiles on a page of a domain, and whether it came from the cache.
async fn page_and_way(services: &Services, domain: &str, include_subdomains: bool) -> (Vec<(String, String)>, bool) {
    let domain = domain.to_owned();
    let query =
        QueryProfilesByDomainRequest { domain, include_subdomains, ..QueryProfilesByDomainRequest::default() };
    let message = query.encode_to_vec();
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    let request = Request::post(QUERY).header("content-type", "application/grpc");
    let response = services.stack().oneshot(request.body(Full::<Bytes>::new(body.freeze())).unwrap()).await.unwrap();
    let from_the_cache = response.body().is_from_the_lane();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let page = QueryProfilesByDomainResponse::decode(&body[5..]).unwrap();
    let shown = page.profiles.into_iter().map(|profile| (profile.id, profile.display_name)).collect();
    (shown, from_the_cache)
}

async fn page(services: &Services, domain: &str, include_subdomains: bool) -> Vec<(String, String)> {
    page_and_way(services, domain, include_subdomains).await.0
}

/// The names on the page of `a.example`, asked for until it comes from the cache.
async fn kept_names(services: &Services) -> Vec<String> {
    for _ in 1..ASKED {
        page(services, "a.example", false).await;
    }
    let (shown, from_the_cache) = page_and_way(services, "a.example", false).await;
    assert!(from_the_cache);
    shown.into_iter().map(|(_, name)| name).collect()
}

async fn names(services: &Services) -> Vec<String> {
    page(services, "a.example", false).await.into_iter().map(|(_, name)| name).collect()
}

fn spawn_commit(store: &Arc<CachedStore<GatedStore>>, write: Write) -> JoinHandle<()> {
    let store = store.clone();
    tokio::spawn(async move { drop(commit(&*store, vec![write]).await) })
}

#[tokio::test]
async fn a_kept_page_is_no_answer_once_a_change_of_it_may_be_visible() {
    for (write, after) in [
        (put("a", "ada@a.example", "new"), vec!["new", "other"]),
        (put("a", "ada@elsewhere.example", "new"), vec!["other"]),
        (put("c", "zoe@a.example", "third"), vec!["old", "other", "third"]),
        (delete("a"), vec!["other"]),
    ] {
        let store = gated_and_cached(false);
        commit(&*store, vec![put("a", "ada@a.example", "old"), put("b", "bob@a.example", "other")]).await;
        let services = services(&store).await;
        assert_eq!(kept_names(&services).await, ["old", "other"]);
        let mut announced = store.inner().hold(Point::Announced);
        let mut applied = store.inner().hold(Point::Applied);
        let writer = spawn_commit(&store, write);
        announced.reached().await;
        for _ in 0..ASKED {
            let (shown, from_the_cache) = page_and_way(&services, "a.example", false).await;
            assert_eq!((shown.len(), from_the_cache), (2, false), "not visible yet, and about to be");
        }
        announced.release();
        applied.reached().await;
        assert_eq!(names(&services).await, after, "the store shows it");
        applied.release();
        soon(writer).await.unwrap();
        assert_eq!(names(&services).await, after);
        assert_eq!(kept_names(&services).await, after);
    }
}

#[tokio::test]
async fn a_page_that_was_read_before_a_commit_is_not_kept_after_it() {
    for point in [Point::BeforeRead, Point::AfterRead] {
        let store = gated_and_cached(false);
        store_one(&*store, put("a", "ada@a.example", "old")).await;
        let services = services(&store).await;
        // Asked for once, so that the next answer would be kept.
        assert_eq!(names(&services).await, ["old"]);
        let mut read = store.inner().hold(point);
        let slow = tokio::spawn({
            let services = services.clone();
            async move { names(&services).await }
        });
        read.reached().await;
        store_one(&*store, put("a", "ada@a.example", "new")).await;
        read.release();
        let seen = soon(slow).await.unwrap();
        assert_eq!(seen, [if point == Point::BeforeRead { "new" } else { "old" }]);
        assert_eq!(names(&services).await, ["new"]);
        assert_eq!(kept_names(&services).await, ["new"]);
    }
}

#[tokio::test]
async fn a_page_that_is_read_while_a_commit_is_under_way_is_not_kept() {
    let store = gated_and_cached(false);
    store_one(&*store, put("a", "ada@a.example", "old")).await;
    let services = services(&store).await;
    assert_eq!(names(&services).await, ["old"]);
    let mut announced = store.inner().hold(Point::Announced);
    let writer = spawn_commit(&store, put("a", "ada@a.example", "new"));
    announced.reached().await;
    // Begins between the announcement and the change, and ends when the commit is settled.
    let mut read = store.inner().hold(Point::AfterRead);
    let slow = tokio::spawn({
        let services = services.clone();
        async move { names(&services).await }
    });
    read.reached().await;
    announced.release();
    soon(writer).await.unwrap();
    read.release();
    assert_eq!(soon(slow).await.unwrap(), ["old"]);
    assert_eq!(names(&services).await, ["new"]);
}

const WRITERS: usize = 3;
const READERS: usize = 3;
const VERSIONS: u64 = 300;

/// The domain that a version of a profile is in.
fn domain_of(version: u64) -> String {
    format!("d{}.moving.example", version % 3)
}

/// Each writer moves its profile from domain to domain, and sees it there at once and nowhere else; readers, who keep
/// the pages in the cache, never see a version older than one that was acknowledged.
async fn pages_keep_up_with_moving_profiles<S: Store>(store: CachedStore<S>) {
    let store = Arc::new(store);
    let services = services(&store).await;
    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let over = Arc::new(AtomicBool::new(false));
    let met = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, services, acknowledged) = (store.clone(), services.clone(), acknowledged.clone());
        let met = met.clone();
        writers.spawn(async move {
            let id = format!("user-{writer}");
            for version in 1..=100 * VERSIONS {
                // Until the readers have met the cache, who may get their turns late on a busy machine.
                if version > VERSIONS && met.load(Ordering::SeqCst) {
                    break;
                }
                tokio::task::yield_now().await;
                let email = format!("user-{writer}@{}", domain_of(version));
                commit(&*store, vec![put(&id, &email, &version.to_string())]).await;
                acknowledged[writer].store(version, Ordering::SeqCst);
                let mine = (id.clone(), version.to_string());
                for subtree in [false, true] {
                    let here = if subtree { "moving.example".to_owned() } else { domain_of(version) };
                    assert!(page(&services, &here, subtree).await.contains(&mine), "{here} lacks {mine:?}");
                }
                let before = page(&services, &domain_of(version - 1), false).await;
                assert!(!before.iter().any(|(shown, _)| *shown == id), "{id} is where it was before {version}");
            }
        });
    }
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (services, acknowledged, over) = (services.clone(), acknowledged.clone(), over.clone());
        let met = met.clone();
        readers.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                for number in 0..3 {
                    let floors: Vec<_> = acknowledged.iter().map(|version| version.load(Ordering::SeqCst)).collect();
                    let (shown, cached) = page_and_way(&services, &domain_of(number), false).await;
                    met.fetch_or(cached, Ordering::SeqCst);
                    for (id, version) in shown {
                        let writer: usize = id.strip_prefix("user-").unwrap().parse().unwrap();
                        let version: u64 = version.parse().unwrap();
                        assert!(version >= floors[writer], "{id} is shown as of {version} after {}", floors[writer]);
                    }
                }
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    while let Some(ended) = readers.join_next().await {
        ended.unwrap();
    }
    assert!(met.load(Ordering::SeqCst), "the cache was never met");
    store.close().await.unwrap();
}

fn memory(cache: Arc<HotCache>) -> CachedStore<MemoryStore> {
    CachedStore::new(MemoryStore::new(EngineRules::default(), cache.clone()), cache)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pages_keep_up_with_moving_profiles_on_the_memory_engine() {
    pages_keep_up_with_moving_profiles(memory(cache())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pages_keep_up_with_moving_profiles_on_an_engine_that_gives_way_everywhere() {
    let store = Arc::into_inner(gated_and_cached(true)).unwrap();
    pages_keep_up_with_moving_profiles(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pages_keep_up_with_moving_profiles_on_the_sled_engine() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), cache());
    let engine = SledStore::open(SledOptions::new(dir.path()), cache.clone()).await.unwrap();
    pages_keep_up_with_moving_profiles(CachedStore::new(engine, cache)).await;
}
