//! Imports.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use profilestore::client::{ClientError, Code, OnConflict};
use tokio::sync::mpsc;

use crate::common::server::TestServer;
use crate::common::soon;
use crate::proxy::{Loss, Proxy};
use crate::*;

fn options(on_conflict: OnConflict, chunk_profiles: usize) -> ImportOptions {
    ImportOptions { on_conflict, chunk_profiles, ..ImportOptions::default() }
}

#[tokio::test]
async fn an_import_goes_on_after_a_cut_and_everything_is_written_once() {
    for on_conflict in [OnConflict::Fail, OnConflict::Skip, OnConflict::Replace] {
        // Acknowledgements may share a frame, at most those of all chunks in flight.
        for (chunks_in_flight, others) in [(4, 0), (4, 1), (4, 2), (1, 5), (1, 9)] {
            let server = TestServer::start().await;
            let proxy = Proxy::to(server.address()).await;
            let client = client(proxy.address);
            // Half of them without an id: each would be made anew.
            let mut profiles = many(1000);
            profiles.iter_mut().step_by(2).for_each(|profile| profile.id.clear());
            proxy.lose(Loss::MessageAfter(others));
            let options = ImportOptions { chunks_in_flight, ..options(on_conflict, 100) };
            let reports = import(&client, profiles, options).await;
            assert_eq!(proxy.cuts(), 1);
            let positions: Vec<_> = reports.iter().map(|report| report.position).collect();
            assert_eq!(positions, (1..=10).map(|chunk| chunk * 100).collect::<Vec<_>>());
            assert!(reports.iter().all(|report| report.refused.is_empty()), "{reports:?}");
            let last = reports.last().unwrap();
            assert_eq!(last.written + last.skipped, 1000);
            if on_conflict != OnConflict::Skip {
                assert_eq!(last.skipped, 0);
            }
            assert_eq!(client.count("", false).await.unwrap(), 1000);
        }
    }
}

#[tokio::test]
async fn a_profile_that_was_there_before_is_a_conflict_also_when_its_chunk_is_sent_twice() {
    let server = TestServer::start().await;
    let proxy = Proxy::to(server.address()).await;
    let client = client(proxy.address);
    client.create(profile("u00007", "other@a.example")).await.unwrap();
    let mut profiles = many(20);
    // The second of two equal profiles is a conflict too.
    profiles.push(profiles[3].clone());
    proxy.lose(Loss::MessageAfter(0));
    let reports = import(&client, profiles, options(OnConflict::Fail, 50)).await;
    assert_eq!(proxy.cuts(), 1);
    let refused: Vec<_> = reports[0].refused.iter().map(|each| (each.position, each.reason.as_str())).collect();
    assert_eq!(refused, [(7, "PROFILE_EXISTS"), (20, "PROFILE_EXISTS")]);
    assert_eq!((reports[0].position, reports[0].written), (21, 19));
}

#[tokio::test]
async fn what_an_import_that_broke_off_has_written_counts_as_written_as_far_as_it_may_have_come() {
    let server = TestServer::start().await;
    let client = client(server.address());
    import(&client, many(100), ImportOptions::default()).await;
    client.delete("u00003", Default::default()).await.unwrap();
    client.create(profile("u00003", "other@a.example")).await.unwrap();
    for chunk_profiles in [7, 60, 500] {
        let options = ImportOptions { in_doubt: 60, ..options(OnConflict::Fail, chunk_profiles) };
        let reports = import(&client, many(100), options).await;
        let refused: Vec<_> = reports.iter().flat_map(|report| &report.refused).map(|each| each.position).collect();
        assert_eq!(refused, [3].into_iter().chain(60..100).collect::<Vec<_>>());
        assert_eq!(reports.last().unwrap().written, 59);
    }
    assert_eq!(ImportOptions { chunks_in_flight: 3, chunk_profiles: 7, ..Default::default() }.most_in_flight(), 21);
}

#[tokio::test]
async fn what_is_refused_is_reported_by_its_position_and_the_import_goes_on() {
    let server = TestServer::start().await;
    let client = client(server.address());
    let huge = Profile { display_name: "x".repeat(5 << 20), ..profile("huge", "") };
    let profiles =
        vec![profile("a", ""), profile("b", ""), profile("c", "nobody"), huge, profile("a", ""), profile("d", "")];
    let reports = import(&client, profiles, options(OnConflict::Fail, 2)).await;
    let refused: Vec<_> = reports.iter().flat_map(|report| &report.refused).collect();
    let known: Vec<_> = refused.iter().map(|each| (each.position, each.code, each.reason.as_str())).collect();
    let expected = [
        (2, Code::InvalidArgument, "INVALID_FIELD"),
        (3, Code::InvalidArgument, "INVALID_FIELD"),
        (4, Code::AlreadyExists, "PROFILE_EXISTS"),
    ];
    assert_eq!(known, expected);
    assert!(refused[0].message.starts_with("email "), "{}", refused[0].message);
    let last = reports.last().unwrap();
    assert_eq!((last.position, last.written), (6, 3));
    assert_eq!(all_ids(&client).await, ["a", "b", "d"]);
}

#[tokio::test]
async fn a_taken_id_is_skipped_or_replaced_as_asked() {
    let server = TestServer::start().await;
    let client = client(server.address());
    client.create(profile("a", "old@a.example")).await.unwrap();
    let profiles = || vec![profile("a", "new@a.example"), profile("b", "")];
    let email = async || client.get("a").await.unwrap().unwrap().email;
    let skipped = import(&client, profiles(), options(OnConflict::Skip, 10)).await;
    assert_eq!((skipped[0].written, skipped[0].skipped, email().await.as_str()), (1, 1, "old@a.example"));
    let replaced = import(&client, profiles(), options(OnConflict::Replace, 10)).await;
    assert_eq!((replaced[0].written, replaced[0].skipped, email().await.as_str()), (2, 0, "new@a.example"));
}

#[tokio::test]
async fn of_two_profiles_with_one_id_the_later_one_stays() {
    let server = TestServer::start().await;
    let client = client(server.address());
    let named = |number: usize| Profile { display_name: number.to_string(), ..profile("same", "") };
    import(&client, (0..500).map(named).collect(), options(OnConflict::Replace, 10)).await;
    assert_eq!(client.get("same").await.unwrap().unwrap().display_name, "499");
}

#[tokio::test]
async fn a_server_that_stops_reading_stops_the_taking_of_profiles() {
    let server = TestServer::start().await;
    let proxy = Proxy::to(server.address()).await;
    let client = builder(proxy.address).deadline(Duration::from_secs(5)).build().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let endless = stream::iter(0..).map(move |number: u64| {
        counter.fetch_add(1, Ordering::SeqCst);
        profile(number.to_string(), "")
    });
    let options = ImportOptions { chunks_in_flight: 3, ..options(OnConflict::Fail, 10) };
    let mut import = client.import(endless, options);
    let mut position = import.try_next().await.unwrap().unwrap().position;
    proxy.hold(true);
    // What is under way is acknowledged; then nothing more until the deadline.
    let error = loop {
        match import.try_next().await {
            Ok(report) => position = report.unwrap().position,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::DeadlineExceeded(_)), "{error}");
    // The chunks in flight, and the one that is being filled.
    let waiting = taken.load(Ordering::SeqCst) - usize::try_from(position).unwrap();
    assert!((30..=40).contains(&waiting), "{waiting}");
}

#[tokio::test]
async fn profiles_are_acknowledged_while_the_caller_has_no_more_yet() {
    let server = TestServer::start().await;
    let client = client(server.address());
    let (sender, mut profiles) = mpsc::channel(8);
    let profiles = stream::poll_fn(move |context| profiles.poll_recv(context));
    let mut import = client.import(profiles, ImportOptions::default());
    for number in 0..3 {
        sender.send(profile(number.to_string(), "")).await.unwrap();
        let report = soon(import.try_next()).await.unwrap().unwrap();
        assert_eq!((report.position, report.written), (number + 1, number + 1));
    }
    drop(sender);
    assert_eq!(soon(import.try_next()).await.unwrap(), None);
}

#[tokio::test]
async fn options_out_of_bounds_are_refused_with_all_violations() {
    let client = client("127.0.0.1:9".parse().unwrap());
    let options = ImportOptions { chunk_profiles: 0, chunk_bytes: 0, chunks_in_flight: 65, ..Default::default() };
    let reports: Vec<_> = client.import(stream::iter(many(1)), options).collect().await;
    assert_eq!(reports.len(), 1);
    let fields: Vec<_> =
        reports[0].as_ref().unwrap_err().violations().iter().map(|each| each.field.as_str()).collect();
    assert_eq!(fields, ["chunk_profiles", "chunk_bytes", "chunks_in_flight"]);
}
