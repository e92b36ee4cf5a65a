//! An import whose reader dies: no line behind is known, so it has not come to its end.

use std::sync::Arc;

use clap::Parser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cli::bulk::window::{Found, Place};
use crate::client::Client;
use crate::engine::EngineRules;
use crate::engine::memory::MemoryStore;
use crate::model::Canonicalization;
use crate::server::serving::{self, ServingLimits};
use crate::store::NoObserver;

#[derive(Parser)]
struct Only {
    #[command(flatten)]
    import: ImportArgs,
}

/// A server over an empty store in memory, and its address. It ends with the guard.
async fn serve() -> (String, tokio_util::sync::DropGuard) {
    let store = Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)));
    let services = crate::rpc::services(store, None, Canonicalization::default()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    tokio::spawn(serving::serve(listener, services.stack(), 1, ServingLimits::default(), shutdown.clone()));
    (address, shutdown.drop_guard())
}

fn line(number: u64) -> Found<Profile> {
    let text = format!("{{\"id\":\"{number}\"}}\n").into_bytes();
    let profile = Profile { id: number.to_string(), ..Profile::default() };
    let end = Place { offset: 10 * number, lines: number, checksum: 0 };
    Found { content: Ok(profile), text, line: number, end }
}

/// An import of two lines, with or without the mark of the end behind them.
async fn import(has_end: bool) -> (anyhow::Result<Course>, u64) {
    let (address, _serving) = serve().await;
    let dir = tempfile::tempdir().unwrap();
    let arguments = Only::parse_from(["import", "-", "--addr", &address]).import;
    let client = Client::builder(address).build().unwrap();
    let (sender, batches) = mpsc::channel(4);
    sender.send(Ok(vec![line(1), line(2)])).await.unwrap();
    if has_end {
        sender.send(Ok(Vec::new())).await.unwrap();
    }
    drop(sender);
    let rejects = Rejects::begin_new(&dir.path().join("rejects")).unwrap();
    let course = Course::new(Progress::for_tests(), None, rejects, 0);
    let ended = arguments
        .transfer(client.clone(), arguments.options(), batches, course, &Meter::hidden(), Interrupt::never())
        .await;
    (ended, client.count("", false).await.unwrap())
}

#[tokio::test]
async fn a_reader_that_fails_is_not_taken_for_the_end_of_the_file() {
    let (ended, _) = import(false).await;
    let error = format!("{:#}", ended.err().expect("the import must not succeed"));
    assert!(error.contains("its reader has failed") && error.contains("broke off"), "{error}");
    let (ended, stored) = import(true).await;
    assert_eq!((ended.unwrap().progress().written, stored), (2, 2));
}
