//! How long the server waits for a client: never without an end. On a paused clock.

use std::time::Duration;

use profilestore::server::serving::{ConnectionError, ServingLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;

use crate::harness::*;
use crate::raw_frames::{self, GOAWAY, PING, receive, receive_all};

type Served = JoinHandle<Result<(), ConnectionError>>;

const LONG: Duration = Duration::from_secs(3 * 3600);

/// The end of a connection; a server that waits without an end fails here, after hours of paused time.
async fn end_of(serving: Served) -> Result<(), ConnectionError> {
    tokio::time::timeout(LONG, serving).await.expect("the connection must end").unwrap()
}

async fn read_to_end(io: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // However the connection ends.
    let _ = io.read_to_end(&mut bytes).await;
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_finishes_its_preface_is_closed_after_the_handshakes_time() {
    LocalSet::new()
        .run_until(async {
            for said in [&b""[..], b"PRI", &raw_frames::PREFACE[..23]] {
                let (mut io, _shutdown, serving) = piped(&Watched::default(), ServingLimits::default(), 4096);
                let started = Instant::now();
                io.write_all(said).await.unwrap();
                assert!(matches!(end_of(serving).await, Err(ConnectionError::NoPreface)));
                assert_eq!(started.elapsed().as_secs(), ServingLimits::default().handshake_timeout.as_secs());
                assert_eq!(read_to_end(&mut io).await, b"");
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_another_protocol_is_closed_at_its_first_wrong_byte() {
    LocalSet::new()
        .run_until(async {
            for said in [&b"G"[..], b"POST / HTTP/1.1\r\n", b"\x16\x03\x01", b"PRI * HTTP/1"] {
                let (mut io, _shutdown, serving) = piped(&Watched::default(), ServingLimits::default(), 4096);
                let started = Instant::now();
                io.write_all(said).await.unwrap();
                assert!(matches!(end_of(serving).await, Err(ConnectionError::Io(_))));
                assert_eq!(started.elapsed(), Duration::ZERO);
            }
        })
        .await;
}

#[tokio::test]
async fn a_preface_may_come_a_byte_at_a_time_and_with_a_call_behind_it() {
    LocalSet::new()
        .run_until(async {
            let watched = Watched::default();
            let (mut io, _shutdown, _serving) = piped(&watched, ServingLimits::default(), 1);
            let bytes = [raw_frames::opening(), raw_frames::call(1, "/hold")].concat();
            let (mut reader, mut writer) = tokio::io::split(&mut io);
            tokio::select! {
                () = async {
                    writer.write_all(&bytes).await.unwrap();
                    watched.calls(1).await;
                } => {}
                _ = async { while reader.read_u8().await.is_ok() {} } => panic!("closed"),
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_that_answers_probes_stays_and_one_that_does_not_is_closed() {
    LocalSet::new()
        .run_until(async {
            let limits = ServingLimits { connection_age: Duration::ZERO, ..ServingLimits::default() };
            let (mut io, _shutdown, serving) = piped(&Watched::default(), limits, 4096);
            let started = Instant::now();
            io.write_all(&raw_frames::opening()).await.unwrap();
            for _ in 0..100 {
                let probe = loop {
                    let frame = receive(&mut io).await.expect("an idle client stays");
                    if frame.kind == PING {
                        break frame;
                    }
                };
                io.write_all(&raw_frames::frame(PING, raw_frames::ACK, 0, &probe.payload)).await.unwrap();
            }
            assert!(started.elapsed() >= limits.keepalive_interval * 99);
            let silent = Instant::now();
            assert_eq!(receive_all(&mut io).await.last().unwrap().kind, GOAWAY);
            assert!(silent.elapsed() <= limits.keepalive_interval + limits.keepalive_timeout);
            let _ = end_of(serving).await;
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_any_more_is_given_up() {
    LocalSet::new()
        .run_until(async {
            let watched = Watched::default();
            let limits = ServingLimits { connection_age: Duration::ZERO, ..ServingLimits::default() };
            // Windows without an end, so that only the pipe holds the answers up.
            let settings = [0, 4, 0x7f, 0xff, 0xff, 0xff];
            let window = 0x7f00_0000u32.to_be_bytes();
            let opening = [
                raw_frames::PREFACE,
                &raw_frames::frame(raw_frames::SETTINGS, 0, 0, &settings),
                &raw_frames::frame(8, 0, 0, &window),
                &raw_frames::call(1, "/pieces/50000000"),
                &raw_frames::call(3, "/whole/50000000"),
            ];
            let (mut io, _shutdown, serving) = piped(&watched, limits, 4096);
            let started = Instant::now();
            io.write_all(&opening.concat()).await.unwrap();
            assert!(matches!(end_of(serving).await, Err(ConnectionError::Stalled)));
            assert!(started.elapsed() <= limits.keepalive_interval + limits.keepalive_timeout);
            watched.calls(0).await;
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_does_not_hold_up_a_drain_and_one_that_is_slow_gets_everything() {
    LocalSet::new()
        .run_until(async {
            let limits = ServingLimits { connection_age: Duration::ZERO, ..ServingLimits::default() };
            let (mut io, shutdown, serving) = piped(&Watched::default(), limits, 1 << 20);
            io.write_all(&raw_frames::opening()).await.unwrap();
            settle().await;
            let started = Instant::now();
            shutdown.cancel();
            assert!(matches!(end_of(serving).await, Err(ConnectionError::Silent)));
            assert!(started.elapsed() < limits.keepalive_timeout);

            let watched = Watched::default();
            let (io, shutdown, serving) = piped(&watched, limits, 1 << 20);
            let mut client = Client::with_windows(io, 65_535, 65_535).await.unwrap();
            let mut body = client.begin("/whole/300000").await.unwrap().await.unwrap().into_body();
            shutdown.cancel();
            let mut got = Vec::new();
            while let Some(piece) = body.data().await {
                tokio::time::sleep(Duration::from_secs(30)).await;
                let piece = piece.unwrap();
                got.extend_from_slice(&piece);
                body.flow_control().release_capacity(piece.len()).unwrap();
            }
            assert!(got == pattern(300_000));
            end_of(serving).await.unwrap();
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_last_is_not_lost_to_the_close() {
    LocalSet::new()
        .run_until(async {
            // The whole answer and the end lie in the pipe before the client reads any of it, and the client still
            // says something: over a socket that was closed at once the connection would break.
            let (mut io, shutdown, serving) = piped(&Watched::default(), ServingLimits::default(), 1 << 20);
            io.write_all(&[raw_frames::opening(), raw_frames::call(1, "/whole/50000")].concat()).await.unwrap();
            settle().await;
            shutdown.cancel();
            let pong = raw_frames::frame(PING, raw_frames::ACK, 0, &[0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54]);
            io.write_all(&pong).await.unwrap();
            settle().await;
            for _ in 0..10 {
                io.write_all(&raw_frames::frame(8, 0, 0, &[0, 0, 0, 1])).await.expect("what is said last is heard");
            }
            let frames = receive_all(&mut io).await;
            let data: usize =
                frames.iter().filter(|frame| frame.kind == raw_frames::DATA).map(|frame| frame.payload.len()).sum();
            assert_eq!(data, 50_000);
            drop(io);
            end_of(serving).await.unwrap();
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_drained_and_its_calls_end_well() {
    LocalSet::new()
        .run_until(async {
            let mut ages = Vec::new();
            for _ in 0..20 {
                let watched = Watched::default();
                let limits = ServingLimits::default();
                let (io, _shutdown, serving) = piped(&watched, limits, 4096);
                let mut client = Client::over(io).await.unwrap();
                let started = Instant::now();
                let held = whole(client.begin("/hold").await.unwrap());
                // New calls are taken until it is old.
                let refused = loop {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    if let Err(error) = client.get("/whole/1").await {
                        break error;
                    }
                };
                assert!(refused.is_go_away() && refused.is_remote(), "{refused:?}");
                ages.push(started.elapsed().as_secs());
                watched.release();
                assert_eq!(held.await.unwrap(), b"released");
                end_of(serving).await.unwrap();
            }
            assert!(ages.iter().all(|age| (3240..=3980).contains(age)), "{ages:?}");
            assert!(ages.iter().any(|age| age != &ages[0]), "the ages are spread: {ages:?}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_go_on_after_the_grace_of_an_old_connection_are_cut() {
    LocalSet::new()
        .run_until(async {
            let watched = Watched::default();
            let limits = ServingLimits::default();
            let (io, _shutdown, serving) = piped(&watched, limits, 4096);
            let mut client = Client::over(io).await.unwrap();
            let started = Instant::now();
            let held = whole(client.begin("/hold").await.unwrap());
            assert!(held.await.is_err());
            assert!(matches!(end_of(serving).await, Err(ConnectionError::TooOld)));
            let longest = limits.connection_age.mul_f64(1.1) + limits.connection_age_grace;
            assert!(started.elapsed() <= longest + Duration::from_secs(1));
            watched.calls(0).await;
        })
        .await;
}
