//! Every answer is whole and in order, however slowly and in whatever pieces the client reads.

use futures_util::future::try_join_all;
use profilestore::server::serving::ServingLimits;
use proptest::prelude::*;
use tokio::task::LocalSet;

use crate::common::soon;
use crate::harness::*;

const MIB: usize = 1024 * 1024;

/// What may wait for a client that reads nothing: its windows, what HTTP/2 keeps of each call, the socket's buffer.
const MAY_WAIT: usize = 3 * MIB;

#[tokio::test]
async fn a_client_that_stops_reading_stops_the_calls_and_gets_everything_when_it_goes_on() {
    LocalSet::new()
        .run_until(async {
            let watched = Watched::default();
            let (io, _shutdown, _serving) = piped(&watched, ServingLimits::default(), 4096);
            let mut client = Client::with_windows(io, MIB as u32, 2 * MIB as u32).await.unwrap();
            let (slow, size) = (client.begin("/pieces/20000000").await.unwrap(), 20_000_000);
            settle().await;
            let waiting = watched.produced();
            assert!(waiting > 0 && waiting < MAY_WAIT, "{waiting} bytes were produced for nobody");
            settle().await;
            assert_eq!(watched.produced(), waiting, "nothing more is produced");
            // Others on the same connection are not held up by flow control on one of them.
            assert_eq!(soon(client.get("/whole/1000")).await.unwrap(), pattern(1000));
            assert_eq!(whole(slow).await.unwrap(), pattern(size));
            assert_eq!(watched.produced(), size);
        })
        .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_socket_is_not_read_from() {
    LocalSet::new()
        .run_until(async {
            let watched = Watched::default();
            let (mut io, _shutdown, _serving) = piped(&watched, ServingLimits::default(), 4096);
            // Pings must each be answered; a client that takes no answers cannot make the server queue them.
            let mut sent = 0;
            let mut flood = crate::raw_frames::opening();
            flood.extend(std::iter::repeat_n(crate::raw_frames::ping(), 200_000).flatten());
            while sent < flood.len() {
                let write = tokio::io::AsyncWriteExt::write(&mut io, &flood[sent..]);
                tokio::select! {
                    biased;
                    written = write => sent += written.unwrap(),
                    () = settle() => break,
                }
            }
            assert!(sent < 256 * 1024, "{sent} bytes of pings were taken though no answer was read");
        })
        .await;
}

#[tokio::test]
async fn large_answers_of_many_calls_are_whole() {
    let serving = Loop::start(2, ServingLimits::default()).await;
    let mut clients = [serving.client().await, serving.client().await];
    for path in ["/whole/5000000", "/pieces/5000000"] {
        for client in &mut clients {
            let mut answers = Vec::new();
            for _ in 0..8 {
                answers.push(whole(client.begin(path).await.unwrap()));
            }
            for answer in soon(try_join_all(answers)).await.unwrap() {
                assert!(answer == pattern(5_000_000));
            }
        }
    }
    serving.watched.calls(0).await;
    serving.end().await;
}

#[tokio::test]
async fn thousands_of_small_calls_are_answered_each_with_its_own() {
    let serving = Loop::start(2, ServingLimits::default()).await;
    let mut client = serving.client().await;
    let mut answers = Vec::new();
    for number in 0..5000 {
        answers.push(whole(client.begin(&format!("/whole/{}", number % 700)).await.unwrap()));
        if answers.len() == 200 {
            for (place, answer) in soon(try_join_all(answers.drain(..))).await.unwrap().into_iter().enumerate() {
                assert_eq!(answer, pattern((number - 199 + place) % 700));
            }
        }
    }
    serving.end().await;
}

#[tokio::test]
async fn windows_of_a_few_bytes_are_enough() {
    let serving = Loop::start(1, ServingLimits::default()).await;
    for window in [1, 7, 100] {
        let mut client = Client::with_windows(serving.connect().await, window, 1 << 16).await.unwrap();
        for path in ["/whole/90", "/pieces/90"] {
            assert_eq!(soon(client.get(path)).await.unwrap(), pattern(90), "{path} with a window of {window}");
        }
    }
    serving.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn answers_are_whole_through_any_pipe_and_any_window(
        pipe_bytes in prop_oneof![1..100usize, 100..100_000usize],
        window in prop_oneof![512..5_000u32, 5_000..1_000_000u32],
        connection_window in 65_535..1_000_000u32,
        sizes in proptest::collection::vec((any::<bool>(), prop_oneof![0..300usize, 0..90_000usize]), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let watched = Watched::default();
            let (io, shutdown, serving) = piped(&watched, ServingLimits::default(), pipe_bytes);
            let mut client = Client::with_windows(io, window, connection_window).await.unwrap();
            let mut answers = Vec::new();
            for (in_pieces, size) in &sizes {
                let path = format!("/{}/{size}", if *in_pieces { "pieces" } else { "whole" });
                answers.push(whole(client.begin(&path).await.unwrap()));
            }
            // All calls are under way when the server is told to end.
            watched.begun(sizes.len()).await;
            shutdown.cancel();
            let answers = soon(try_join_all(answers)).await.unwrap();
            for ((_, size), answer) in sizes.iter().zip(answers) {
                assert_eq!(answer, pattern(*size));
            }
            // Either side may be the first to close.
            let _ = client.ended().await;
            let _ = soon(serving).await.unwrap();
        });
    }
}
