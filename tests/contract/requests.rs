//! What a mark on a commit promises: a repeated request is not made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use profilestore::engine::EngineRules;
use profilestore::model::{Outcome, Precondition, ProfileId, Record};
use profilestore::store::{Clock, Commit, RequestId, RequestMark, Store, StoreError};

use crate::common::profiles::*;
use crate::common::stacks::Stack;

fn mark(number: u8, fingerprint: u64) -> Option<RequestMark> {
    Some(RequestMark { id: RequestId([number; 16]), fingerprint, made_ids: Box::default() })
}

/// What a repetition is answered with.
fn repeated(outcome: &Outcome) -> Option<&Record> {
    match outcome {
        Outcome::Repeated(record) => record.as_ref(),
        other => panic!("made anew: {other:?}"),
    }
}

pub async fn a_repeated_request_is_not_made_again<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let writes = || vec![append("a", "+", Precondition::None), append("b", "+", Precondition::None)];
    for make in [Commit::all, Commit::each] {
        let request = || make(writes()).for_request(mark(1, 7));
        store.commit(request()).await.unwrap();
        let again = store.commit(request()).await.unwrap();
        assert!(again.iter().all(|outcome| matches!(outcome, Ok(Outcome::Repeated(Some(_))))), "{again:?}");
        assert_eq!(name(store, "a").await.as_deref(), Some("+"));
    }
    // Without a mark it is another request.
    store.commit(Commit::all(writes())).await.unwrap();
    assert_eq!(name(store, "a").await.as_deref(), Some("++"));
}

pub async fn a_repetition_shows_the_profile_as_it_now_is<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let request = || Commit::each(vec![put("a", "", "first")]).for_request(mark(1, 7));
    store.commit(request()).await.unwrap();
    store_one(store, put("a", "", "second")).await;
    let again = store.commit(request()).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(profile(repeated(&again).unwrap()).display_name, "second");
    store.commit(Commit::each(vec![delete("a")])).await.unwrap();
    let again = store.commit(request()).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(repeated(&again), None);
    assert_eq!(name(store, "a").await, None);
}

pub async fn a_repeated_delete_shows_nothing_of_what_was_made_since<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    store_one(store, put("a", "", "first")).await;
    let request = || Commit::all(vec![delete("a")]).for_request(mark(1, 7));
    store.commit(request()).await.unwrap();
    store_one(store, put("a", "", "somebody else's")).await;
    let again = store.commit(request()).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(again, Outcome::Repeated(None));
    assert_eq!(name(store, "a").await.as_deref(), Some("somebody else's"));
}

pub async fn a_request_id_of_another_request_is_refused<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    store.commit(Commit::all(vec![put("a", "", "A")]).for_request(mark(1, 7))).await.unwrap();
    let other = Commit::all(vec![put("b", "", "B")]).for_request(mark(1, 8));
    assert_eq!(store.commit(other).await, Err(StoreError::RequestIdReused));
    assert_eq!(name(store, "b").await, None);
}

pub async fn a_refused_request_is_not_remembered<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    for (number, make) in [(1, Commit::all as fn(_) -> _), (2, Commit::each)] {
        let key = format!("a{number}");
        let request = || {
            let writes = vec![put("x", "", &key), append(&key, "+", Precondition::MustExist)];
            make(writes).for_request(mark(number, 7))
        };
        let refused = store.commit(request()).await;
        assert!(refused.is_err() || refused.unwrap()[1].is_err());
        store_one(store, put(&key, "", "A")).await;
        store.commit(request()).await.unwrap();
        assert_eq!(name(store, &key).await.as_deref(), Some("A+"));
    }
}

pub async fn a_request_that_found_nothing_to_do_is_remembered<K: Stack>() {
    let mut stack = K::open(Default::default()).await;
    let request = || Commit::all(vec![put("a", "", "A"), delete("none")]).for_request(mark(1, 7));
    store_one(stack.store(), put("a", "", "A")).await;
    stack.store().commit(request()).await.unwrap();
    store_one(stack.store(), put("a", "", "B")).await;
    stack.store().commit(request()).await.unwrap();
    assert_eq!(name(stack.store(), "a").await.as_deref(), Some("B"));
    stack = stack.reopen().await;
    stack.store().commit(request()).await.unwrap();
    assert_eq!(name(stack.store(), "a").await.as_deref(), Some("B"));
    store_one(stack.store(), put("a", "", "C")).await;
    assert_eq!(stack.store().verify().await.unwrap().problems, []);
}

pub async fn a_repetition_is_about_the_ids_that_were_made_first<K: Stack>() {
    let mut stack = K::open(Default::default()).await;
    let request = |made: &str| {
        let made_ids: Box<[ProfileId]> = [id(made)].into();
        let request = mark(1, 7).map(|mark| RequestMark { made_ids, ..mark });
        Commit::all(vec![put("named", "", "N"), put(made, "", "M")]).for_request(request)
    };
    stack.store().commit(request("made-first")).await.unwrap();
    for _ in 0..2 {
        let again = stack.store().commit(request("made-again")).await.unwrap();
        let about: Vec<_> =
            again.iter().map(|outcome| profile(repeated(outcome.as_ref().unwrap()).unwrap()).id).collect();
        assert_eq!(about, ["named", "made-first"]);
        assert_eq!(name(stack.store(), "made-again").await, None);
        stack = stack.reopen().await;
    }
}

pub async fn requests_are_remembered_over_a_restart<K: Stack>() {
    let mut stack = K::open(Default::default()).await;
    let request = |number: u8, fingerprint: u64| {
        let write = append(&format!("a{number}"), "+", Precondition::None);
        Commit::all(vec![write]).for_request(mark(number, fingerprint))
    };
    for number in 0..20 {
        stack.store().commit(request(number, 7)).await.unwrap();
    }
    for _ in 0..2 {
        stack = stack.reopen().await;
        for number in 0..20 {
            stack.store().commit(request(number, 7)).await.unwrap();
            assert_eq!(name(stack.store(), &format!("a{number}")).await.as_deref(), Some("+"));
            assert_eq!(stack.store().commit(request(number, 8)).await, Err(StoreError::RequestIdReused));
        }
    }
}

pub async fn a_request_is_forgotten_after_ten_minutes<K: Stack>() {
    let seconds = Arc::new(AtomicU64::new(1_000_000));
    let ticking = seconds.clone();
    let clock = Clock::from_fn(move || SystemTime::UNIX_EPOCH + Duration::from_secs(ticking.load(Ordering::SeqCst)));
    let mut stack = K::open(EngineRules { clock, ..EngineRules::default() }).await;
    let request = || Commit::all(vec![append("a", "+", Precondition::None)]).for_request(mark(1, 7));
    for (later, expected) in [(0, "+"), (599, "+"), (1, "+"), (1, "++"), (600, "++"), (601, "+++")] {
        seconds.fetch_add(later, Ordering::SeqCst);
        stack.store().commit(request()).await.unwrap();
        assert_eq!(name(stack.store(), "a").await.as_deref(), Some(expected), "{later} s later");
        stack = stack.reopen().await;
    }
}

pub async fn of_simultaneous_repetitions_one_is_made<K: Stack>() {
    let stack = Arc::new(K::open(Default::default()).await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let stack = stack.clone();
        tasks.spawn(async move {
            let request = Commit::all(vec![append("a", "+", Precondition::None)]).for_request(mark(1, 7));
            stack.store().commit(request).await.unwrap().pop().unwrap().unwrap()
        });
    }
    let outcomes = tasks.join_all().await;
    let made = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Stored(_))).count();
    assert_eq!((made, name(stack.store(), "a").await.as_deref()), (1, Some("+")));
}

pub async fn a_request_is_forgotten_when_a_million_others_were_made<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let request = || Commit::all(vec![append("a", "+", Precondition::None)]).for_request(mark(0, 7));
    // Each id that was made for one counts as another.
    let made_ids: Box<[ProfileId]> = vec![id("i"); 49_999].into();
    store.commit(request()).await.unwrap();
    for number in 1..=20 {
        let again = store.commit(request()).await.unwrap().pop().unwrap().unwrap();
        assert!(repeated(&again).is_some(), "after {} others", (number - 1) * 50_000);
        let others =
            mark(u8::try_from(number).unwrap(), 7).map(|mark| RequestMark { made_ids: made_ids.clone(), ..mark });
        store.commit(Commit::all(vec![delete("none")]).for_request(others)).await.unwrap();
    }
    let anew = store.commit(request()).await.unwrap().pop().unwrap().unwrap();
    assert!(matches!(anew, Outcome::Stored(_)), "{anew:?}");
    assert_eq!(name(store, "a").await.as_deref(), Some("++"));
}
