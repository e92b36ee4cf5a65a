//! Floods and garbage: the connection is closed, nothing grows without a bound, and others are served.

use profilestore::server::serving::ServingLimits;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use crate::common::soon;
use crate::harness::*;
use crate::raw_frames::{self, CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, PING, receive_all};

/// HTTP/2's code for a peer that asks for too much.
const ENHANCE_YOUR_CALM: u32 = 11;

/// Writes a flood while it is taken; what the server said until it closed the connection.
async fn flood(serving: &Loop, frames: impl Iterator<Item = Vec<u8>>) -> (usize, Vec<raw_frames::Received>) {
    let (mut reader, mut writer) = serving.connect().await.into_split();
    let said = tokio::spawn(async move { receive_all(&mut reader).await });
    writer.write_all(&raw_frames::opening()).await.unwrap();
    let mut written = 0;
    for frame in frames {
        if soon(writer.write_all(&frame)).await.is_err() {
            break;
        }
        written += frame.len();
    }
    (written, soon(said).await.unwrap())
}

#[track_caller]
fn assert_calmed(said: &[raw_frames::Received]) {
    // The end may be a reset that overtakes the reason.
    if let Some(reason) = said.iter().find(|frame| frame.kind == GOAWAY) {
        assert_eq!(reason.error_code(), ENHANCE_YOUR_CALM);
    }
}

#[tokio::test]
async fn calls_that_are_reset_as_fast_as_they_are_made_end_the_connection() {
    let limits = ServingLimits { pending_resets: 5, ..ServingLimits::default() };
    let serving = Loop::start(1, limits).await;
    let resets = (0..1_000_000u32).map(|number| {
        let stream = 2 * number + 1;
        // Many in one write, so that the server finds them reset before it has begun them.
        [raw_frames::call(stream, "/hold"), raw_frames::reset(stream)].concat()
    });
    let bursts: Vec<Vec<u8>> = resets.take(100_000).collect::<Vec<_>>().chunks(500).map(<[_]>::concat).collect();
    let whole: usize = bursts.iter().map(Vec::len).sum();
    let (written, said) = flood(&serving, bursts.into_iter()).await;
    assert!(written < whole, "all of the flood was taken");
    assert_calmed(&said);
    serving.watched.calls(0).await;
    serving.served().await;
    serving.end().await;
}

#[tokio::test]
async fn headers_that_never_end_end_the_connection() {
    let serving = Loop::start(1, ServingLimits::default()).await;
    let begun = raw_frames::frame(HEADERS, 0, 1, &raw_frames::request_headers("/whole/1"));
    for payload in [Vec::new(), raw_frames::literal("x", "y"), raw_frames::literal("x", &"y".repeat(16_000))] {
        let more = std::iter::repeat_with(|| raw_frames::frame(CONTINUATION, 0, 1, &payload));
        let frames = std::iter::once(begun.clone()).chain(more.take(1_000_000));
        let (written, said) = flood(&serving, frames).await;
        assert!(written < 8 * 1024 * 1024, "{written} bytes of headers were taken");
        assert!(said.iter().all(|frame| frame.kind != HEADERS), "nothing was answered");
        serving.served().await;
    }
    // Only those of `served` ran.
    serving.watched.calls(0).await;
    serving.end().await;
}

#[tokio::test]
async fn many_small_and_empty_frames_leave_others_served() {
    let serving = Loop::start(1, ServingLimits::default()).await;
    let opened = raw_frames::frame(HEADERS, END_HEADERS, 1, &raw_frames::request_headers("/echo"));
    let floods: [(&str, Vec<u8>); 3] = [
        ("empty DATA", raw_frames::frame(DATA, 0, 1, &[])),
        ("DATA that is all padding", raw_frames::frame(DATA, 8, 1, &[3, 0, 0, 0])),
        ("settings", raw_frames::frame(raw_frames::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
    ];
    for (what, frame) in floods {
        let (mut reader, mut writer) = serving.connect().await.into_split();
        let drained = tokio::spawn(async move { receive_all(&mut reader).await.len() });
        writer.write_all(&[raw_frames::opening(), opened.clone()].concat()).await.unwrap();
        for _ in 0..50 {
            // The server may close the connection for it.
            if writer.write_all(&frame.repeat(200)).await.is_err() {
                break;
            }
        }
        assert_eq!(soon(serving.client().await.get("/whole/10")).await.unwrap(), pattern(10), "during {what}");
        drop(writer);
        soon(drained).await.unwrap();
        serving.watched.calls(0).await;
    }
    serving.end().await;
}

#[tokio::test]
async fn a_request_whose_body_never_comes_holds_only_its_own_connection() {
    let serving = Loop::start(1, ServingLimits { connections: 2, ..ServingLimits::default() }).await;
    let mut waiting = serving.client().await;
    let (_answer, _body) = waiting.open("/echo", false).await.unwrap();
    serving.watched.calls(1).await;
    assert_eq!(soon(serving.client().await.get("/whole/10")).await.unwrap(), pattern(10));
    drop((waiting, _answer, _body));
    serving.watched.calls(0).await;
    serving.end().await;
}

/// Frames that begin well.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let call = (0..4u32, prop_oneof![Just("/whole/10"), Just("/echo"), Just("/hold"), Just("/pieces/40000")])
        .prop_map(|(number, path)| raw_frames::call(2 * number + 1, path));
    let frame = (0..12u8, any::<u8>(), 0..9u32, proptest::collection::vec(any::<u8>(), 0..64))
        .prop_map(|(kind, flags, stream, payload)| raw_frames::frame(kind, flags, stream, &payload));
    let piece = prop_oneof![
        3 => call,
        3 => frame,
        1 => Just(raw_frames::frame(PING, 0, 0, &[7; 8])),
        1 => proptest::collection::vec(any::<u8>(), 0..100),
    ];
    (proptest::collection::vec(piece, 0..12), any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(pieces, place, whole)| {
            let mut bytes = pieces.concat();
            if !whole && !bytes.is_empty() {
                bytes.truncate(place.index(bytes.len()));
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_bytes_come_the_connection_ends_with_its_client(bytes in frames(), in_opening in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let watched = Watched::default();
            let (mut io, _shutdown, serving) = piped(&watched, ServingLimits::default(), 1 << 20);
            let bytes = if in_opening { [&raw_frames::PREFACE[..9], &bytes].concat() } else { [raw_frames::opening(), bytes].concat() };
            // The server may have closed it already.
            let _ = io.write_all(&bytes).await;
            let _ = io.shutdown().await;
            let _ = soon(io.read_to_end(&mut Vec::new())).await;
            drop(io);
            let served = soon(serving).await;
            assert!(served.is_ok(), "no panic: {served:?}");
            watched.calls(0).await;
        });
    }
}
