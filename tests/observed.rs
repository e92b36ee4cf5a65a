//! What becomes of each call is told once: its code, its time, its bytes and messages, and where its answer came from;
//! through the fast lane and past it, whole and broken off. And what store, feed and serving loop tell besides is what happened.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use profilestore::cache::CachedStore;
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::feed::{Feed, Filter, MAX_MESSAGE_BYTES, Step};
use profilestore::model::Canonicalization;
use profilestore::observe::{CallSink, Calls, Code, EndedCall, Method, Observer, Traffic};
use profilestore::pb;
use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::rpc::{self, Services};
use profilestore::server::serving::{ServingFigures, ServingLimits, serve_counted};
use profilestore::store::{AnswerSource, NoObserver, Scope, Store};
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use common::profiles::{commit, ids, put};
use common::stacks::cache;

const PROFILES: &str = "profilestore.v1.ProfileService";

/// Keeps what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<EndedCall>>);

impl CallSink for Told {
    fn ended(&self, call: &EndedCall) {
        self.0.lock().unwrap().push(call.clone());
    }
}

struct Fixture {
    services: Services,
    calls: Arc<Calls>,
    told: Arc<Told>,
}

impl Fixture {
    /// Services over one profile that is cached and one that is not.
    async fn new() -> Self {
        let cache = cache();
        let store =
            Arc::new(CachedStore::new(MemoryStore::new(EngineRules::default(), cache.clone()), cache.clone()));
        commit(&*store, ["hot", "cold"].map(|id| put(id, "ada@a.example", "Ada")).into()).await;
        store.get_many(&ids(["hot"])).await.unwrap();
        let (calls, told) = (Calls::new(), Arc::new(Told::default()));
        let observer = Observer::new().with_calls(calls.clone()).with_sink(told.clone());
        let services = rpc::services(store, Some(cache), Canonicalization::default()).await.unwrap();
        Self { services: services.with_observer(Arc::new(observer)), calls, told }
    }

    fn told(&self) -> Vec<EndedCall> {
        self.told.0.lock().unwrap().clone()
    }

    /// Calls, reads the whole answer, and returns the one call that was told, with the bytes of the answer.
    async fn call(&self, path: &str, message: &impl Message) -> (EndedCall, usize) {
        let before = self.told().len();
        let answer = self.services.stack().oneshot(request(path, message)).await.unwrap();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes().len();
        let told = self.told();
        assert_eq!(told.len(), before + 1, "each call is told once");
        (told.last().unwrap().clone(), bytes)
    }
}

fn request(path: &str, message: &impl Message) -> Request<Full<Bytes>> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.encoded_len() as u32);
    message.encode(&mut body).unwrap();
    let request = Request::post(format!("http://a/{path}")).header("content-type", "application/grpc");
    request.body(Full::new(body.freeze())).unwrap()
}

fn get(id: &str) -> pb::GetProfileRequest {
    pb::GetProfileRequest { id: id.into(), ..Default::default() }
}

fn watch() -> pb::WatchProfilesRequest {
    let start = pb::watch_profiles_request::Start::StartAt(pb::WatchStart::Oldest.into());
    pb::WatchProfilesRequest { start: Some(start), ..Default::default() }
}

fn code(number: u8) -> Code {
    Code::of_header(number.to_string().as_bytes())
}

#[tokio::test]
async fn a_call_is_told_with_its_code_its_bytes_and_the_source_of_its_answer() {
    let fixture = Fixture::new().await;
    let get_path = format!("{PROFILES}/GetProfile");
    for (id, number, source) in [
        ("hot", 0, Some(AnswerSource::Cache)),
        ("cold", 0, Some(AnswerSource::Store)),
        ("cold", 0, Some(AnswerSource::Cache)),
        ("absent", 5, Some(AnswerSource::Store)),
        ("absent", 5, Some(AnswerSource::Negative)),
        ("no spaces", 3, None),
    ] {
        let (told, answered) = fixture.call(&get_path, &get(id)).await;
        assert_eq!((told.method, told.code, told.source), (Method::GET_PROFILE, code(number), source), "{id}");
        let messages = u64::from(number == 0);
        assert_eq!(told.sent, Traffic { bytes: answered as u64, messages }, "{id}");
        assert_eq!(told.received, Traffic { bytes: 5 + get(id).encoded_len() as u64, messages: 1 }, "{id}");
        assert!(told.elapsed <= told.started.elapsed());
    }
    let gets = fixture.calls.figures().of(Method::GET_PROFILE).clone();
    assert_eq!((gets.begun, gets.ended(), gets.latency.count(), gets.in_flight()), (6, 6, 6, 0));
    assert_eq!((gets.by_code[0], gets.by_code[5], gets.by_code[3]), (3, 2, 1));
    let told = fixture.told();
    let sum = |of: fn(&EndedCall) -> u64| told.iter().map(of).sum::<u64>();
    assert_eq!(gets.received_bytes, sum(|call| call.received.bytes));
    assert_eq!(gets.sent_bytes, sum(|call| call.sent.bytes));
    assert_eq!((gets.received_messages, gets.sent_messages), (6, 3));
    assert_eq!(gets.latency.sum, sum(|call| call.elapsed.as_nanos() as u64));
}

#[tokio::test]
async fn a_path_that_leads_nowhere_is_counted_without_its_name() {
    let fixture = Fixture::new().await;
    for path in ["profilestore.v1.ProfileService/Ada", "ada@a.example/x", "x"] {
        let (told, _) = fixture.call(path, &get("hot")).await;
        assert_eq!((told.method, told.code), (Method::UNKNOWN, code(12)), "{path}");
    }
}

#[tokio::test]
async fn a_stream_is_in_flight_until_its_body_is_dropped_and_then_it_is_cancelled() {
    let fixture = Fixture::new().await;
    let method = Method::of_path("/profilestore.v1.ProfileService/WatchProfiles");
    let path = format!("{PROFILES}/WatchProfiles");
    let mut answer = fixture.services.stack().oneshot(request(&path, &watch())).await.unwrap();
    answer.body_mut().frame().await.unwrap().unwrap();
    let during = fixture.calls.figures().of(method).clone();
    assert_eq!((during.begun, during.in_flight()), (1, 1));
    assert!(during.sent_messages >= 1 && during.received_messages == 1, "messages are counted as they move");
    drop(answer);
    let after = fixture.calls.figures().of(method).clone();
    assert_eq!((after.in_flight(), after.by_code[Code::CANCELLED.number()]), (0, 1));
    assert_eq!(fixture.told().len(), 1);
}

#[tokio::test]
async fn a_call_that_is_given_up_before_its_answer_is_cancelled() {
    let fixture = Fixture::new().await;
    let mut stack = fixture.services.stack();
    let never = http_body_util::StreamBody::new(futures_util::stream::pending::<
        Result<http_body::Frame<Bytes>, std::convert::Infallible>,
    >());
    let request = request(&format!("{PROFILES}/GetProfile"), &get("hot")).map(|_| never);
    let mut call = Box::pin(tower::Service::call(&mut stack, request));
    assert!(futures_util::poll!(&mut call).is_pending());
    assert_eq!(fixture.calls.figures().of(Method::GET_PROFILE).in_flight(), 1);
    drop(call);
    let told = fixture.told();
    assert_eq!((told.len(), told[0].code), (1, Code::CANCELLED));
}

#[tokio::test]
async fn a_call_that_panics_is_the_servers_fault() {
    let fixture = Fixture::new().await;
    let mut stack = fixture.services.stack();
    let defect = http_body_util::StreamBody::new(futures_util::stream::poll_fn(
        |_| -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, std::convert::Infallible>>> {
            panic!("wanted")
        },
    ));
    let request = request(&format!("{PROFILES}/GetProfile"), &get("hot")).map(|_| defect);
    let call = tower::Service::call(&mut stack, request);
    // As a serving thread runs it.
    let ended = LocalSet::new().run_until(async { tokio::task::spawn_local(call).await }).await;
    assert!(ended.is_err_and(|error| error.is_panic()));
    let told = fixture.told();
    assert_eq!((told.len(), told[0].code), (1, Code::INTERNAL));
    assert!(told[0].code.is_server_error(), "it leaves a line and counts against the budget");
    assert_eq!(fixture.calls.figures().of(Method::GET_PROFILE).in_flight(), 0);
}

#[tokio::test]
async fn a_call_whose_connection_the_server_cuts_is_not_the_callers_doing() {
    let day = Duration::from_secs(86_400);
    for cut in ["shutdown", "too old"] {
        let mut short = Duration::from_millis(20);
        loop {
            let limits = ServingLimits { drain_timeout: short, connection_age: day, ..ServingLimits::default() };
            let too_old = ServingLimits { connection_age: short, connection_age_grace: short, ..limits };
            if is_cut(cut == "shutdown", if cut == "shutdown" { limits } else { too_old }).await {
                break;
            }
            // A busy machine has cut it before the call was under way.
            short *= 2;
            assert!(short < Duration::from_secs(60), "{cut}");
        }
    }
}

/// Cuts the connection of a watch; `false` if that came before the watch had begun.
async fn is_cut(by_shutdown: bool, limits: ServingLimits) -> bool {
    let fixture = Fixture::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (figures, shutdown) = (Arc::<ServingFigures>::default(), CancellationToken::new());
    let serving = serve_counted(listener, fixture.services.stack(), 1, limits, figures, shutdown.clone());
    let serving = tokio::spawn(serving);
    let begun = async {
        let mut client = ProfileServiceClient::connect(format!("http://{address}")).await.ok()?;
        let mut changes = client.watch_profiles(watch()).await.ok()?.into_inner();
        while changes.message().await.ok()??.events.is_empty() {}
        Some((client, changes))
    };
    let begun = common::soon(begun).await;
    if by_shutdown {
        shutdown.cancel();
    }
    let has_begun = begun.is_some();
    if let Some((_client, mut changes)) = begun {
        common::soon(async { while changes.message().await.is_ok_and(|message| message.is_some()) {} }).await;
    }
    shutdown.cancel();
    common::soon(serving).await.unwrap().unwrap();
    if has_begun {
        let told = fixture.told();
        assert_eq!((told.len(), told[0].code), (1, Code::UNAVAILABLE), "by a shutdown: {by_shutdown}");
    }
    has_begun
}

#[tokio::test]
async fn a_call_of_a_client_that_is_given_up_is_not_the_callers_doing() {
    // Long enough for a busy machine to begin the call before the first probe must be answered.
    let patience = Duration::from_secs(1);
    let limits =
        ServingLimits { keepalive_interval: patience, keepalive_timeout: patience, ..ServingLimits::default() };
    let fixture = Fixture::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (figures, shutdown) = (Arc::<ServingFigures>::default(), CancellationToken::new());
    let _end = shutdown.clone().drop_guard();
    tokio::spawn(serve_counted(listener, fixture.services.stack(), 1, limits, figures, shutdown));
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut client, mut connection) = h2::client::handshake(socket).await.unwrap();
    let (head, body) = request(&format!("{PROFILES}/WatchProfiles"), &watch()).into_parts();
    let (_answer, mut stream) = client.send_request(http::Request::from_parts(head, ()), false).unwrap();
    stream.send_data(body.collect().await.unwrap().to_bytes(), true).unwrap();
    let begun = async {
        while fixture.calls.figures().of(Method::of_path(&format!("/{PROFILES}/WatchProfiles"))).begun == 0 {
            tokio::task::yield_now().await;
        }
    };
    // The client is polled until then, and answers no probe after it.
    tokio::select! {
        ended = &mut connection => panic!("{ended:?}"),
        () = begun => {}
    }
    common::soon(async {
        while fixture.told().is_empty() {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert_eq!(fixture.told()[0].code, Code::UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_meets_its_deadline_ends_with_it_and_with_its_time() {
    let fixture = Fixture::new().await;
    let mut request = request(&format!("{PROFILES}/WatchProfiles"), &watch());
    request.headers_mut().insert("grpc-timeout", "20m".parse().unwrap());
    let answer = fixture.services.stack().oneshot(request).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let told = fixture.told();
    assert_eq!((told.len(), told[0].code), (1, code(4)));
    assert!(told[0].code.is_server_error() && told[0].elapsed < Duration::from_secs(60));
}

#[tokio::test]
async fn nobody_is_told_when_nobody_wants_to_know() {
    let fixture = Fixture::new().await;
    let services = fixture.services.clone().with_observer(Arc::new(Observer::new()));
    let answer = services.stack().oneshot(request(&format!("{PROFILES}/GetProfile"), &get("hot"))).await.unwrap();
    assert!(answer.body().is_from_the_lane());
    answer.into_body().collect().await.unwrap();
    assert!(fixture.told().is_empty());
    assert_eq!(fixture.calls.figures().of(Method::GET_PROFILE).begun, 0);
}

#[tokio::test]
async fn what_the_store_on_disk_did_is_in_its_figures() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledOptions::new(dir.path()), Arc::new(NoObserver)).await.unwrap();
    commit(&store, vec![put("a", "", "A"), put("b", "", "B"), put("c", "", "C")]).await;
    store.get(&ids(["a"])[0]).await.unwrap();
    store.count(&Scope::All).await.unwrap();
    store.snapshot().await.unwrap();
    let figures = store.figures();
    let operations: Vec<_> =
        figures.operations().filter(|(_, seen)| seen.count() > 0).map(|(name, _)| name).collect();
    assert_eq!(operations, ["get", "count", "commit"]);
    let steps: HashMap<_, _> = figures.steps().collect();
    assert_eq!((steps["log_append"].count(), steps["apply"].count()), (1, 1));
    assert!(steps["log_append"].sum > 0);
    let groups = figures.group_writes();
    assert_eq!((groups.count(), groups.sum), (1, 3));
    assert!(figures.log_bytes() > 0 && !figures.open().healed && !figures.is_disk_low());
    assert_eq!((figures.snapshots(), figures.snapshot_failures()), (1, 0));
    assert!(figures.newest_snapshot().unwrap().0 > 0);
    let (waiting, bounds) = store.queue();
    assert_eq!((waiting.commits, waiting.bytes), (0, 0));
    assert!(bounds.commits > 0 && bounds.bytes > 0);
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_slowest_watcher_is_as_far_behind_as_it_has_not_moved() {
    let store = Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)));
    let feed = Feed::start(store.clone(), 10);
    assert_eq!(feed.slowest_lag(), 0);
    let mut slow = feed.watch_from_now(Filter::all()).await.unwrap();
    for name in ["A", "B", "C"] {
        commit(&*store, vec![put("a", "", name)]).await;
    }
    let quick = feed.watch_from_now(Filter::all()).await.unwrap();
    assert_eq!(feed.slowest_lag(), 3);
    while feed.slowest_lag() > 0 {
        if slow.advance(MAX_MESSAGE_BYTES).await.unwrap() == Step::UpToDate {
            slow.changed().await;
        }
    }
    commit(&*store, vec![put("a", "", "D")]).await;
    assert_eq!(feed.slowest_lag(), 1);
    drop((slow, quick));
    assert_eq!(feed.slowest_lag(), 0, "who is gone is behind nobody");
}

#[tokio::test]
async fn connections_are_counted_with_how_they_ended() {
    let fixture = Fixture::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits =
        ServingLimits { connections: 1, handshake_timeout: Duration::from_millis(50), ..ServingLimits::default() };
    let (figures, shutdown) = (Arc::<ServingFigures>::default(), CancellationToken::new());
    let serving = serve_counted(listener, fixture.services.stack(), 1, limits, figures.clone(), shutdown.clone());
    let serving = tokio::spawn(serving);
    let silent = TcpStream::connect(address).await.unwrap();
    let until = async |is_so: &dyn Fn() -> bool| {
        common::soon(async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    };
    until(&|| figures.accepted() == 1).await;
    let ended = |name: &str| figures.ended().find(|(end, _)| *end == name).unwrap().1;
    until(&|| ended("no_preface") == 1).await;
    drop(silent);
    let mut strangers = 0;
    // On a busy machine one may have said nothing in its time.
    while ended("io") == 0 {
        let mut stranger = TcpStream::connect(address).await.unwrap();
        let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        strangers += 1;
        until(&|| ended("no_preface") + ended("io") == 1 + strangers).await;
    }
    until(&|| figures.open() == 0).await;
    assert_eq!((figures.accepted(), figures.refused()), (1 + strangers, 0));
    let mut held = Vec::new();
    while figures.refused() == 0 {
        held.push(TcpStream::connect(address).await.unwrap());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(figures.runtimes().len(), 1);
    shutdown.cancel();
    serving.await.unwrap().unwrap();
}
