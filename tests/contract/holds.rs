//! Holds: what keeps changes for somebody who must not be overtaken. That held changes are not trimmed is tested beside
//! each engine, which alone can be made to trim.

use profilestore::store::{Hold, HoldName, MAX_HOLDS, Position, Store, StoreError};

use crate::common::profiles::*;
use crate::common::stacks::Stack;

fn name(name: &str) -> HoldName {
    HoldName::new(name).unwrap()
}

fn held(name: &HoldName, position: Position, lag: u64) -> Hold {
    Hold { name: name.clone(), position, lag, lost: 0 }
}

/// The positions of the store's start and of each of some changes.
async fn some_changes(store: &impl Store) -> Vec<Position> {
    let mut positions = vec![store.head().await.unwrap()];
    for number in 0..5 {
        commit(store, vec![put("a", "", &number.to_string())]).await;
        positions.push(store.head().await.unwrap());
    }
    positions
}

pub async fn a_hold_is_where_its_name_was_moved_to_last<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    assert_eq!(store.holds().await, Ok(Vec::new()));
    let positions = some_changes(store).await;
    let (one, other) = (name("one"), name("other"));
    for at in [2, 5, 5, 0, 3] {
        store.hold(&one, &positions[at]).await.unwrap();
        assert_eq!(store.holds().await, Ok(vec![held(&one, positions[at], 5 - at as u64)]));
    }
    store.hold(&other, &positions[1]).await.unwrap();
    commit(store, vec![put("b", "", ""), put("c", "", "")]).await;
    let all = vec![held(&one, positions[3], 4), held(&other, positions[1], 6)];
    assert_eq!(store.holds().await, Ok(all), "in the order of their names");
}

pub async fn a_released_hold_is_gone<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let positions = some_changes(store).await;
    let (one, other) = (name("one"), name("other"));
    store.hold(&one, &positions[1]).await.unwrap();
    store.hold(&other, &positions[2]).await.unwrap();
    assert_eq!(store.release_hold(&one).await, Ok(true));
    assert_eq!(store.release_hold(&one).await, Ok(false));
    let stack = stack.reopen().await;
    assert_eq!(stack.store().holds().await, Ok(vec![held(&other, positions[2], 3)]));
    stack.store().hold(&one, &positions[0]).await.unwrap();
    assert_eq!(stack.store().holds().await.unwrap().len(), 2);
}

pub async fn a_hold_holds_over_a_restart<K: Stack>() {
    let mut stack = K::open(Default::default()).await;
    let positions = some_changes(stack.store()).await;
    for at in [1, 4, 2] {
        stack.store().hold(&name("one"), &positions[at]).await.unwrap();
        stack = stack.reopen().await;
        assert_eq!(stack.store().holds().await, Ok(vec![held(&name("one"), positions[at], 5 - at as u64)]));
    }
}

pub async fn a_hold_that_is_refused_stays_where_it_was<K: Stack>() {
    let (stack, other) = (K::open(Default::default()).await, K::open(Default::default()).await);
    let store = stack.store();
    let positions = some_changes(store).await;
    store.hold(&name("one"), &positions[4]).await.unwrap();
    let mut after_the_head = positions[5].as_bytes().to_vec();
    *after_the_head.last_mut().unwrap() += 1;
    let foreign = other.store().head().await.unwrap();
    for bad in [foreign, Position::new(&after_the_head).unwrap(), Position::new(b"x").unwrap()] {
        for name in [name("one"), name("two")] {
            assert_eq!(store.hold(&name, &bad).await, Err(StoreError::InvalidPosition));
        }
    }
    assert_eq!(store.holds().await, Ok(vec![held(&name("one"), positions[4], 1)]));
}

pub async fn there_are_only_so_many_holds<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let positions = some_changes(store).await;
    for number in 0..MAX_HOLDS {
        store.hold(&name(&format!("n{number}")), &positions[0]).await.unwrap();
    }
    let one_more = store.hold(&name("one-more"), &positions[1]).await;
    assert_eq!(one_more, Err(StoreError::TooManyHolds { limit: MAX_HOLDS }));
    store.hold(&name("n3"), &positions[1]).await.unwrap();
    store.release_hold(&name("n4")).await.unwrap();
    store.hold(&name("one-more"), &positions[1]).await.unwrap();
    assert_eq!(store.holds().await.unwrap().len(), MAX_HOLDS);
}
