//! WatchProfiles: what a watcher is sent, where it starts and where it goes on.

use std::sync::Arc;

use profilestore::pb::watch_profiles_request::Start;
use profilestore::pb::*;
use profilestore::store::{HoldName, Store};
use prost::Message;
use tokio::sync::Semaphore;
use tonic::Code;

use crate::common::profiles::{commit, put};
use crate::common::server::{TestServer, memory_store};
use crate::stores::{Fault, FaultyStore};
use crate::watcher::{Request, short};
use crate::*;

async fn update(client: &mut Client, profile: Profile) -> Profile {
    let request = UpdateProfileRequest { profile: Some(profile), allow_missing: true, ..Default::default() };
    client.update_profile(request).await.unwrap().into_inner()
}

async fn delete_profile(client: &mut Client, id: &str) {
    client.delete_profile(DeleteProfileRequest { id: id.into(), ..Default::default() }).await.unwrap();
}

async fn move_to(client: &mut Client, id: &str, email: &str) {
    let request = UpdateProfileRequest {
        profile: Some(Profile { id: id.into(), email: email.into(), ..Default::default() }),
        update_mask: mask(&["email"]),
        ..Default::default()
    };
    client.update_profile(request).await.unwrap();
}

#[tokio::test]
async fn a_watch_from_now_shows_what_is_done_after_it_began() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, profile("before", "b@x.example")).await;
    let mut watcher = Request::now().begin(&mut client).await;
    let created = create(&mut client, profile("ada", "ada@x.example")).await;
    let renamed = update(&mut client, Profile { display_name: "Ada".into(), ..profile("ada", "") }).await;
    delete_profile(&mut client, "ada").await;
    let events = watcher.events(3).await;
    assert_eq!(events.iter().map(short).collect::<Vec<_>>(), ["PUT ada", "PUT ada", "DELETE ada"]);
    assert_eq!(events[0].profile, Some(created.clone()));
    assert_eq!(events[1].profile, Some(renamed.clone()));
    assert_eq!(events[2].profile, None);
    assert_eq!(events[0].commit_time, created.update_time);
    assert_eq!(events[1].commit_time, renamed.update_time);
    assert!(events[2].commit_time.unwrap().seconds >= renamed.update_time.unwrap().seconds);
    let mut positions: Vec<_> = events.iter().map(|event| event.position.clone()).collect();
    positions.sort();
    positions.dedup();
    assert!(positions.len() == 3 && positions.iter().all(|position| !position.is_empty()));
}

#[tokio::test]
async fn an_idle_watch_sends_a_fresh_token_every_second() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let request = Request::now().domain("x.example", false);
    let mut watcher = request.clone().begin(&mut client).await;
    let first = watcher.token.clone();
    // Nothing for this watcher, but its place moves on.
    create(&mut client, profile("elsewhere", "e@y.example")).await;
    crate::common::soon(async {
        while watcher.token == first {
            assert_eq!(watcher.response().await.events, []);
        }
    })
    .await;
    create(&mut client, profile("here", "h@x.example")).await;
    for token in [&first, &watcher.token] {
        let request = request.clone().start(Start::ResumeToken(token.clone()));
        assert_eq!(request.send(&mut client).await.unwrap().next(1).await, ["PUT here"]);
    }
}

#[tokio::test]
async fn a_watch_whose_reads_wait_sends_a_token_every_second_and_loses_nothing() {
    let store = Arc::new(FaultyStore::new(Fault::WaitsForChanges(Semaphore::new(0))));
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut client = server.profiles();
    let token = Request::now().begin(&mut client).await.token;
    commit(&*store, vec![put("a", "", ""), put("b", "", "")]).await;
    // Another server, whose tail does not reach so far back.
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut client = server.profiles();
    let mut watcher = Request::after(&token).send(&mut client).await.unwrap();
    for _ in 0..3 {
        assert_eq!(watcher.response().await.events, []);
        assert_eq!(watcher.token, token, "it stands where it stood");
    }
    let Fault::WaitsForChanges(permits) = &store.fault else { unreachable!() };
    permits.add_permits(Semaphore::MAX_PERMITS);
    assert_eq!(watcher.next(2).await, ["PUT a", "PUT b"]);
}

#[tokio::test]
async fn a_watch_goes_on_after_any_of_its_tokens() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing(store.clone(), 100).await;
    let mut client = server.profiles();
    let mut watcher = Request::oldest().begin(&mut client).await;
    let mut tokens = vec![(0, watcher.token.clone())];
    for number in 0..40 {
        let writes = (0..=number % 3).map(|each| put(&format!("u{number}-{each}"), "", "")).collect();
        commit(&*store, writes).await;
    }
    let total = (0..40).map(|number| 1 + number % 3).sum();
    let mut all = Vec::new();
    while all.len() < total {
        all.extend(watcher.response().await.events);
        tokens.push((all.len(), watcher.token.clone()));
    }
    for (seen, token) in tokens {
        let mut rest = Request::after(&token).send(&mut client).await.unwrap();
        assert_eq!(rest.events(total - seen).await, all[seen..], "after {seen} events");
    }
    assert_eq!(Request::oldest().send(&mut client).await.unwrap().events(total).await, all);
}

#[tokio::test]
async fn a_domain_watch_shows_its_profiles_and_when_they_leave() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, profile("early", "e@x.example")).await;
    let mut exact = Request::now().domain("X.example.", false).begin(&mut client).await;
    let mut below = Request::now().domain("x.example", true).begin(&mut client).await;
    let mut all = Request::now().begin(&mut client).await;
    let c = &mut client;
    create(c, profile("in", "a@x.example")).await;
    create(c, profile("sub", "a@mail.x.example")).await;
    create(c, profile("out", "a@badx.example")).await;
    create(c, profile("none", "")).await;
    move_to(c, "in", "b@x.example").await;
    move_to(c, "in", "b@mail.x.example").await;
    move_to(c, "in", "b@y.example").await;
    move_to(c, "in", "c@y.example").await;
    delete_profile(c, "in").await;
    move_to(c, "out", "a@x.example").await;
    delete_profile(c, "out").await;
    update(c, Profile { id: "none".into(), display_name: "None".into(), ..Default::default() }).await;
    delete_profile(c, "none").await;
    let request = UpdateProfileRequest {
        profile: Some(Profile { id: "early".into(), ..Default::default() }),
        update_mask: mask(&["email"]),
        ..Default::default()
    };
    c.update_profile(request).await.unwrap();
    delete_profile(c, "early").await;
    create(c, profile("last", "z@x.example")).await;
    let expected =
        ["PUT in", "PUT in", "LEFT in", "PUT out", "DELETE out", "LEFT early", "PUT last"].map(String::from);
    assert_eq!(exact.next(expected.len()).await, expected);
    let expected =
        ["PUT in", "PUT sub", "PUT in", "PUT in", "LEFT in", "PUT out", "DELETE out", "LEFT early", "PUT last"];
    let events = below.events(expected.len()).await;
    assert_eq!(events.iter().map(short).collect::<Vec<_>>(), expected);
    assert!(events.iter().all(|event| event.profile.is_some() == (event.r#type() == ProfileEventType::Put)));
    let everything = all.next(16).await;
    assert!(everything.iter().all(|event| !event.starts_with("LEFT")) && everything[15] == "PUT last");
    // The same event has the same position for every watcher.
    let mut again = Request::oldest().send(c).await.unwrap();
    let positions: Vec<_> = again.events(17).await.into_iter().map(|event| (short(&event), event.position)).collect();
    for event in events.iter().filter(|event| event.r#type() != ProfileEventType::Left) {
        assert!(positions.contains(&(short(event), event.position.clone())), "{event:?}");
    }
}

#[tokio::test]
async fn responses_hold_many_events_and_are_bounded_in_count_and_bytes() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing(store.clone(), 100).await;
    for first in (0..3000).step_by(100) {
        commit(&*store, (first..first + 100).map(|number| put(&format!("u{number}"), "", "")).collect()).await;
    }
    let large = "x".repeat(256);
    for first in (0..2000).step_by(100) {
        commit(&*store, (first..first + 100).map(|number| put(&format!("l{number}"), "", &large)).collect()).await;
    }
    let mut watcher = Request::oldest().send(&mut server.profiles()).await.unwrap();
    let (mut seen, mut responses) = (0, 0);
    while seen < 5000 {
        let response = watcher.response().await;
        seen += response.events.len();
        responses += 1;
        assert!(response.events.len() <= 1000);
        assert!(response.encoded_len() <= 128 * 1024 + 256, "{}", response.encoded_len());
    }
    assert!(responses < 50, "{responses} responses for 5000 events");
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_watch_is_said_at_once() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let token = Request::now().begin(&mut client).await.token;
    for (request, expected) in [
        (Request::oldest().snapshot(), &["include_snapshot"][..]),
        (Request::after(&token).snapshot(), &["include_snapshot"]),
        (Request::now().domain("no domain", true), &["domain"]),
        (Request::default().start(Start::StartAt(7)), &["start_at"]),
        (Request::oldest().snapshot().domain("-", false), &["domain", "include_snapshot"]),
    ] {
        assert_invalid(client.watch_profiles(request.0).await, expected);
    }
}

#[tokio::test]
async fn a_damaged_token_or_one_of_another_call_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, profile("a", "a@x.example")).await;
    let token = Request::now().begin(&mut client).await.token;
    let of_domain = Request::now().domain("x.example", false).begin(&mut client).await.token;
    let request = ExportProfilesRequest::default();
    let cursor = client.export_profiles(request).await.unwrap().into_inner().message().await.unwrap().unwrap().cursor;
    let mut damaged = token.clone().into_bytes();
    damaged[20] ^= 1;
    let damaged = String::from_utf8(damaged).unwrap();
    for bad in ["", "x", &damaged, &token[..token.len() - 1], &of_domain, &cursor] {
        let answer = client.watch_profiles(Request::after(bad).0).await;
        let status = assert_refused(answer, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
        assert_eq!(fields(&status), ["resume_token"], "{bad}");
    }
    let with_subdomains = Request::after(&of_domain).domain("x.example", true);
    assert_refused(client.watch_profiles(with_subdomains.0).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    Request::after(&of_domain).domain("x.example", false).begin(&mut client).await;
}

#[tokio::test]
async fn a_token_from_before_a_restore_tells_the_watcher_to_start_over() {
    // A restored store has another incarnation, as any other store has.
    let (server, before) = (TestServer::start().await, TestServer::start().await);
    create(&mut server.profiles(), profile("a", "a@x.example")).await;
    let token = Request::now().begin(&mut before.profiles()).await.token;
    let answer = server.profiles().watch_profiles(Request::after(&token).0).await;
    let status = assert_refused(answer, Code::OutOfRange, "FEED_TRUNCATED");
    let oldest = status.get_error_details().error_info().unwrap().metadata["oldest_token"].clone();
    let mut watcher = Request::after(&oldest).send(&mut server.profiles()).await.unwrap();
    assert_eq!(watcher.events(1).await[0].id, "a");
}

#[tokio::test]
async fn the_status_shows_what_can_be_followed() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let mut admin = admin_service_client::AdminServiceClient::new(server.channel());
    let mut feed = async || admin.get_status(GetStatusRequest {}).await.unwrap().into_inner().feed.unwrap();
    let empty = feed().await;
    assert_eq!((empty.watcher_count, empty.oldest_time), (0, None));
    let created = create(&mut client, profile("a", "")).await;
    create(&mut client, profile("b", "")).await;
    let watchers = [Request::now().begin(&mut client).await, Request::now().begin(&mut client).await];
    let status = feed().await;
    assert_eq!((status.watcher_count, status.oldest_time), (2, created.update_time));
    assert_eq!(status.newest_token, watchers[0].token);
    let mut oldest = Request::after(&status.oldest_token).send(&mut client).await.unwrap();
    assert_eq!(oldest.next(2).await, ["PUT a", "PUT b"]);
    drop(watchers);
    drop(oldest);
    crate::common::soon(async { while feed().await.watcher_count > 0 {} }).await;
    let mut newest = Request::after(&status.newest_token).begin(&mut client).await;
    delete_profile(&mut client, "a").await;
    assert_eq!(newest.next(1).await, ["DELETE a"]);
}

#[tokio::test]
async fn the_status_shows_who_holds_what() {
    let store = Arc::new(memory_store());
    let server = TestServer::sharing(store.clone(), 10).await;
    let mut client = server.profiles();
    let mut admin = admin_service_client::AdminServiceClient::new(server.channel());
    create(&mut client, profile("a", "")).await;
    store.hold(&HoldName::new("follower").unwrap(), &store.head().await.unwrap()).await.unwrap();
    create(&mut client, profile("b", "")).await;
    create(&mut client, profile("c", "")).await;
    let holds = admin.get_status(GetStatusRequest {}).await.unwrap().into_inner().feed.unwrap().holds;
    let [hold] = &holds[..] else { panic!("one hold was made and {} are shown", holds.len()) };
    assert_eq!((hold.name.as_str(), hold.lag_count, hold.lost_count), ("follower", 2, 0));
    assert_eq!(Request::after(&hold.token).send(&mut client).await.unwrap().next(2).await, ["PUT b", "PUT c"]);
}
