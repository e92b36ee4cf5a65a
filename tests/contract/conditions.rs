//! Under which conditions a write is made.

use profilestore::engine::EngineRules;
use profilestore::model::{Etag, Outcome, Precondition, Rejection};
use profilestore::store::{Commit, Store, StoreError};

use crate::common::profiles::*;
use crate::common::stacks::Stack;

pub async fn must_be_absent_creates_only<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let first = store_one(store, put_if("a", "", "1", Precondition::MustBeAbsent)).await;
    for write in [
        put_if("a", "", "2", Precondition::MustBeAbsent),
        // The content does not matter: the profile is there.
        put_if("a", "", "1", Precondition::MustBeAbsent),
        append("a", "2", Precondition::MustBeAbsent),
        delete_if("a", Precondition::MustBeAbsent),
    ] {
        assert_eq!(commit_one(store, write).await, Err(Rejection::AlreadyExists));
    }
    assert_eq!(store.get(&id("a")).await.unwrap(), Some(first));
}

pub async fn must_exist_changes_only<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    for write in [
        put_if("a", "", "1", Precondition::MustExist),
        append("a", "1", Precondition::MustExist),
        delete_if("a", Precondition::MustExist),
    ] {
        assert_eq!(commit_one(store, write).await, Err(Rejection::NotFound));
    }
    assert_eq!(get(store, "a").await, None);
    store_one(store, put("a", "", "1")).await;
    store_one(store, put_if("a", "", "2", Precondition::MustExist)).await;
    assert!(matches!(commit_one(store, delete_if("a", Precondition::MustExist)).await, Ok(Outcome::Deleted(_))));
}

pub async fn must_match_takes_the_current_etag_only<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let never_made = Etag::from_caller("never made".into());
    assert_eq!(commit_one(store, delete_if("a", must_match(&never_made))).await, Err(Rejection::NotFound));
    let old = etag(&store_one(store, put("a", "", "1")).await);
    let current = etag(&store_one(store, put_if("a", "", "2", must_match(&old))).await);
    let mismatch = || Err(Rejection::EtagMismatch { current: current.clone() });
    for wrong in [&old, &never_made, &Etag::from_caller(String::new())] {
        assert_eq!(commit_one(store, put_if("a", "", "3", must_match(wrong))).await, mismatch());
        assert_eq!(commit_one(store, append("a", "3", must_match(wrong))).await, mismatch());
        assert_eq!(commit_one(store, delete_if("a", must_match(wrong))).await, mismatch());
    }
    assert_eq!(name(store, "a").await.as_deref(), Some("2"));
    // Of two writers that have read the same version, one wins.
    let outcomes = store
        .commit(Commit::each(vec![append("a", "+", must_match(&current)), append("a", "+", must_match(&current))]))
        .await
        .unwrap();
    assert!(outcomes[0].is_ok() && matches!(outcomes[1], Err(Rejection::EtagMismatch { .. })));
    assert_eq!(name(store, "a").await.as_deref(), Some("2+"));
}

pub async fn an_etag_of_a_former_life_of_a_profile_does_not_match<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let former = etag(&store_one(store, put("a", "", "1")).await);
    commit(store, vec![delete("a"), put("a", "", "1")]).await;
    let refused = commit_one(store, delete_if("a", must_match(&former))).await;
    assert!(matches!(refused, Err(Rejection::EtagMismatch { .. })));
}

pub async fn deleting_what_is_absent_is_no_change<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    assert_eq!(commit_one(store, delete("a")).await, Ok(Outcome::Absent));
    assert_eq!(commit_one(store, delete_if("a", Precondition::MustBeAbsent)).await, Ok(Outcome::Absent));
    store_one(store, put("a", "", "1")).await;
    assert!(matches!(commit_one(store, delete("a")).await, Ok(Outcome::Deleted(_))));
    assert_eq!(commit_one(store, delete("a")).await, Ok(Outcome::Absent));
}

pub async fn an_update_sees_the_current_profile_or_its_absence<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    for expected in ["x", "xx", "xxx"] {
        let record = store_one(store, append("a", "x", Precondition::None)).await;
        assert_eq!(profile(&record).display_name, expected);
        assert_eq!(name(store, "a").await.as_deref(), Some(expected));
    }
    store_one(store, put("a", "a@b.example", "y")).await;
    let record = store_one(store, append("a", "x", Precondition::None)).await;
    assert_eq!((profile(&record).display_name.as_str(), profile(&record).email.as_str()), ("yx", "a@b.example"));
}

pub async fn an_update_that_refuses_changes_nothing<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let before = store_one(store, put("a", "", "1")).await;
    for key in ["a", "b"] {
        assert!(matches!(commit_one(store, refuse(key)).await, Err(Rejection::Invalid(_))));
    }
    assert_eq!(store.get_many(&ids(["a", "b"])).await.unwrap(), [Some(before), None]);
}

fn unique_email() -> EngineRules {
    EngineRules { unique_email: true, ..EngineRules::default() }
}

pub async fn unique_email_refuses_the_second_profile_of_an_address<K: Stack>() {
    let stack = K::open(unique_email()).await;
    let store = stack.store();
    commit(store, vec![put("a", "ada@b.example", ""), put("b", "", ""), put("c", "", "")]).await;
    for address in ["ada@b.example", "Ada@B.Example"] {
        assert_eq!(commit_one(store, put("b", address, "")).await, Err(Rejection::EmailInUse), "{address}");
        assert_eq!(commit_one(store, put("new", address, "")).await, Err(Rejection::EmailInUse), "{address}");
    }
    store_one(store, put("b", "ada@sub.b.example", "")).await;
    commit(store, vec![delete("a")]).await;
    store_one(store, put("b", "ada@b.example", "")).await;
}

pub async fn unique_email_holds_within_one_commit<K: Stack>() {
    let stack = K::open(unique_email()).await;
    let store = stack.store();
    let both = || vec![put("a", "x@y.example", ""), put("b", "x@y.example", "")];
    let refused = StoreError::Rejected { index: 1, rejection: Rejection::EmailInUse };
    assert_eq!(store.commit(Commit::all(both())).await, Err(refused));
    assert_eq!(get(store, "a").await, None);
    let outcomes = store.commit(Commit::each(both())).await.unwrap();
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[1], Err(Rejection::EmailInUse));
}

pub async fn unique_email_lets_a_profile_keep_its_own_address<K: Stack>() {
    let stack = K::open(unique_email()).await;
    let store = stack.store();
    store_one(store, put("a", "x@y.example", "1")).await;
    store_one(store, put("a", "x@y.example", "2")).await;
    store_one(store, put("a", "X@Y.example", "3")).await;
    assert_eq!(listed(store, &email("x@y.example")).await, ["a"]);
}

pub async fn unique_email_lets_an_address_move_in_one_atomic_commit<K: Stack>() {
    let stack = K::open(unique_email()).await;
    let store = stack.store();
    store_one(store, put("a", "x@y.example", "")).await;
    store.commit(Commit::all(vec![delete("a"), put("b", "x@y.example", "")])).await.unwrap();
    assert_eq!(listed(store, &email("x@y.example")).await, ["b"]);
    store.commit(Commit::all(vec![put("b", "", ""), put("c", "x@y.example", "")])).await.unwrap();
    assert_eq!(listed(store, &email("x@y.example")).await, ["c"]);
}

pub async fn without_unique_email_profiles_share_an_address<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    commit(store, vec![put("b", "x@y.example", ""), put("a", "X@y.example", "")]).await;
    assert_eq!(listed(store, &email("x@Y.example")).await, ["a", "b"]);
}

pub async fn must_match_if_present_lets_absence_pass<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let first = etag(&store_one(store, put("a", "", "1")).await);
    let current = etag(&store_one(store, put("a", "", "2")).await);
    let delete = |etag: &Etag| delete_if("a", Precondition::MustMatchIfPresent(etag.clone()));
    assert!(matches!(commit_one(store, delete(&first)).await, Err(Rejection::EtagMismatch { .. })));
    assert!(matches!(commit_one(store, delete(&current)).await, Ok(Outcome::Deleted(_))));
    assert_eq!(commit_one(store, delete(&current)).await, Ok(Outcome::Absent));
}
