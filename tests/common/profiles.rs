//! Short ways to say what a test writes and reads.

use profilestore::model::{
    Canonicalization, Domain, Draft, Email, Etag, Outcome, Precondition, Profile, ProfileId, Record, Rejection,
    Violations, Write,
};
use profilestore::store::{Commit, Cursor, PageBounds, Scope, Store, StoreError};

/// Bounds that no test's page meets.
pub const UNBOUNDED: PageBounds = PageBounds { max_records: usize::MAX, max_bytes: usize::MAX };

pub fn id(id: impl AsRef<str>) -> ProfileId {
    ProfileId::parse(id.as_ref(), "id").unwrap()
}

pub fn ids<const N: usize>(ids: [&str; N]) -> [ProfileId; N] {
    ids.map(id)
}

pub fn domain(name: &str) -> Domain {
    Domain::parse(name, "domain").unwrap()
}

/// A draft with an id, an e-mail (or none, when empty) and a display name.
pub fn draft(id: &str, email: &str, name: &str) -> Draft {
    let profile = Profile { id: id.into(), email: email.into(), display_name: name.into(), ..Profile::default() };
    Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap()
}

/// A put without a condition.
pub fn put(id: &str, email: &str, name: &str) -> Write {
    put_if(id, email, name, Precondition::None)
}

pub fn put_if(id: &str, email: &str, name: &str, precondition: Precondition) -> Write {
    Write::put(draft(id, email, name), precondition)
}

pub fn delete(key: &str) -> Write {
    delete_if(key, Precondition::None)
}

pub fn delete_if(key: &str, precondition: Precondition) -> Write {
    Write::delete(id(key), precondition)
}

/// An update that appends to the display name; a profile that is not there begins with an empty one.
pub fn append(key: &str, suffix: &str, precondition: Precondition) -> Write {
    let (id, suffix) = (id(key), suffix.to_owned());
    let own = id.clone();
    let update = move |current: Option<Profile>| {
        let mut profile = current.unwrap_or_default();
        profile.id = own.to_string();
        profile.display_name.push_str(&suffix);
        Draft::from_profile(profile, Canonicalization::default(), "profile")
    };
    Write::update(id, Box::new(update), precondition, 64)
}

/// An update whose function refuses.
pub fn refuse(key: &str) -> Write {
    Write::update(id(key), Box::new(|_| Err(Violations::one("profile", "is refused"))), Precondition::None, 64)
}

pub fn must_match(etag: &Etag) -> Precondition {
    Precondition::MustMatch(etag.clone())
}

/// Commits one write.
pub async fn commit_one(store: &impl Store, write: Write) -> Result<Outcome, Rejection> {
    store.commit(Commit::each(vec![write])).await.unwrap().pop().unwrap()
}

/// Commits writes that must all be made, each by itself.
pub async fn commit(store: &impl Store, writes: Vec<Write>) -> Vec<Outcome> {
    let outcomes = store.commit(Commit::each(writes)).await.unwrap();
    outcomes.into_iter().map(Result::unwrap).collect()
}

/// Commits a write that must change a profile.
pub async fn store_one(store: &impl Store, write: Write) -> Record {
    match commit_one(store, write).await.unwrap() {
        Outcome::Stored(record) => record,
        other => panic!("not stored: {other:?}"),
    }
}

pub async fn get(store: &impl Store, key: &str) -> Option<Profile> {
    store.get(&id(key)).await.unwrap().as_ref().map(profile)
}

/// The display name of a profile, if it exists.
pub async fn name(store: &impl Store, key: &str) -> Option<String> {
    get(store, key).await.map(|profile| profile.display_name)
}

pub fn profile(record: &Record) -> Profile {
    record.decode().unwrap()
}

pub fn etag(record: &Record) -> Etag {
    Etag::from_caller(profile(record).etag)
}

pub fn scope(name: &str) -> Scope {
    Scope::domain(&domain(name), false)
}

pub fn subtree(name: &str) -> Scope {
    Scope::domain(&domain(name), true)
}

pub fn email(address: &str) -> Scope {
    Scope::email(&Email::parse(address, Canonicalization::default(), "email").unwrap())
}

pub fn ids_of(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| profile(record).id).collect()
}

/// The ids of a scope in its order, by one page.
pub async fn listed(store: &impl Store, scope: &Scope) -> Vec<String> {
    let page = store.list(scope, None, UNBOUNDED).await.unwrap();
    assert_eq!(page.next, None, "a page without bounds holds everything");
    ids_of(&page.records)
}

/// The records of all pages of a scope.
pub async fn all_pages(store: &impl Store, scope: &Scope, bounds: PageBounds) -> Result<Vec<Record>, StoreError> {
    let mut records = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = store.list(scope, after.as_ref(), bounds).await?;
        assert!(!page.records.is_empty() || page.next.is_none(), "a page that goes on is not empty");
        records.extend(page.records);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(records),
        }
    }
}
