//! Watches that go on over breaks.

use std::sync::Arc;

use profilestore::client::{ClientError, Watch, WatchFrom, WatchOptions};

use crate::common::profiles::{commit, put};
use crate::common::server::{TestServer, listener_to_come_back_to, memory_store};
use crate::common::soon;
use crate::proxy::{Loss, Proxy};
use crate::*;

/// The ids of the events until so many have come.
async fn events(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    // Together, because heartbeats come for ever.
    soon(async {
        while ids.len() < count {
            let message = watch.try_next().await.unwrap().unwrap();
            ids.extend(message.events.into_iter().map(|event| event.id));
        }
    })
    .await;
    ids
}

#[tokio::test]
async fn a_watch_goes_on_where_the_connection_was_lost() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing(store.clone(), 100).await;
    let proxy = Proxy::to(server.address()).await;
    let mut watch = client(proxy.address).watch(WatchOptions::default());
    let first = soon(watch.try_next()).await.unwrap().unwrap();
    assert!(first.events.is_empty() && !first.token.is_empty());
    let mut seen = Vec::new();
    for round in 0..5 {
        proxy.lose(Loss::MessageAfter(round % 2));
        for number in 0..10 {
            commit(&*store, vec![put(&format!("{round}-{number}"), "", "")]).await;
        }
        seen.extend(events(&mut watch, 10).await);
        soon(async {
            while proxy.cuts() <= round {
                tokio::task::yield_now().await
            }
        })
        .await;
    }
    let expected: Vec<_> = (0..50).map(|number| format!("{}-{}", number / 10, number % 10)).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_watch_outlasts_a_server_that_is_replaced() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing_on(listener_to_come_back_to().await, store.clone(), 100).await;
    let address = server.address();
    let mut watch = client(address).watch(WatchOptions { include_snapshot: true, ..WatchOptions::default() });
    while !soon(watch.try_next()).await.unwrap().unwrap().current {}
    server.services.end_watches();
    commit(&*store, vec![put("meanwhile", "", "")]).await;
    // A watch of a draining server is refused, with the reason, when there is no time to wait.
    let mut deadline = Duration::from_millis(50);
    let error = loop {
        let hasty = builder(address).deadline(deadline).build().unwrap();
        match soon(hasty.watch(WatchOptions::default()).try_next()).await.unwrap_err() {
            // On a busy machine there is no time for the refusal either.
            error if error.reason() != "DRAINING" && deadline < PATIENCE => deadline *= 2,
            error => break error,
        }
    };
    assert!(matches!(error, ClientError::Unavailable(_)) && error.reason() == "DRAINING", "{error}");
    let next = tokio::spawn(async move { events(&mut watch, 1).await });
    drop(server);
    let listener = soon(async {
        loop {
            match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    let _server = TestServer::sharing_on(listener, store, 100).await;
    assert_eq!(next.await.unwrap(), ["meanwhile"]);
}

#[tokio::test]
async fn a_watch_that_is_too_old_says_where_a_new_one_can_start() {
    let store = Arc::new(memory_store().keeping_changes(5));
    let server = TestServer::sharing(store.clone(), 100).await;
    let token =
        soon(client(server.address()).watch(WatchOptions::default()).try_next()).await.unwrap().unwrap().token;
    commit(&*store, (0..20).map(|number| put(&number.to_string(), "", "")).collect()).await;
    let server = TestServer::sharing(store, 100).await;
    let client = client(server.address());
    let from = |token: &str| WatchOptions { from: WatchFrom::Token(token.into()), ..WatchOptions::default() };
    let error = soon(client.watch(from(&token)).try_next()).await.unwrap_err();
    assert!(matches!(error, ClientError::OutOfRange(_)) && error.reason() == "FEED_TRUNCATED", "{error}");
    let mut rest = client.watch(from(&error.metadata()["oldest_token"]));
    assert_eq!(events(&mut rest, 5).await, ["15", "16", "17", "18", "19"]);
}
