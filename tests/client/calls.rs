//! The calls, and what comes back from them.

use futures_util::TryStreamExt;
use profilestore::client::*;

use crate::common::server::TestServer;
use crate::*;

#[tokio::test]
async fn a_profile_can_be_created_read_changed_and_deleted() {
    let server = TestServer::start().await;
    let client = client(server.address());
    let created = client.create(profile("ada", "Ada@Example.com")).await.unwrap();
    assert_eq!((created.email.as_str(), created.domain.as_str()), ("Ada@Example.com", "example.com"));
    assert_eq!(client.get("ada").await.unwrap(), Some(created.clone()));

    let renamed = Profile { display_name: "Ada Lovelace".into(), ..created.clone() };
    let options = UpdateOptions { mask: vec!["display_name".into()], ..UpdateOptions::default() };
    let updated = client.update(renamed.clone(), options.clone()).await.unwrap();
    assert_eq!(updated.display_name, "Ada Lovelace");
    // The etag is no longer the current one.
    let other = Profile { display_name: "Countess".into(), ..renamed };
    let error = client.update(other, options).await.unwrap_err();
    assert!(matches!(error, ClientError::Aborted(_)), "{error}");
    assert_eq!((error.code(), error.reason()), (Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(error.metadata().get("current_etag"), Some(&updated.etag));

    let upserted = client
        .update(profile("bob", ""), UpdateOptions { allow_missing: true, ..UpdateOptions::default() })
        .await
        .unwrap();
    assert_eq!(upserted.id, "bob");
    let stale = DeleteOptions { etag: created.etag, ..DeleteOptions::default() };
    assert_eq!(client.delete("ada", stale).await.unwrap_err().reason(), "ETAG_MISMATCH");
    client.delete("ada", DeleteOptions { etag: updated.etag, ..DeleteOptions::default() }).await.unwrap();
    assert_eq!(client.get("ada").await.unwrap(), None);
    let error = client.delete("ada", DeleteOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::NotFound(_)), "{error}");
    client.delete("ada", DeleteOptions { allow_missing: true, ..DeleteOptions::default() }).await.unwrap();
}

#[tokio::test]
async fn a_batch_get_that_is_too_large_for_one_answer_is_made_in_parts() {
    let server = TestServer::start().await;
    let client = client(server.address());
    let ids: Vec<_> = (0..500).map(|number| format!("u{number:03}")).collect();
    for ids in ids[..480].chunks(60) {
        let large =
            |id: &String| Profile { attributes: [("v".into(), "x".repeat(15_000))].into(), ..profile(id, "") };
        client.batch_write(ids.iter().map(|id| Write::Create(large(id))).collect()).await.unwrap();
    }
    // The repeated one stands in what become different parts.
    let asked = ids.iter().chain([&ids[0]]).cloned().collect();
    let found = client.batch_get(asked, Vec::new()).await.unwrap();
    let found_ids: Vec<_> = found.profiles.iter().map(|profile| profile.id.as_str()).collect();
    assert_eq!(found_ids, ids[..480]);
    assert_eq!(found.missing_ids, ids[480..]);
}

#[tokio::test]
async fn a_batch_is_whole_or_absent_and_its_error_names_the_write() {
    let server = TestServer::start().await;
    let client = client(server.address());
    client.create(profile("old", "")).await.unwrap();
    let writes = |deleted: &str| {
        vec![
            Write::Create(profile("new", "")),
            Write::Update(profile("old", "old@a.example"), UpdateOptions::default()),
            Write::Delete(deleted.into(), DeleteOptions::default()),
        ]
    };
    let error = client.batch_write(writes("absent")).await.unwrap_err();
    assert!(matches!(error, ClientError::NotFound(_)), "{error}");
    assert_eq!(error.metadata().get("index").map(String::as_str), Some("2"));
    assert_eq!(all_ids(&client).await, ["old"]);
    client.create(profile("third", "")).await.unwrap();
    let results = client.batch_write(writes("third")).await.unwrap();
    let left: Vec<_> = results.iter().map(|result| result.as_ref().map(|profile| profile.id.as_str())).collect();
    assert_eq!(left, [Some("new"), Some("old"), None]);
    assert_eq!(all_ids(&client).await, ["new", "old"]);
}

#[tokio::test]
async fn every_read_answers_and_honours_its_mask() {
    let server = TestServer::start().await;
    let client = client(server.address());
    for (id, email) in [("a", "a@x.example"), ("b", "b@sub.x.example"), ("c", "B@sub.x.example"), ("d", "")] {
        client.create(Profile { display_name: "N".into(), ..profile(id, email) }).await.unwrap();
    }
    let only_email = || vec!["email".to_owned()];
    let masked = client.get_masked("a", only_email()).await.unwrap().unwrap();
    assert_eq!(masked, Profile { email: "a@x.example".into(), ..Profile::default() });
    let found = client.batch_get(["d", "none", "a"].map(String::from).into(), only_email()).await.unwrap();
    assert_eq!(found.missing_ids, ["none"]);
    assert_eq!(found.profiles, [Profile::default(), masked.clone()]);

    let collected = async |listing: Paged<Profile>| ids(&listing.try_collect::<Vec<_>>().await.unwrap());
    let options = || PageOptions { page_size: 1, ..PageOptions::default() };
    assert_eq!(collected(client.lookup("b@SUB.x.example", options())).await, ["b", "c"]);
    assert_eq!(collected(client.query("x.example", false, options())).await, ["a"]);
    assert_eq!(collected(client.query("x.example", true, options())).await, ["a", "b", "c"]);
    let two = || PageOptions { page_size: 2, ..PageOptions::default() };
    let (first, token) = client.query_page("x.example", true, two(), String::new()).await.unwrap();
    let (last, end) = client.query_page("x.example", true, two(), token).await.unwrap();
    let ids = [first, last].map(|page| page.into_iter().map(|profile| profile.id).collect::<Vec<_>>());
    assert_eq!((ids, end.as_str()), ([vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]], ""));
    let listed: Vec<_> =
        client.list(PageOptions { read_mask: only_email(), ..options() }).try_collect().await.unwrap();
    assert_eq!(listed[0], masked);
    let domains: Vec<_> = client.domains("x.example", 1).try_collect().await.unwrap();
    let domains: Vec<_> = domains.iter().map(|each| (each.domain.as_str(), each.profile_count)).collect();
    assert_eq!(domains, [("x.example", 1), ("sub.x.example", 2)]);
    assert_eq!(client.largest_domains("", 1).await.unwrap()[0].domain, "sub.x.example");
    assert_eq!(client.count("x.example", true).await.unwrap(), 3);
    assert_eq!(client.count("", false).await.unwrap(), 4);
    assert_eq!(client.status().await.unwrap().profile_count, 4);
    assert_eq!(client.health().await.unwrap(), Health::Serving);
    server.services.set_not_serving().await;
    assert_eq!(client.health().await.unwrap(), Health::NotServing);
}

#[tokio::test]
async fn invalid_input_is_answered_with_every_violation_and_nothing_personal() {
    let server = TestServer::start().await;
    let client = client(server.address());
    let bad = Profile { display_name: "x".repeat(300), ..profile("no spaces", "nobody") };
    let error = client.create(bad).await.unwrap_err();
    let ClientError::Invalid { violations, .. } = &error else { panic!("{error}") };
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["profile.id", "profile.email", "profile.display_name"]);
    assert_eq!((error.code(), error.reason()), (Code::InvalidArgument, "INVALID_FIELD"));
    let text = format!("{error}");
    assert!(text.starts_with("invalid: profile.id "), "{text}");
    assert!(!text.contains("nobody") && !text.contains("xxx"), "{text}");
    // A listing ends with its error.
    let listed: Vec<_> =
        futures_util::StreamExt::collect(client.query("no domain", true, PageOptions::default())).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].as_ref().unwrap_err().violations()[0].field, "domain");
}

#[tokio::test]
async fn a_client_with_settings_out_of_bounds_is_not_made() {
    let builder = Client::builder("https://localhost").connections(0).retries(21).deadline(Duration::ZERO);
    let error = builder.build().unwrap_err();
    let fields: Vec<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["connections", "retries", "deadline", "address"]);
}
