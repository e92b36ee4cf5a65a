//! The changes after a position.

use std::sync::Arc;

use profilestore::model::Precondition;
use profilestore::store::{
    ChangeBounds, Commit, CommittedChange, Position, RequestId, RequestMark, Scope, Store, StoreError,
};
use profilestore::trace::TraceParent;

use crate::common::profiles::*;
use crate::common::soon;
use crate::common::stacks::Stack;

const UNBOUNDED_CHANGES: ChangeBounds =
    ChangeBounds { max_changes: usize::MAX, max_bytes: usize::MAX, through: None };

/// All changes after a position, by pages of these bounds.
async fn all_after(store: &impl Store, mut after: Position, bounds: ChangeBounds) -> Vec<CommittedChange> {
    let mut found = Vec::new();
    loop {
        let page = store.changes_after(&after, bounds).await.unwrap();
        assert!(page.changes.len() <= bounds.max_changes);
        found.extend(page.changes);
        if page.next == after {
            return found;
        }
        after = page.next;
    }
}

async fn everything(store: &impl Store) -> Vec<CommittedChange> {
    all_after(store, store.oldest_position().await.unwrap(), UNBOUNDED_CHANGES).await
}

/// What a change did, in short: the id, then the new display name or a dash.
fn what(change: &CommittedChange) -> String {
    let name = change.record.as_ref().map_or("-".to_owned(), |record| profile(record).display_name);
    format!("{}{name}", change.id)
}

/// A dozen changes: single ones, groups, and a commit that changes nothing.
async fn a_dozen_changes(store: &impl Store) {
    commit(store, vec![put("a", "a@x.example", "1")]).await;
    commit(store, (0..5).map(|number| put(&format!("g{number}"), "", "1")).collect()).await;
    commit(store, vec![put("a", "a@x.example", "1"), delete("none")]).await;
    commit(store, vec![put("a", "a@y.example", "2"), put("b", "", "1"), delete("a")]).await;
    let mark = RequestMark { id: RequestId([7; 16]), fingerprint: 1, made_ids: Box::default() };
    store.commit(Commit::all(vec![put("b", "", "1")]).for_request(Some(mark))).await.unwrap();
    for name in ["2", "3", "4"] {
        commit(store, vec![put("b", "", name)]).await;
    }
}

const DOZEN: [&str; 12] = ["a1", "g01", "g11", "g21", "g31", "g41", "a2", "b1", "a-", "b2", "b3", "b4"];

pub async fn changes_come_in_the_order_of_their_commits<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    assert_eq!(everything(store).await, []);
    a_dozen_changes(store).await;
    let changes = everything(store).await;
    assert_eq!(changes.iter().map(what).collect::<Vec<_>>(), DOZEN);
    let mut positions: Vec<_> = changes.iter().map(|change| change.position).collect();
    assert!(changes.windows(2).all(|pair| pair[0].time <= pair[1].time));
    positions.dedup();
    assert_eq!(positions.len(), 12, "each change has its own position");
    assert_eq!(changes, everything(store).await, "every call agrees");
}

pub async fn a_change_says_what_became_of_the_profile<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let created = store_one(store, put("a", "a@x.example", "1")).await;
    let renamed = store_one(store, put("a", "a@x.example", "2")).await;
    let moved = store_one(store, put("a", "a@y.example", "2")).await;
    let hidden = store_one(store, put("a", "", "2")).await;
    let shown = store_one(store, put("a", "a@y.example", "2")).await;
    commit(store, vec![delete("a"), put("b", "", ""), delete("b")]).await;
    let changes = everything(store).await;
    let key = |record: &profilestore::model::Record| record.index_key();
    let expected = [
        (Some(created.clone()), None),
        (Some(renamed), None),
        (Some(moved.clone()), key(&created)),
        (Some(hidden), key(&moved)),
        (Some(shown.clone()), None),
        (None, key(&shown)),
    ];
    for (change, (record, previous)) in changes.iter().zip(expected) {
        assert_eq!((&change.record, &change.previous_index_key), (&record, &previous));
        if let Some(record) = record {
            assert_eq!(store.position_of(&record), change.position);
            assert_eq!(record.update_time().unwrap(), change.time.to_timestamp());
        }
    }
    assert_eq!((changes[7].record.clone(), changes[7].previous_index_key.clone()), (None, None));
    assert_eq!(changes.len(), 8);
}

pub async fn a_change_keeps_the_trace_of_its_commit<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert!(trace.is_some());
    commit(stack.store(), vec![put("a", "a@x.example", "1")]).await;
    let traced = Commit { trace, ..Commit::all(vec![put("b", "", "1"), put("c", "", "1")]) };
    stack.store().commit(traced).await.unwrap();
    commit(stack.store(), vec![delete("b")]).await;
    let stack = stack.reopen().await;
    let traces: Vec<_> = everything(stack.store()).await.iter().map(|change| change.trace).collect();
    assert_eq!(traces, [None, trace, trace, None]);
}

pub async fn pages_of_changes_are_bounded_and_have_no_gap<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    a_dozen_changes(store).await;
    let (start, all) = (store.oldest_position().await.unwrap(), everything(store).await);
    for max_changes in 1..=13 {
        let bounds = ChangeBounds { max_changes, ..UNBOUNDED_CHANGES };
        assert_eq!(all_after(store, start, bounds).await, all, "by {max_changes}");
    }
    for max_bytes in [0, 1, 200, 300, 500, 1000, 2000] {
        let bounds = ChangeBounds { max_bytes, ..UNBOUNDED_CHANGES };
        assert_eq!(all_after(store, start, bounds).await, all, "by {max_bytes} bytes");
        let page = store.changes_after(&start, bounds).await.unwrap();
        let bytes: usize = page.changes.iter().map(CommittedChange::cost).sum();
        assert!(bytes <= max_bytes || page.changes.len() == 1);
    }
    for (index, change) in all.iter().enumerate() {
        assert_eq!(all_after(store, change.position, UNBOUNDED_CHANGES).await, all[index + 1..]);
    }
}

pub async fn a_page_of_changes_ends_at_the_position_asked_for<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    a_dozen_changes(store).await;
    let (start, all) = (store.oldest_position().await.unwrap(), everything(store).await);
    for (index, change) in all.iter().enumerate() {
        for max_changes in [1, 4, usize::MAX] {
            let bounds = ChangeBounds { max_changes, through: Some(change.position), ..UNBOUNDED_CHANGES };
            assert_eq!(all_after(store, start, bounds).await, all[..=index]);
            assert_eq!(all_after(store, change.position, bounds).await, []);
        }
    }
    // A head of a commit without changes is reached too.
    let head = store.head().await.unwrap();
    let bounds = ChangeBounds { through: Some(head), ..UNBOUNDED_CHANGES };
    assert_eq!(store.changes_after(&start, bounds).await.unwrap().next, head);
}

pub async fn a_position_is_good_over_a_restart<K: Stack>() {
    let stack = K::open(Default::default()).await;
    a_dozen_changes(stack.store()).await;
    let all = everything(stack.store()).await;
    let head = stack.store().head().await.unwrap();
    let stack = stack.reopen().await;
    let store = stack.store();
    assert_eq!(store.head().await.unwrap(), head);
    assert_eq!(everything(store).await, all);
    commit(store, vec![put("b", "", "5")]).await;
    let after = all_after(store, all[10].position, UNBOUNDED_CHANGES).await;
    assert_eq!(after.iter().map(what).collect::<Vec<_>>(), ["b4", "b5"]);
    assert_eq!(all_after(store, head, UNBOUNDED_CHANGES).await, after[1..]);
}

pub async fn a_position_that_this_store_did_not_make_is_refused<K: Stack>() {
    let (stack, other) = (K::open(Default::default()).await, K::open(Default::default()).await);
    let store = stack.store();
    for store in [store, other.store()] {
        commit(store, vec![put("a", "", "")]).await;
    }
    // The position after the head does not exist yet.
    let mut bytes = store.head().await.unwrap().as_bytes().to_vec();
    *bytes.last_mut().unwrap() += 1;
    for position in [b"".as_slice(), b"x", &[0; 16], &bytes].map(|bytes| Position::new(bytes).unwrap()) {
        let answer = store.changes_after(&position, UNBOUNDED_CHANGES).await;
        assert_eq!(answer, Err(StoreError::InvalidPosition), "{position:?}");
    }
    let foreign = other.store().head().await.unwrap();
    let answer = store.changes_after(&foreign, UNBOUNDED_CHANGES).await;
    assert_eq!(answer, Err(StoreError::InvalidPosition));
    let bounds = ChangeBounds { through: Some(foreign), ..UNBOUNDED_CHANGES };
    let answer = store.changes_after(&store.oldest_position().await.unwrap(), bounds).await;
    assert_eq!(answer, Err(StoreError::InvalidPosition));
}

pub async fn the_head_wakes_those_who_wait_for_changes<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let mut head = store.watch_head();
    for number in 0..20 {
        let before = *head.borrow_and_update();
        store_one(store, put("a", "", &number.to_string())).await;
        assert!(head.has_changed().unwrap(), "before the writer is answered");
        soon(head.changed()).await.unwrap();
        let after = *head.borrow();
        assert_eq!(store.head().await.unwrap(), after);
        let page = store.changes_after(&before, UNBOUNDED_CHANGES).await.unwrap();
        assert_eq!((page.changes.len(), page.next), (1, after));
    }
    commit(store, vec![put("a", "", "19"), delete("none")]).await;
    assert!(!head.has_changed().unwrap(), "nothing has changed");
}

/// A writer of atomic pairs, and a reader that never sees a change ahead of reads, nor reads ahead of the head.
pub async fn a_change_is_never_ahead_of_reads_nor_reads_of_the_head<K: Stack>() {
    let stack = Arc::new(K::open(Default::default()).await);
    let writer = tokio::spawn({
        let stack = stack.clone();
        async move {
            for number in 0..300 {
                let (name, key) = (number.to_string(), format!("k{}", number % 7));
                let pair = vec![put(&key, "k@x.example", &name), put("both", "", &name)];
                stack.store().commit(Commit::all(pair)).await.unwrap();
            }
        }
    });
    let store = stack.store();
    let (mut after, mut seen) = (store.oldest_position().await.unwrap(), Vec::new());
    while seen.len() < 600 {
        let bounds = ChangeBounds { max_changes: 3, ..UNBOUNDED_CHANGES };
        let page = store.changes_after(&after, bounds).await.unwrap();
        for change in &page.changes {
            let now = store.get(&change.id).await.unwrap().expect("what a change shows a read shows");
            assert!(now.revision() >= change.record.as_ref().unwrap().revision());
        }
        after = page.next;
        seen.extend(page.changes);
        for record in store.list(&Scope::All, None, UNBOUNDED).await.unwrap().records {
            let head = store.head().await.unwrap();
            let bounds = ChangeBounds { through: Some(head), ..UNBOUNDED_CHANGES };
            let after = store.changes_after(&store.position_of(&record), bounds).await;
            assert!(after.is_ok(), "the head covers every change that a read has shown: {after:?}");
        }
    }
    writer.await.unwrap();
    let names: Vec<_> = seen.iter().map(|change| profile(change.record.as_ref().unwrap()).display_name).collect();
    let expected: Vec<_> = (0..300).flat_map(|number| [number.to_string(), number.to_string()]).collect();
    assert_eq!(names, expected, "a pair has nothing between");
    assert!(commit_one(store, put_if("k0", "", "", Precondition::MustBeAbsent)).await.is_err());
}
