//! What callers hand back: page tokens and resume tokens, as text and behind a right checksum.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::feed::Place;
use profilestore::model::{Canonicalization, Domain, Draft, Email, Precondition, Profile, Write};
use profilestore::rpc::page_token::{CallFingerprint, PageToken};
use profilestore::store::{
    ChangeBounds, Commit, Cursor, DomainOrder, NoObserver, PageBounds, Scope, Store, StoreError,
};
use tokio::runtime::Runtime;

use super::Input;

thread_local! {
    static STORE: (Runtime, MemoryStore) = store();
}

/// A store with a few profiles, which nobody changes.
fn store() -> (Runtime, MemoryStore) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let store = MemoryStore::new(EngineRules::default(), Arc::new(NoObserver));
    let put = |(id, email): (&str, &str)| {
        let profile = Profile { id: id.into(), email: email.into(), ..Profile::default() };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").expect("a good profile");
        Write::put(draft, Precondition::None)
    };
    let profiles =
        [("a", "a@b.example"), ("b", "b@b.example"), ("c", "c@c.b.example"), ("d", ""), ("e", "a@b.example")];
    let commit = Commit::each(profiles.into_iter().map(put).collect());
    runtime.block_on(store.commit(commit)).expect("a good commit");
    (runtime, store)
}

/// A page token.
pub fn page_token(data: &[u8]) {
    let mut input = Input(data);
    let text = match input.byte() % 2 {
        0 => String::from_utf8_lossy(input.0).into_owned(),
        _ => with_checksum(input.0),
    };
    let Some(token) = PageToken::decode(&text) else { return };
    assert_eq!(token.encode(), text, "one token has one text");
    assert_eq!(token.clone().cursor_for(CallFingerprint::new("another call")), None);
    let body = URL_SAFE_NO_PAD.decode(&text).expect("it was decoded");
    follow(&Cursor(Bytes::copy_from_slice(&body[9..body.len() - 4])));
}

fn with_checksum(body: &[u8]) -> String {
    let crc = crc32c::crc32c(body).to_be_bytes();
    URL_SAFE_NO_PAD.encode([body, &crc].concat())
}

/// A cursor that this store did not make is refused, or shows what the scope holds.
fn follow(cursor: &Cursor) {
    let domain = Domain::parse("b.example", "domain").expect("a domain");
    let email = Email::parse("a@b.example", Canonicalization::default(), "email").expect("an address");
    let scopes = [Scope::All, Scope::domain(&domain, false), Scope::domain(&domain, true), Scope::email(&email)];
    let bounds = PageBounds { max_records: 2, max_bytes: 1 << 20 };
    STORE.with(|(runtime, store)| {
        for (scope, most) in scopes.iter().zip([5, 3, 4, 2]) {
            let mut after = Some(cursor.clone());
            let mut found = 0;
            while let Some(cursor) = after {
                match runtime.block_on(store.list(scope, Some(&cursor), bounds)) {
                    Ok(page) => (after, found) = (page.next, found + page.records.len()),
                    Err(error) => {
                        assert_eq!((error, found), (StoreError::InvalidCursor, 0));
                        break;
                    }
                }
            }
            assert!(found <= most, "{found} of {scope:?}");
        }
        for parent in [None, Some(&domain)] {
            let page = runtime.block_on(store.list_domains(parent, DomainOrder::Index, Some(cursor), 10));
            assert!(
                page.as_ref().is_ok_and(|page| page.domains.len() <= 2) || page == Err(StoreError::InvalidCursor)
            );
            let page = runtime.block_on(store.list_domains(parent, DomainOrder::LargestFirst, Some(cursor), 10));
            assert_eq!(page, Err(StoreError::InvalidCursor));
        }
    });
}

/// A watch's place, which is what a resume token holds.
pub fn resume_token(data: &[u8]) {
    let mut input = Input(data);
    let right_incarnation = input.byte() % 2 == 1;
    let mut bytes = input.0.to_vec();
    if right_incarnation && bytes.len() >= 10 {
        let head = STORE.with(|(runtime, store)| runtime.block_on(store.head())).expect("a head");
        bytes[1] = 16;
        bytes[2..10].copy_from_slice(&head.as_bytes()[..8]);
    }
    let Some(place) = Place::decode(&Bytes::from(bytes.clone())) else { return };
    assert_eq!(place.encode(), bytes, "one place has one form");
    let bounds = ChangeBounds { max_changes: 2, max_bytes: 1 << 20, through: None };
    STORE.with(|(runtime, store)| match runtime.block_on(store.changes_after(&place.position(), bounds)) {
        Ok(page) => assert!(page.changes.len() <= 2),
        Err(error) => {
            assert!(matches!(error, StoreError::InvalidPosition | StoreError::Truncated { .. }), "{error}");
        }
    });
}
