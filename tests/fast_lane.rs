//! Nobody can tell from an answer whether it came through the fast lane: the same requests, good and bad, whole and
//! split, compressed, late and malformed, go both ways and the answers are compared to the last byte.

#[path = "fast_lane/calls.rs"]
mod calls;
mod common;
#[path = "fast_lane/sockets.rs"]
mod sockets;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use profilestore::cache::CachedStore;
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::model::Canonicalization;
use profilestore::pb::{BatchGetProfilesRequest, GetProfileRequest};
use profilestore::rpc::at_once::{self, AtOnce};
use profilestore::rpc::{self, Services};
use profilestore::store::Store;
use proptest::prelude::*;
use prost::Message;
use prost_types::FieldMask;
use tower::{Service, ServiceExt};

use common::profiles::{commit, ids, put};
use common::stacks::cache;

const GET: &str = "/profilestore.v1.ProfileService/GetProfile";
const BATCH_GET: &str = "/profilestore.v1.ProfileService/BatchGetProfiles";

/// Ids that are cached, stored, absent, and not ids at all.
const IDS: [&str; 10] = ["hot-1", "hot-2", "hot-3", "hot-1", "hot-2", "cold-1", "absent", "", "no spaces", "ümlaut"];

/// What stands in a request's message.
#[derive(Debug, Clone)]
struct Question {
    batch: bool,
    ids: Vec<String>,
    mask: Option<Vec<&'static str>>,
    /// Bytes behind the message's fields.
    appended: &'static [u8],
    /// Another call than a read by id: its path and its message.
    other: Option<(&'static str, Vec<u8>)>,
}

/// How the message travels.
#[derive(Debug, Clone)]
enum Framing {
    Whole,
    SplitAt(usize),
    /// Cut at all of these places, which may be equal; every piece but the first is late.
    Pieces(Vec<usize>),
    /// The whole message in a stream that then fails.
    Failing,
    /// Something behind the message, in the same frame or in one that comes later.
    Followed(Vec<u8>, bool),
    /// The end of the stream comes by itself.
    LateEnd,
    Gzip,
    /// The flag says compressed, the bytes are not.
    Mislabelled,
    Truncated,
    Twice,
    /// The prefix promises more than is allowed.
    Oversized,
    Trailers,
    Empty,
    /// It never comes.
    Missing,
}

#[derive(Debug, Clone)]
struct Case {
    question: Question,
    framing: Framing,
    method: Method,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    /// Whether the first look at the body finds nothing yet.
    slow: bool,
}

fn question() -> impl Strategy<Value = Question> {
    let ids = proptest::collection::vec(proptest::sample::select(&IDS[..]).prop_map(str::to_owned), 0..5);
    let hot = proptest::sample::subsequence(vec!["hot-1", "hot-2", "hot-3"], 1..=3)
        .prop_map(|ids| ids.into_iter().map(str::to_owned).collect());
    let long = Just(vec!["x".repeat(128), "y".repeat(129), "z".repeat(300)]);
    let many = Just((0..1001).map(|number| format!("id-{number}")).collect());
    let mask = prop_oneof![
        6 => Just(None),
        1 => Just(Some(vec![])),
        1 => Just(Some(vec!["id", "display_name"])),
        1 => Just(Some(vec!["nothing"])),
    ];
    let appended = prop_oneof![
        8 => Just(&b""[..]),
        1 => Just(&b"\x98\x06\x01"[..]),
        1 => Just(&b"\x0a\x7f"[..]),
        1 => Just(&b"\x0a\x02\xff\xfe"[..]),
        1 => Just(&b"\x0a\x80\x00"[..]),
    ];
    (any::<bool>(), prop_oneof![4 => ids, 6 => hot, 1 => long, 1 => many], mask, appended)
        .prop_map(|(batch, ids, mask, appended)| Question { batch, ids, mask, appended, other: None })
}

fn case() -> impl Strategy<Value = Case> {
    let framing = prop_oneof![
        10 => Just(Framing::Whole),
        3 => (0..40usize).prop_map(Framing::SplitAt),
        3 => proptest::collection::vec(0..60usize, 0..8).prop_map(Framing::Pieces),
        1 => Just(Framing::Failing),
        3 => (proptest::collection::vec(0..4u8, 1..12), any::<bool>())
            .prop_map(|(rest, later)| Framing::Followed(rest, later)),
        1 => Just(Framing::LateEnd),
        1 => Just(Framing::Gzip),
        1 => Just(Framing::Mislabelled),
        1 => Just(Framing::Truncated),
        1 => Just(Framing::Twice),
        1 => Just(Framing::Oversized),
        1 => Just(Framing::Trailers),
        1 => Just(Framing::Empty),
        1 => Just(Framing::Missing),
    ];
    let timeout = prop_oneof![
        6 => Just(None),
        6 => Just(Some(("grpc-timeout", "10S"))),
        4 => proptest::sample::select(vec!["0m", "0n", "1n", "4m", "5m", "6m", "soon", "", "100000000S"])
            .prop_map(|timeout| Some(("grpc-timeout", timeout))),
    ];
    let content_type = prop_oneof![
        12 => Just("application/grpc"),
        1 => Just("application/grpc+proto"),
        1 => Just("application/grpc-web"),
        1 => Just("text/plain"),
    ];
    let encoding = prop_oneof![
        12 => Just(None),
        1 => Just(Some(("grpc-encoding", "identity"))),
        1 => Just(Some(("grpc-encoding", "zstd"))),
    ];
    let accepted = prop_oneof![
        Just(None),
        Just(Some(("grpc-accept-encoding", "gzip"))),
        Just(Some(("grpc-accept-encoding", "identity, gzip"))),
    ];
    let method = prop_oneof![15 => Just(Method::POST), 1 => Just(Method::GET), 1 => Just(Method::OPTIONS)];
    let path = prop_oneof![
        20 => Just(""),
        1 => Just("?query=1"),
        1 => Just("/"),
        1 => Just("s"),
    ];
    (question(), framing, (method, path), (timeout, content_type, encoding, accepted), any::<bool>()).prop_map(
        |(question, framing, (method, path), (timeout, content_type, encoding, accepted), slow)| {
            let mut headers = vec![("te", "trailers"), ("content-type", content_type)];
            headers.extend([timeout, encoding, accepted].into_iter().flatten());
            if matches!(framing, Framing::Gzip) {
                headers.retain(|(name, _)| *name != "grpc-encoding");
                headers.push(("grpc-encoding", "gzip"));
            }
            Case { question, framing, method, path, headers, slow }
        },
    )
}

impl Question {
    fn encode(&self) -> Vec<u8> {
        let read_mask =
            self.mask.as_ref().map(|paths| FieldMask { paths: paths.iter().map(|path| path.to_string()).collect() });
        let mut message = if let Some((_, message)) = &self.other {
            message.clone()
        } else if self.batch {
            BatchGetProfilesRequest { ids: self.ids.clone(), read_mask }.encode_to_vec()
        } else {
            GetProfileRequest { id: self.ids.first().cloned().unwrap_or_default(), read_mask }.encode_to_vec()
        };
        message.extend_from_slice(self.appended);
        message
    }
}

impl Case {
    fn request(&self) -> Request<Frames> {
        let mut request = Request::new(self.body());
        *request.method_mut() = self.method.clone();
        let by_id = if self.question.batch { BATCH_GET } else { GET };
        let path = self.question.other.as_ref().map_or(by_id, |(path, _)| path);
        *request.uri_mut() = format!("{path}{}", self.path).parse().unwrap();
        for (name, value) in &self.headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    fn body(&self) -> Frames {
        let message = self.question.encode();
        let framed = |flag: u8, message: &[u8]| {
            let mut bytes = BytesMut::new();
            bytes.put_u8(flag);
            bytes.put_u32(message.len() as u32);
            bytes.put_slice(message);
            bytes.freeze()
        };
        let whole = framed(0, &message);
        let mut frames = VecDeque::new();
        let (mut ends_with_last, mut fails) = (true, false);
        match &self.framing {
            Framing::Whole => frames.push_back(Frame::data(whole)),
            Framing::SplitAt(place) => {
                let (front, back) = whole.split_at(whole.len().min(*place));
                frames.extend([front, back].map(|part| Frame::data(Bytes::copy_from_slice(part))));
            }
            Framing::Pieces(places) => {
                let mut places: Vec<_> = places.iter().map(|place| whole.len().min(*place)).collect();
                places.sort_unstable();
                let ends = places.iter().copied().chain([whole.len()]);
                let starts = [0].into_iter().chain(places.iter().copied());
                frames.extend(starts.zip(ends).map(|(start, end)| Frame::data(whole.slice(start..end))));
            }
            Framing::Failing => {
                frames.push_back(Frame::data(whole));
                (ends_with_last, fails) = (false, true);
            }
            Framing::Followed(rest, false) => frames.push_back(Frame::data([&whole[..], rest].concat().into())),
            Framing::Followed(rest, true) => {
                frames.extend([Frame::data(whole), Frame::data(Bytes::copy_from_slice(rest))]);
            }
            Framing::LateEnd => {
                frames.push_back(Frame::data(whole));
                ends_with_last = false;
            }
            Framing::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                std::io::Write::write_all(&mut encoder, &message).unwrap();
                frames.push_back(Frame::data(framed(1, &encoder.finish().unwrap())));
            }
            Framing::Mislabelled => frames.push_back(Frame::data(framed(1, &message))),
            Framing::Truncated => frames.push_back(Frame::data(whole.slice(..whole.len() - 1))),
            Framing::Twice => frames.push_back(Frame::data([&whole[..], &whole[..]].concat().into())),
            Framing::Oversized => frames.push_back(Frame::data(Bytes::from_static(b"\0\xff\xff\xff\xff\x0a\x01a"))),
            Framing::Trailers => frames.extend([Frame::data(whole), Frame::trailers(HeaderMap::new())]),
            Framing::Empty => frames.push_back(Frame::data(Bytes::new())),
            Framing::Missing => {}
        }
        let always_late = matches!(self.framing, Framing::Pieces(_));
        Frames { frames, ends_with_last, fails, pending: self.slow, always_late }
    }
}

/// A request's body.
struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    /// Whether the last frame says that it is the last.
    ends_with_last: bool,
    /// Whether it ends with an error.
    fails: bool,
    /// Whether no two frames are there together.
    always_late: bool,
    /// Whether the next poll finds nothing yet.
    pending: bool,
}

impl Frames {
    /// All of it, if it is there in one piece.
    fn whole(&self) -> Option<Bytes> {
        let is_there = self.ends_with_last && !self.fails && !self.pending && self.frames.len() == 1;
        self.frames.front().filter(|_| is_there)?.data_ref().cloned()
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if std::mem::take(&mut self.pending) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pending = self.always_late;
        let failure = self.fails.then(|| Err(tonic::Status::internal("the stream broke")));
        Poll::Ready(self.frames.pop_front().map(Ok).or(failure))
    }

    fn is_end_stream(&self) -> bool {
        self.ends_with_last && self.frames.is_empty()
    }
}

/// All that a caller can see of an answer.
#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// Whether nothing comes behind the headers.
    ends_with_head: bool,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

async fn answer<S, R>(service: S, request: Request<Frames>) -> Answer
where
    S: Service<Request<Frames>, Response = Response<R>, Error: std::fmt::Debug>,
    R: Body<Error: std::fmt::Debug>,
{
    let (parts, body) = service.oneshot(request).await.unwrap().into_parts();
    let ends_with_head = body.is_end_stream();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    Answer { status: parts.status, headers: parts.headers, ends_with_head, body: body.to_bytes(), trailers }
}

/// The answer that a connection gives: at once where that is possible.
async fn served(services: &Services, request: Request<Frames>) -> Answer {
    let mut stack = services.stack();
    if let Some(whole) = request.body().whole()
        && let Some(mut message) = stack.at_once(&request, &whole)
    {
        let body = message.copy_to_bytes(message.remaining());
        let (headers, trailers) = (at_once::head(), Some(at_once::trailers()));
        return Answer { status: StatusCode::OK, headers, ends_with_head: false, body, trailers };
    }
    answer(stack, request).await
}

/// Services over three cached profiles and one that is not, and the cache.
async fn services() -> (Services, Arc<CachedStore<MemoryStore>>) {
    let cache = cache();
    let store = Arc::new(CachedStore::new(MemoryStore::new(EngineRules::default(), cache.clone()), cache.clone()));
    let name = "x".repeat(200);
    let puts = ["hot-1", "hot-2", "hot-3", "cold-1"].map(|id| put(id, "ada@a.example", &name));
    commit(&*store, puts.into()).await;
    store.get_many(&ids(["hot-1", "hot-2", "hot-3"])).await.unwrap();
    (rpc::services(store.clone(), Some(cache), Canonicalization::default()).await.unwrap(), store)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn answers_are_the_same_both_ways(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (served, lane, generated) = runtime.block_on(async {
            let (services, _) = services().await;
            let served = served(&services, case.request()).await;
            (served, answer(services.stack(), case.request()).await, answer(services.generated(), case.request()).await)
        });
        prop_assert_eq!(&lane, &generated);
        prop_assert_eq!(served, generated);
    }
}

#[tokio::test]
async fn a_hot_read_takes_the_lane_and_is_counted_once() {
    let (services, store) = services().await;
    let before = store.figures();
    let hot = |batch: bool| Case {
        question: Question {
            batch,
            ids: vec!["hot-1".into(), "hot-2".into()],
            mask: None,
            appended: b"",
            other: None,
        },
        framing: Framing::Whole,
        method: Method::POST,
        path: "",
        headers: vec![("content-type", "application/grpc")],
        slow: false,
    };
    for (batch, hits) in [(false, 1), (true, 2)] {
        let earlier = store.figures().hits;
        let response = services.stack().oneshot(hot(batch).request()).await.unwrap();
        assert!(response.body().is_from_the_lane());
        assert_eq!(store.figures().hits - earlier, hits);
    }
    for (batch, hits) in [(false, 1), (true, 2)] {
        let (earlier, request) = (store.figures().hits, hot(batch).request());
        assert!(services.stack().at_once(&request, &request.body().whole().unwrap()).is_some());
        assert_eq!(store.figures().hits - earlier, hits);
    }
    let mut cold = hot(true);
    cold.question.ids.push("cold-1".into());
    // What was looked up in vain is not looked up again.
    let (mut stack, request) = (services.stack(), cold.request());
    assert!(stack.at_once(&request, &request.body().whole().unwrap()).is_none());
    let response = stack.oneshot(request).await.unwrap();
    assert!(!response.body().is_from_the_lane());
    assert_eq!(store.figures().hits - before.hits, 2 * 3 + 2);
    assert_eq!(store.figures().misses - before.misses, 1);
}
