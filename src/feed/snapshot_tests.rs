use std::collections::HashSet;
use std::sync::Arc;

use futures_util::FutureExt;
use prost::Message;

use super::*;
use crate::engine::EngineRules;
use crate::engine::memory::MemoryStore;
use crate::feed::{Feed, Filter, MAX_MESSAGE_BYTES};
use crate::model::{Canonicalization, Draft, Precondition, Profile, Write};
use crate::pb::ProfileEvent;
use crate::store::{Commit, NoObserver};

const OLD: usize = 3000;

/// Puts profiles; only with another version it changes them.
async fn put_many(store: &MemoryStore, prefix: &str, count: usize, version: usize) {
    let put = |number: usize| {
        let (id, display_name) = (format!("{prefix}{number}"), version.to_string());
        let profile = Profile { id, display_name, ..Profile::default() };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
        Write::put(draft, Precondition::None)
    };
    for start in (0..count).step_by(100) {
        store.commit(Commit::all((start..count.min(start + 100)).map(put).collect())).await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_writers_outrun_is_sent_changes_until_it_has_caught_up_and_then_profiles() {
    let store = Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)));
    put_many(&store, "a-old", OLD, 0).await;
    let feed = Feed::start(store.clone(), 10);
    let mut watch = feed.watch_with_snapshot(Filter::all()).await.unwrap();
    put_many(&store, "b-new", 2 * FEW_CHANGES as usize, 0).await;
    let (mut seen, mut early, mut is_current) = (HashSet::new(), 0, false);
    for step in 0.. {
        let outrun = step < 100;
        if outrun {
            // As many as a step sends.
            put_many(&store, "b-new", MESSAGE.max_changes, step + 1).await;
        }
        match watch.advance(MAX_MESSAGE_BYTES).await.unwrap() {
            Step::Batch(batch) => {
                is_current = batch.current;
                let ids = batch.events.iter().map(|event| ProfileEvent::decode(&event[..]).unwrap().id);
                early += usize::from(outrun) * ids.clone().filter(|id| id.starts_with("a-old")).count();
                seen.extend(ids);
            }
            Step::Scanned => tokio::task::yield_now().await,
            Step::UpToDate => assert!(!outrun, "the writers are faster"),
            Step::TooLarge => unreachable!("nothing is"),
        }
        if is_current {
            break;
        }
    }
    assert_eq!(early, 0, "for a page of profiles everything that it is behind would be read again");
    assert_eq!(seen.len(), OLD + 2 * FEW_CHANGES as usize, "the snapshot is complete");
}

#[tokio::test]
async fn who_counts_what_is_left_and_who_writes_do_not_wait_for_each_other_for_ever() {
    let store = Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)));
    let feed = Feed::start(store.clone(), 10);
    let watch = feed.watch_with_snapshot(Filter::all()).await.unwrap();
    let (ended, has_ended) = std::sync::mpsc::channel();
    let others_ended = ended.clone();
    // Threads, since one that waits for a lock for ever does not let a runtime end.
    std::thread::spawn(move || {
        for _ in 0..20_000 {
            watch.is_far_behind();
            feed.slowest_lag();
        }
        let _ = ended.send(());
    });
    std::thread::spawn(move || {
        for version in 0..20_000 {
            put_many(&store, "a", 1, version).now_or_never().expect("memory does not wait");
        }
        let _ = others_ended.send(());
    });
    for _ in 0..2 {
        has_ended.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for a lock");
    }
}
