//! Many watchers of many domains beside many writers.

use std::collections::HashMap;
use std::sync::Arc;

use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::store::{NoObserver, Store};
use tokio::task::JoinSet;

use crate::common::profiles::{commit, put};
use crate::common::server::TestServer;
use crate::watcher::Request;

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
