//! Checks and backups, of which one goes on at a time.

use std::future::Future;
use std::io::Read;
use std::task::Poll;

use profilestore::store::{Store, StoreError};

use crate::common::profiles::*;
use crate::common::stacks::Stack;

pub async fn one_check_goes_on_at_a_time<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let writes = (0..100).map(|number| put(&format!("user-{number:02}"), "a@x.example", "")).collect();
    commit(store, writes).await;
    // One that has ended by the time the other begins is no other one.
    for round in 0.. {
        assert!(round < 1000, "no check was ever refused");
        let mut first = Box::pin(store.verify());
        match std::future::poll_fn(|context| Poll::Ready(first.as_mut().poll(context))).await {
            Poll::Ready(report) => {
                assert_eq!(report.unwrap().profiles, 100);
                // In memory a check is one step, and nothing comes beside it.
                if !K::DURABLE {
                    break;
                }
            }
            Poll::Pending => {
                let second = store.verify().await;
                assert_eq!(first.await.unwrap().profiles, 100, "the first one goes on");
                if second.map(|report| report.profiles) == Err(StoreError::Overloaded) {
                    break;
                }
            }
        }
    }
    assert_eq!(store.verify().await.unwrap().problems, []);
}

pub async fn a_backup_is_one_at_a_time_or_there_are_none<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    commit(store, vec![put("a", "a@x.example", ""), put("b", "", "")]).await;
    if !K::DURABLE {
        assert_eq!(store.backup().await.unwrap_err(), StoreError::NoBackups);
        return;
    }
    let mut backup = store.backup().await.unwrap();
    assert_eq!(backup.profiles, 2);
    assert_eq!(store.backup().await.unwrap_err(), StoreError::Overloaded);
    commit(store, vec![put("c", "", "")]).await;
    let mut content = Vec::new();
    backup.read_to_end(&mut content).unwrap();
    assert_eq!(content.len() as u64, backup.bytes);
    drop(backup);
    assert_eq!(store.backup().await.unwrap().profiles, 3);
}
