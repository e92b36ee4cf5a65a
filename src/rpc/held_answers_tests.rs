use std::convert::Infallible;

use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};

use super::*;

const PAGE: usize = 10_000;
const LIST: &str = "/profilestore.v1.ProfileService/ListProfiles";
const BATCH_WRITE: &str = "/profilestore.v1.ProfileService/BatchWriteProfiles";

/// A body of messages of these sizes.
#[derive(Default)]
struct Messages(Vec<usize>);

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|bytes| Ok(Frame::data(vec![0; bytes].into()))))
    }
}

async fn ask(held: &Arc<HeldAnswers>, path: &str, messages: &[usize]) -> Response<HeldBody<Messages>> {
    let messages: Vec<_> = messages.iter().rev().copied().collect();
    let answer = move |_: Request<()>| {
        let body = LaneBody::Inner { body: Messages(messages.clone()) };
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    };
    Holding::new(service_fn(answer), held.clone()).oneshot(Request::get(path).body(()).unwrap()).await.unwrap()
}

fn is_refused(headers: &HeaderMap) -> bool {
    Status::from_header_map(headers).is_some_and(|status| status.code() == tonic::Code::ResourceExhausted)
}

#[tokio::test]
async fn an_answer_is_charged_until_its_bytes_are_dropped() {
    let held = HeldAnswers::new(2 * PAGE + 1);
    let answers = [ask(&held, LIST, &[PAGE]).await, ask(&held, LIST, &[PAGE]).await];
    assert_eq!(held.bytes(), 2 * PAGE);
    assert!(is_refused(ask(&held, LIST, &[PAGE]).await.headers()));
    assert!(!is_refused(ask(&held, LIST, &[SMALL]).await.headers()), "it is not charged");
    let written = ask(&held, BATCH_WRITE, &[PAGE]).await;
    assert!(!is_refused(written.headers()), "it tells what was written");
    for (write, is_large) in WRITES {
        let answer = ask(&held, &format!("/profilestore.v1.ProfileService/{write}"), &[1]).await;
        assert_eq!(is_refused(answer.headers()), is_large, "{write}: refused before it begins");
    }
    drop(written);
    let [mut first, second] = answers;
    let mut message = first.frame().await.unwrap().unwrap().into_data().unwrap();
    drop(first);
    message.advance(PAGE - 1);
    assert_eq!(held.bytes(), 2 * PAGE);
    drop(message);
    assert_eq!(held.bytes(), PAGE);
    drop(second);
    assert_eq!(held.bytes(), 0);
}

#[tokio::test]
async fn an_answer_without_a_message_still_ends_with_its_head() {
    let held = HeldAnswers::new(PAGE);
    assert!(ask(&held, LIST, &[]).await.body().is_end_stream());
    assert!(!ask(&held, LIST, &[PAGE]).await.body().is_end_stream());
    // As tonic has it: not known to be over before it is asked.
    let over = LaneBody::<Messages>::default();
    let body = HeldBody { body: over, holder: None, first: Some(None), is_over: false };
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn a_stream_that_sees_to_its_room_is_charged_and_not_refused() {
    let held = HeldAnswers::new(2 * PAGE);
    let mut stream = ask(&held, "/profilestore.v1.ProfileService/WatchProfiles", &[PAGE; 5]).await;
    let mut taken = Vec::new();
    while let Some(frame) = stream.frame().await {
        taken.push(frame.unwrap().into_data().unwrap());
    }
    assert_eq!((taken.len(), held.bytes()), (5, 5 * PAGE));
    drop(taken);
    assert_eq!(held.bytes(), 0);
}

#[tokio::test]
async fn a_stream_without_room_for_its_next_message_ends_with_a_status() {
    let held = HeldAnswers::new(PAGE);
    let mut stream = ask(&held, LIST, &[PAGE, 10, PAGE, PAGE]).await;
    let mut taken = Vec::new();
    for _ in 0..2 {
        taken.push(stream.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    let refused = stream.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert!(is_refused(&refused) && !refused.contains_key(header::CONTENT_TYPE));
    assert!(stream.body().is_end_stream() && stream.frame().await.is_none());
    drop(taken);
    assert_eq!(held.bytes(), 0);
}
