//! A drain waits for whoever reads, and for nobody else. On a paused clock.

use std::time::Duration;

use profilestore::server::serving::{ConnectionError, ServingLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::harness::*;
use crate::raw_frames::{self, DATA, END_STREAM, GOAWAY, PING, SETTINGS};

/// A client with windows that never bother, so that it need not say anything while it reads.
fn opening_with_large_windows() -> Vec<u8> {
    let settings = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    let window = 0x7f00_0000u32.to_be_bytes();
    let frames = [raw_frames::frame(SETTINGS, 0, 0, &settings), raw_frames::frame(8, 0, 0, &window)];
    [raw_frames::PREFACE, &frames.concat()].concat()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_without_a_word_gets_everything() {
    const PAGE: usize = 400_000;
    const CALLS: u32 = 10;
    LocalSet::new()
        .run_until(async {
            // What lies in the pipe is what would lie in the buffers of two machines.
            let limits = ServingLimits { connection_age: Duration::ZERO, ..ServingLimits::default() };
            let (mut io, shutdown, serving) = piped(&Watched::default(), limits, 1 << 20);
            let mut calls = opening_with_large_windows();
            for number in 0..CALLS {
                calls.extend(raw_frames::call(2 * number + 1, &format!("/whole/{PAGE}")));
            }
            io.write_all(&calls).await.unwrap();
            settle().await;
            shutdown.cancel();
            let (mut read, mut piece) = (Vec::new(), vec![0; 100_000]);
            let (mut data, mut ended, mut is_told) = (0, 0, false);
            while ended < CALLS {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let bytes = io.read(&mut piece).await.unwrap();
                assert!(bytes > 0 && !serving.is_finished(), "closed after {data} bytes");
                read.extend_from_slice(&piece[..bytes]);
                while let Some((frame, length)) = first_frame(&read) {
                    match frame.kind {
                        DATA => data += frame.payload.len(),
                        GOAWAY => is_told = true,
                        // Answered only in the end, as a reader may that is busy with its data.
                        _ => {}
                    }
                    ended += u32::from(frame.kind == DATA && read[4] & END_STREAM != 0);
                    read.drain(..length);
                }
            }
            assert_eq!((data, is_told), (PAGE * CALLS as usize, true));
            drop(io);
            let _ = serving.await.unwrap();
        })
        .await;
}

/// The first whole frame of some bytes, and how many it takes.
fn first_frame(bytes: &[u8]) -> Option<(raw_frames::Received, usize)> {
    let head = bytes.first_chunk::<9>()?;
    let length = 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let payload = bytes.get(9..length)?.to_vec();
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((raw_frames::Received { kind: head[3], stream, payload }, length))
}

#[tokio::test(start_paused = true)]
async fn a_last_word_of_a_client_that_is_gone_holds_nothing_up() {
    let acknowledgement = raw_frames::frame(SETTINGS, raw_frames::ACK, 0, &[]);
    let ping = raw_frames::frame(PING, 0, 0, b"12345678");
    for word in [&acknowledgement[..], &acknowledgement[..1], &ping] {
        LocalSet::new()
            .run_until(async {
                let limits = ServingLimits { connection_age: Duration::ZERO, ..ServingLimits::default() };
                let (mut io, shutdown, serving) = piped(&Watched::default(), limits, 1 << 20);
                io.write_all(&raw_frames::opening()).await.unwrap();
                settle().await;
                let started = Instant::now();
                shutdown.cancel();
                tokio::time::sleep(Duration::from_secs(1)).await;
                io.write_all(word).await.unwrap();
                let ended = tokio::time::timeout(Duration::from_secs(3600), serving).await.unwrap().unwrap();
                assert!(matches!(ended, Err(ConnectionError::Silent)), "{ended:?}");
                assert!(started.elapsed() < limits.keepalive_timeout);
            })
            .await;
    }
}
