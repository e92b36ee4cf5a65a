//! Bounds of pages, and cursors.

use bytes::Bytes;
use profilestore::store::{Cursor, DomainOrder, Page, PageBounds, Scope, Store, StoreError};

use crate::common::profiles::*;
use crate::common::stacks::Stack;

/// Ten profiles of growing size in two domains, and one without an address.
async fn ten_profiles(store: &impl Store) {
    let mut writes = vec![put("without", "", "")];
    for number in 0..10 {
        let domain = if number < 5 { "x.example" } else { "sub.x.example" };
        let address = format!("local{number}@{domain}");
        writes.push(put(&format!("user-{number}"), &address, &"n".repeat(20 * number)));
    }
    commit(store, writes).await;
}

/// Every kind of scope that holds at least two of the ten profiles.
fn scopes() -> [Scope; 4] {
    [Scope::All, scope("x.example"), subtree("x.example"), subtree("example")]
}

async fn page(store: &impl Store, scope: &Scope, after: Option<&Cursor>, max_records: usize) -> Page {
    store.list(scope, after, PageBounds { max_records, max_bytes: usize::MAX }).await.unwrap()
}

pub async fn a_page_is_bounded_by_bytes_and_count<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    ten_profiles(store).await;
    for scope in scopes() {
        let whole = store.list(&scope, None, UNBOUNDED).await.unwrap().records;
        for fit in 1..=whole.len() {
            let records = page(store, &scope, None, fit).await.records;
            assert_eq!(records, whole[..fit]);
            let max_bytes: usize = whole[..fit].iter().map(PageBounds::cost).sum();
            let exactly = PageBounds { max_records: usize::MAX, max_bytes };
            assert_eq!(store.list(&scope, None, exactly).await.unwrap().records, whole[..fit]);
            let too_little = PageBounds { max_records: usize::MAX, max_bytes: max_bytes - 1 };
            assert_eq!(store.list(&scope, None, too_little).await.unwrap().records.len(), (fit - 1).max(1));
        }
    }
}

pub async fn a_page_holds_at_least_one_record<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    ten_profiles(store).await;
    for scope in scopes() {
        let smallest = PageBounds { max_records: 1, max_bytes: 0 };
        assert_eq!(store.list(&scope, None, smallest).await.unwrap().records.len(), 1);
        let all = store.list(&scope, None, UNBOUNDED).await.unwrap().records;
        assert_eq!(all_pages(store, &scope, smallest).await.unwrap(), all);
    }
}

pub async fn without_a_cursor_the_scope_is_exhausted<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    assert_eq!(page(store, &Scope::All, None, 1).await, Page { records: Vec::new(), next: None });
    ten_profiles(store).await;
    for scope in scopes() {
        let all = store.list(&scope, None, UNBOUNDED).await.unwrap();
        assert_eq!(all.next, None);
        assert!(page(store, &scope, None, all.records.len() - 1).await.next.is_some());
        for max_records in 1..=12 {
            let bounds = PageBounds { max_records, max_bytes: usize::MAX };
            assert_eq!(all_pages(store, &scope, bounds).await.unwrap(), all.records);
        }
        for max_bytes in [50, 100, 200, 400, 1000] {
            let bounds = PageBounds { max_records: usize::MAX, max_bytes };
            assert_eq!(all_pages(store, &scope, bounds).await.unwrap(), all.records);
        }
    }
}

pub async fn a_profile_that_stays_in_its_place_is_met_exactly_once<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    ten_profiles(store).await;
    for (round, scope) in scopes().into_iter().enumerate() {
        let stays = listed(store, &scope).await;
        let (mut met, mut after) = (Vec::new(), None);
        for step in 0.. {
            let page = page(store, &scope, after.as_ref(), 2).await;
            met.extend(ids_of(&page.records));
            after = page.next;
            if after.is_none() {
                break;
            }
            // What comes and goes before, behind and between; and a change that leaves a profile in its place.
            let comes = |key: &str, local: &str| put(&format!("{key}{round}"), &format!("{local}@x.example"), "");
            commit(store, vec![comes("!first", "a"), comes("user-3b", "local3b"), comes("~last", "z")]).await;
            store_one(store, put("user-1", "local1@x.example", &format!("{round} {step}"))).await;
            let goes = |key: &str| delete(&format!("{key}{round}"));
            commit(store, vec![goes("!first"), goes("user-3b"), goes("~last")]).await;
        }
        assert_eq!(met, stays);
    }
}

pub async fn a_record_on_a_page_is_current_and_in_the_scope<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    ten_profiles(store).await;
    let first = page(store, &scope("x.example"), None, 2).await;
    store_one(store, put("user-2", "moved@y.example", "")).await;
    let changed = store_one(store, put("user-3", "local3@x.example", "changed")).await;
    let second = page(store, &scope("x.example"), first.next.as_ref(), 2).await;
    assert_eq!(ids_of(&second.records), ["user-3", "user-4"]);
    assert_eq!(second.records[0], changed);
}

pub async fn a_cursor_survives_deletes<K: Stack>() {
    for scope in scopes() {
        let stack = K::open(Default::default()).await;
        let store = stack.store();
        ten_profiles(store).await;
        let all = listed(store, &scope).await;
        let next = page(store, &scope, None, 2).await.next.unwrap();
        // The one that the cursor points at, the one before it and the one after it.
        commit(store, all[..3].iter().map(|key| delete(key)).collect()).await;
        assert_eq!(ids_of(&page(store, &scope, Some(&next), 100).await.records), all[3..]);
        commit(store, all.iter().map(|key| delete(key)).collect()).await;
        assert_eq!(page(store, &scope, Some(&next), 100).await, Page { records: Vec::new(), next: None });
    }
}

pub async fn a_cursor_survives_a_restart<K: Stack>() {
    let stack = K::open(Default::default()).await;
    ten_profiles(stack.store()).await;
    let mut cursors = Vec::new();
    for scope in scopes() {
        cursors.push(page(stack.store(), &scope, None, 3).await.next.unwrap());
    }
    let stack = stack.reopen().await;
    for (scope, cursor) in scopes().iter().zip(&cursors) {
        let rest = page(stack.store(), scope, Some(cursor), 100).await.records;
        assert_eq!(ids_of(&rest), listed(stack.store(), scope).await[3..]);
    }
}

pub async fn a_cursor_of_another_scope_is_refused<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    ten_profiles(store).await;
    commit(store, vec![put("y1", "same@y.example", ""), put("y2", "same@y.example", "")]).await;
    // None of these lies inside another, so no place in one is a place in another.
    let apart = [Scope::All, scope("x.example"), scope("sub.x.example"), subtree("y.example")];
    for from in &apart {
        let cursor = page(store, from, None, 1).await.next.unwrap();
        for to in apart.iter().filter(|to| *to != from) {
            let refused = store.list(to, Some(&cursor), UNBOUNDED).await;
            assert_eq!(refused, Err(StoreError::InvalidCursor), "from {from:?} to {to:?}");
        }
    }
    let of_email = page(store, &email("same@y.example"), None, 1).await.next.unwrap();
    for to in [Scope::All, scope("x.example"), email("other@y.example")] {
        assert_eq!(store.list(&to, Some(&of_email), UNBOUNDED).await, Err(StoreError::InvalidCursor));
    }
}

pub async fn a_cursor_that_nobody_made_is_refused<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    ten_profiles(store).await;
    for garbage in ["", "\0", "a b", "\u{1}", "com", "\0\0\0\0", &"x".repeat(5000)] {
        let cursor = Cursor(Bytes::copy_from_slice(garbage.as_bytes()));
        for scope in scopes() {
            if scope == Scope::All && garbage == "com" {
                continue; // A well-formed id is a well-formed cursor of all profiles.
            }
            let refused = store.list(&scope, Some(&cursor), UNBOUNDED).await;
            assert_eq!(refused, Err(StoreError::InvalidCursor), "{garbage:?} in {scope:?}");
        }
        let refused = store.list_domains(None, DomainOrder::Index, Some(&cursor), 10).await;
        assert_eq!(refused, Err(StoreError::InvalidCursor), "{garbage:?} among domains");
    }
}
