//! The bounds on connections, calls and headers, and what becomes of a connection's room when it ends in any way.

use profilestore::server::serving::ServingLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::soon;
use crate::harness::*;
use crate::raw_frames::{self, HEADERS, RST_STREAM, SETTINGS, receive};

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_at_once_and_one_that_ends_makes_room() {
    let serving = Loop::start(2, ServingLimits { connections: 3, ..ServingLimits::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = serving.client().await;
        client.get("/whole/1").await.unwrap();
        clients.push(client);
    }
    for _ in 0..5 {
        let mut one_more = serving.connect().await;
        assert_eq!(soon(one_more.read(&mut [0; 1])).await.unwrap_or(0), 0, "it is closed");
    }
    for client in &mut clients {
        assert_eq!(soon(client.get("/whole/10")).await.unwrap(), pattern(10), "those that are served stay");
    }
    clients.pop();
    serving.served().await;
    serving.end().await;
}

#[tokio::test]
async fn a_connection_gives_its_room_back_however_it_ends() {
    let opening = raw_frames::opening;
    let ways: [(&str, Vec<u8>); 6] = [
        ("without a word", Vec::new()),
        ("in the preface", raw_frames::PREFACE[..10].to_vec()),
        ("not HTTP/2", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("idle", opening()),
        ("in the middle of a frame", [opening(), raw_frames::call(1, "/hold")[..12].to_vec()].concat()),
        ("with a call in flight", [opening(), raw_frames::call(1, "/hold")].concat()),
    ];
    for (way, bytes) in ways {
        for half in [true, false] {
            let serving = Loop::start(1, ServingLimits { connections: 1, ..ServingLimits::default() }).await;
            let mut stream = serving.connect().await;
            stream.write_all(&bytes).await.unwrap();
            if bytes.ends_with(&raw_frames::call(1, "/hold")) {
                serving.watched.calls(1).await;
            }
            if half {
                // The client says nothing more but still reads; HTTP/2 knows no half connections.
                stream.shutdown().await.unwrap();
                let mut rest = Vec::new();
                // A reset is an end too.
                let _ = soon(stream.read_to_end(&mut rest)).await;
            }
            drop(stream);
            serving.served().await;
            assert!(serving.watched.most_calls() <= 1, "{way}");
            serving.watched.calls(0).await;
            serving.end().await;
        }
    }
}

#[tokio::test]
async fn a_call_that_panics_takes_nobody_with_it() {
    let serving = Loop::start(1, ServingLimits { connections: 1, ..ServingLimits::default() }).await;
    let mut client = serving.client().await;
    let held = whole(client.begin("/hold").await.unwrap());
    serving.watched.calls(1).await;
    for _ in 0..10 {
        let error = soon(client.get("/panic")).await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
        assert_eq!(soon(client.get("/whole/10")).await.unwrap(), pattern(10));
    }
    serving.watched.release();
    assert_eq!(soon(held).await.unwrap(), b"released");
    serving.watched.calls(0).await;
    serving.end().await;
}

#[tokio::test]
async fn a_connection_has_at_most_so_many_calls_and_a_client_is_told() {
    let serving = Loop::start(1, ServingLimits { streams_per_connection: 3, ..ServingLimits::default() }).await;
    let mut stream = serving.connect().await;
    stream.write_all(&raw_frames::opening()).await.unwrap();
    let settings = receive(&mut stream).await.unwrap();
    assert_eq!(settings.kind, SETTINGS);
    let told: Vec<_> = settings.payload.chunks(6).filter(|setting| setting[1] == 3).collect();
    assert_eq!(told, [[0, 3, 0, 0, 0, 3]]);
    // A client that does not care.
    for number in 0..10 {
        stream.write_all(&raw_frames::call(2 * number + 1, "/hold")).await.unwrap();
    }
    let mut refused = Vec::new();
    while refused.len() < 7 {
        let frame = soon(receive(&mut stream)).await.expect("the connection stays");
        if frame.kind == RST_STREAM {
            assert_eq!(frame.error_code(), 7, "REFUSED_STREAM, so that the client may repeat it");
            refused.push(frame.stream);
        }
    }
    assert_eq!(refused, [7, 9, 11, 13, 15, 17, 19]);
    serving.watched.calls(3).await;
    serving.watched.release();
    let mut answered = 0;
    while answered < 3 {
        answered += usize::from(soon(receive(&mut stream)).await.unwrap().kind == HEADERS);
    }
    serving.watched.calls(0).await;
    assert_eq!(serving.watched.most_calls(), 3);
    serving.end().await;
}

#[tokio::test]
async fn headers_over_the_limit_are_refused_and_the_connection_goes_on() {
    let serving = Loop::start(1, ServingLimits { header_bytes: 4096, ..ServingLimits::default() }).await;
    let mut stream = serving.connect().await;
    let mut block = raw_frames::request_headers("/whole/1");
    for number in 0..100 {
        block.extend(raw_frames::literal(&format!("x-{number}"), &"y".repeat(100)));
    }
    let giant = raw_frames::frame(HEADERS, raw_frames::END_HEADERS | raw_frames::END_STREAM, 1, &block);
    let bytes = [raw_frames::opening(), giant, raw_frames::call(3, "/whole/10")].concat();
    stream.write_all(&bytes).await.unwrap();
    let (mut refused, mut answered) = (false, false);
    while !(refused && answered) {
        let frame = soon(receive(&mut stream)).await.expect("the connection stays");
        match (frame.kind, frame.stream) {
            (HEADERS | RST_STREAM, 1) => refused = true,
            (raw_frames::DATA, 3) => answered = frame.payload == pattern(10),
            _ => {}
        }
    }
    assert_eq!(serving.watched.begun_so_far(), 1, "the giant one was not begun");
    serving.end().await;
}
