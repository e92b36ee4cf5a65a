//! A data directory that an earlier version wrote still opens, whole and writable.
//!
//! `stored_format/v1.tar.gz` is a directory of format 1, as a kill left it: 40 generated profiles, then a create,
//! a delete and an e-mail that moved. A change of the format adds an archive and keeps this one.

use std::sync::Arc;

use flate2::read::GzDecoder;
use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::model::{Canonicalization, Domain, Draft, Email, Precondition, Profile, ProfileId, Write};
use profilestore::store::{CommitMode, NoObserver, PageBounds, Scope, Store};

const V1: &[u8] = include_bytes!("stored_format/v1.tar.gz");

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_format_1_opens_and_takes_writes() {
    let dir = tempfile::tempdir().unwrap();
    tar::Archive::new(GzDecoder::new(V1)).unpack(dir.path()).unwrap();
    let store = SledStore::open(SledOptions::new(dir.path()), Arc::new(NoObserver)).await.unwrap();

    assert_eq!(store.verify().await.unwrap().problems, Vec::<String>::new());
    assert_eq!(store.count(&Scope::All).await.unwrap(), 40);
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
    let outcomes = store.commit(vec![Write::put(draft.unwrap(), Precondition::MustBeAbsent)], CommitMode::All).await;
    assert!(outcomes.unwrap()[0].is_ok());
    store.close().await.unwrap();
}
