//! A data directory that an earlier version wrote still opens, whole and writable.
//!
//! `stored_format/v1.tar.gz` is a directory of format 1, as a kill left it: 40 generated profiles, then a create,
//! a delete, an e-mail that moved, and a create with a request id. A change of the format adds an archive and keeps this one.
//! `stored_format/v2-snapshot.tar.gz` is one of format 2 without sled's files, and with a log that begins behind the first
//! commits: what is left is 20 profiles, two deletes and some moves in a snapshot and the log behind it.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use flate2::read::GzDecoder;
use profilestore::engine::EngineRules;
use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::model::{Canonicalization, Domain, Draft, Email, Precondition, Profile, ProfileId, Write};
use profilestore::store::{Clock, Commit, NoObserver, PageBounds, RequestId, RequestMark, Scope, Store, StoreError};

const V1: &[u8] = include_bytes!("stored_format/v1.tar.gz");

const V2_SNAPSHOT: &[u8] = include_bytes!("stored_format/v2-snapshot.tar.gz");

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_format_2_and_the_log_behind_it_bring_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    tar::Archive::new(GzDecoder::new(V2_SNAPSHOT)).unpack(dir.path()).unwrap();
    let store = SledStore::open(SledOptions::new(dir.path()), Arc::new(NoObserver)).await.unwrap();
    assert_eq!(store.verify().await.unwrap().problems, []);
    assert_eq!(store.count(&Scope::All).await.unwrap(), 18);
    let profile = store.get(&ProfileId::parse("user-2", "id").unwrap()).await.unwrap().unwrap().decode().unwrap();
    assert_eq!((profile.display_name.as_str(), profile.etag.as_str()), ("version 3", "u6RfyVH9JwcAAAAAAAAAGw"));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_format_1_opens_and_takes_writes() {
    let dir = tempfile::tempdir().unwrap();
    tar::Archive::new(GzDecoder::new(V1)).unpack(dir.path()).unwrap();
    // The day on which it was written: request ids are remembered for ten minutes.
    let clock = Clock::from_fn(|| UNIX_EPOCH + Duration::from_secs(1_795_533_300));
    let rules = EngineRules { clock, ..EngineRules::default() };
    let options = SledOptions { rules, ..SledOptions::new(dir.path()) };
    let store = SledStore::open(options, Arc::new(NoObserver)).await.unwrap();

    assert_eq!(store.verify().await.unwrap().problems, []);
    assert_eq!(store.count(&Scope::All).await.unwrap(), 41);
    let id = |id| ProfileId::parse(id, "id").unwrap();
    assert!(store.get(&id("user-00000003")).await.unwrap().is_none());
    let ada = store.get(&id("ada")).await.unwrap().unwrap().decode().unwrap();
    assert_eq!((ada.email.as_str(), ada.domain.as_str()), ("Ada@Bücher.Example.", "xn--bcher-kva.example"));
    assert_eq!(ada.etag, "Abh9pDh2HbgAAAAAAAAAKQ");
    let email = Email::parse("ada@bücher.example", Canonicalization::default(), "email").unwrap();
    let bounds = PageBounds { max_records: 10, max_bytes: usize::MAX };
    assert_eq!(store.list(&Scope::email(&email), None, bounds).await.unwrap().records.len(), 1);
    let domain = Domain::parse("company-1.example", "domain").unwrap();
    assert_eq!(store.count(&Scope::domain(&domain, false)).await.unwrap(), 15);
    assert_eq!(store.count(&Scope::domain(&domain, true)).await.unwrap(), 19);

    let draft = Draft::from_profile(
        Profile { id: "new".into(), ..Profile::default() },
        Canonicalization::default(),
        "profile",
    );
    let outcomes = store.commit(Commit::all(vec![Write::put(draft.unwrap(), Precondition::MustBeAbsent)])).await;
    assert!(outcomes.unwrap()[0].is_ok());
    let id = RequestId(*b"\x01\x89\x0a\x5d\xac\x96\x77\x4b\xbc\xce\xb3\x02\x09\x9a\x80\x57");
    let mark = RequestMark { id, fingerprint: 1, made_ids: Box::default() };
    let another = Commit::all(Vec::new()).for_request(Some(mark));
    assert_eq!(store.commit(another).await, Err(StoreError::RequestIdReused));
    let format = std::fs::read_to_string(dir.path().join("FORMAT")).unwrap();
    assert!(format.contains("\"format\": 2"), "it was raised: {format}");
    assert_eq!(store.snapshot().await.unwrap().profiles, 42);
    store.close().await.unwrap();
}
