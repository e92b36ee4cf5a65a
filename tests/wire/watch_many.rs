//! Many watchers of many domains beside many writers.

use std::collections::HashMap;
use std::sync::Arc;

use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::store::{NoObserver, Store};
use tokio::task::JoinSet;

use crate::common::profiles::{commit, put};
use crate::common::server::TestServer;
use crate::watcher::Request;

/// Those who come back at once after an outage, on as many connections as they need.
const RESUMED: usize = 2000;
const RESUMED_ON_ONE: usize = 200;
const WATCHERS: usize = 200;
const DOMAINS: usize = 20;
const WRITERS: usize = 10;
/// The changes that each writer makes, to each domain in turn.
const CHANGES: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_watchers_sees_all_of_its_domain_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledOptions::new(dir.path()), Arc::new(NoObserver)).await.unwrap();
    let store = Arc::new(store);
    // All are of one connection, which leaves as many places to others.
    let server = TestServer::sharing(store.clone(), 2 * WATCHERS).await;
    let mut client = server.profiles();
    let mut watchers = JoinSet::new();
    for number in 0..WATCHERS {
        let domain = format!("d{}.example", number % DOMAINS);
        let mut watcher = Request::now().domain(&domain, number % 2 == 0).begin(&mut client).await;
        watchers.spawn(async move {
            let mut seen: HashMap<String, usize> = HashMap::new();
            for event in watcher.events(WRITERS * CHANGES / DOMAINS).await {
                let profile = event.profile.unwrap();
                assert_eq!(profile.domain, domain);
                // A writer's changes of a domain come in the order in which it made them.
                let change = profile.display_name.parse().unwrap();
                assert!(seen.insert(event.id, change).is_none_or(|before| before < change));
            }
        });
    }
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for change in 0..CHANGES {
                let domain = change % DOMAINS;
                let write = put(&format!("{writer}-{domain}"), &format!("u@d{domain}.example"), &change.to_string());
                commit(&*store, vec![write]).await;
            }
        });
    }
    writers.join_all().await;
    watchers.join_all().await;
    drop(server);
    store.close().await.unwrap();
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_watchers_that_come_back_at_once_all_get_what_they_missed() {
    const MISSED: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledOptions::new(dir.path()), Arc::new(NoObserver)).await.unwrap();
    let store = Arc::new(store);
    let before = TestServer::sharing(store.clone(), 10).await;
    let token = Request::now().begin(&mut before.profiles()).await.token;
    drop(before);
    for number in 0..MISSED {
        commit(&*store, vec![put(&format!("{number:04}"), "u@d.example", &number.to_string())]).await;
    }
    // A server that was not there meanwhile: nothing of it is in its tail.
    let server = TestServer::sharing(store.clone(), 2 * RESUMED).await;
    let resident_before = resident();
    let mut watchers = JoinSet::new();
    for _ in 0..RESUMED / RESUMED_ON_ONE {
        let client = server.profiles_of_another();
        for _ in 0..RESUMED_ON_ONE {
            let (mut client, request) = (client.clone(), Request::after(&token));
            watchers.spawn(async move {
                let mut watcher = request.send(&mut client).await.unwrap();
                let (mut seen, mut ids) = (0, Vec::new());
                // Without a time of its own for each: they share what there is, and heartbeats keep them patient.
                while seen < MISSED {
                    let response = watcher.stream.message().await.unwrap().unwrap();
                    seen += response.events.len();
                    ids.extend(response.events.into_iter().map(|event| event.id));
                }
                assert!(ids.iter().map(|id| id.parse::<usize>().unwrap()).eq(0..MISSED));
                watcher
            });
        }
    }
    let limit = std::time::Duration::from_secs(300);
    let all = tokio::time::timeout(limit, watchers.join_all()).await.expect("all get what they missed");
    // Client and server together: 2,000 watches with their buffers, and not a message for each that waits.
    let grown = resident().saturating_sub(resident_before);
    println!("{} watchers hold {} KiB each", all.len(), grown / 1024 / all.len() as u64);
    assert!(grown < 512 * 1024 * 1024, "{} MiB for {RESUMED} watchers", grown >> 20);
    drop((all, server));
    store.close().await.unwrap();
}
