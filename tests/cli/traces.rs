//! Traces as a collector gets them: parents, links, status, and what a collector that does not work costs.

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::pb::{
    CreateProfileRequest, GetProfileRequest, Profile, ProfileEvent, WatchProfilesRequest, WatchStart,
    watch_profiles_request::Start,
};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::otlp_receiver::{Manner, Observed, Receiver, hex, number, word};
use crate::*;

type Client = ProfileServiceClient<Channel>;

const GET: &str = "profilestore.v1.ProfileService/GetProfile";
const CREATE: &str = "profilestore.v1.ProfileService/CreateProfile";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A server that sends its traces to a collector; of calls without a context it records this part.
fn tracing(endpoint: &str, ratio: &str) -> Observed {
    Observed::start(&[
        ("PROFILESTORE__OBSERVE__OTLP_ENDPOINT", endpoint),
        ("PROFILESTORE__OBSERVE__TRACE_RATIO", ratio),
        ("PROFILESTORE__OBSERVE__SLOW_REQUEST", "1ns"),
    ])
}

fn with_context<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", header.parse().unwrap());
    request
}

fn create(id: &str) -> CreateProfileRequest {
    let profile = Profile { id: id.into(), email: format!("{id}@x.example"), ..Default::default() };
    CreateProfileRequest { profile: Some(profile), ..Default::default() }
}

fn get(id: &str) -> GetProfileRequest {
    GetProfileRequest { id: id.into(), ..Default::default() }
}

/// The first change of the store, as a watcher of all changes gets it.
async fn first_event(server: &Observed) -> ProfileEvent {
    let start = Some(Start::StartAt(WatchStart::Oldest as i32));
    let request = WatchProfilesRequest { start, ..Default::default() };
    let mut watch = server.profiles().watch_profiles(request).await.unwrap().into_inner();
    loop {
        let message = watch.message().await.unwrap().expect("an event");
        if let Some(event) = message.events.into_iter().next() {
            return event;
        }
    }
}

fn is_code(span: &Span, code: StatusCode) -> bool {
    span.status.clone().unwrap_or_default().code == code as i32
}

#[test]
fn a_write_is_followed_from_its_caller_to_its_group_and_to_the_watcher() {
    let receiver = Receiver::start(Manner::Prompt);
    let server = tracing(&receiver.endpoint(), "0");
    let event = server.block_on(async {
        let mut request = with_context(create("ada"), "01");
        request.metadata_mut().insert("tracestate", "vendor=some".parse().unwrap());
        request.metadata_mut().insert("x-request-id", "order-1".parse().unwrap());
        server.profiles().create_profile(request).await.unwrap();
        first_event(&server).await
    });
    let call = receiver.wait_for("the call's span", |span| span.name == CREATE);
    assert_eq!((hex(&call.trace_id).as_str(), hex(&call.parent_span_id).as_str()), (TRACE, CALLER));
    assert_eq!((call.kind, call.trace_state.as_str()), (SpanKind::Server as i32, "vendor=some"));
    assert!(is_code(&call, StatusCode::Unset));
    assert_eq!(number(&call.attributes, "rpc.grpc.status_code"), Some(0));
    assert_eq!(word(&call.attributes, "rpc.service").as_deref(), Some("profilestore.v1.ProfileService"));
    assert_eq!(word(&call.attributes, "rpc.method").as_deref(), Some("CreateProfile"));
    assert_eq!(word(&call.attributes, "profilestore.request_id").as_deref(), Some("order-1"));
    assert_eq!(word(&call.attributes, "network.peer.address").as_deref(), Some("127.0.0.1"));
    assert!(number(&call.attributes, "profilestore.received_bytes").unwrap() > 5);
    assert_eq!(receiver.resource("service.name").as_deref(), Some("profilestore"));
    assert_eq!(receiver.resource("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));

    let commit = receiver.wait_for("the store's span", |span| span.name == "store.commit");
    assert_eq!((&commit.trace_id, &commit.parent_span_id), (&call.trace_id, &call.span_id));
    let group = receiver.wait_for("the group's span", |span| span.name == "commit_group");
    assert!(group.parent_span_id.is_empty() && group.trace_id != call.trace_id, "it is nobody's alone");
    assert_eq!(group.links.len(), 1);
    assert_eq!((&group.links[0].trace_id, &group.links[0].span_id), (&call.trace_id, &call.span_id));
    assert_eq!(number(&group.attributes, "profilestore.changes"), Some(1));
    for part in ["commit_log.append", "sled.apply"] {
        let part = receiver.wait_for(part, |span| span.name == part);
        assert_eq!((&part.trace_id, &part.parent_span_id), (&group.trace_id, &group.span_id));
        assert!(group.start_time_unix_nano <= part.start_time_unix_nano);
        assert!(part.end_time_unix_nano <= group.end_time_unix_nano);
    }
    assert_eq!(event.traceparent, format!("00-{TRACE}-{}-01", hex(&call.span_id)));
    wait_until("all spans have left", || {
        let page = server.admin("GET", "/metrics", "").1;
        let count = |what: &str| {
            let name = format!("profilestore_trace_spans_{what}_total ");
            page.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<usize>().unwrap()
        };
        let (made, exported) = (count("made"), count("exported"));
        made > 4 && made == exported && exported == receiver.spans().len() && count("failed") == 0
    });
}

#[test]
fn writes_of_one_group_share_its_span_and_it_is_linked_to_all_of_them() {
    let receiver = Receiver::start(Manner::Prompt);
    let server = tracing(&receiver.endpoint(), "1");
    let (mut made, mut spans) = (0, Vec::new());
    let groups_of =
        |spans: &[Span]| -> Vec<Span> { spans.iter().filter(|span| span.name == "commit_group").cloned().collect() };
    wait_until("two in one group", || {
        server.block_on(async {
            // Those that come while a group is synced are in the next one together.
            let creates = (made..made + 64).map(|number| {
                let mut profiles = server.profiles();
                async move { profiles.create_profile(create(&format!("p{number}"))).await.unwrap() }
            });
            futures_util::future::join_all(creates).await;
        });
        made += 64;
        wait_until("all spans", || {
            spans = receiver.spans();
            let links: usize = groups_of(&spans).iter().map(|group| group.links.len()).sum();
            links == made && spans.iter().filter(|span| span.name == CREATE).count() == made
        });
        groups_of(&spans).iter().any(|group| group.links.len() > 1)
    });
    let groups = groups_of(&spans);
    assert!(groups.len() < made, "{} groups", groups.len());
    let changes: i64 = groups.iter().filter_map(|group| number(&group.attributes, "profilestore.changes")).sum();
    assert_eq!(changes, made as i64);
    for link in groups.iter().flat_map(|group| &group.links) {
        assert!(spans.iter().any(|span| span.name == CREATE && span.span_id == link.span_id));
    }
}

#[test]
fn a_get_shows_its_look_up_and_the_store_behind_it() {
    let receiver = Receiver::start(Manner::Prompt);
    let server = tracing(&receiver.endpoint(), "0");
    server.block_on(async {
        let mut profiles = server.profiles();
        profiles.create_profile(create("ada")).await.unwrap();
        // From the store, from the cache by the fast lane, and an absent one from the store and from memory.
        for id in ["ada", "ada", "nobody", "nobody"] {
            let _ = profiles.get_profile(with_context(get(id), "01")).await;
        }
    });
    let source = |span: &Span| word(&span.attributes, "profilestore.source").unwrap_or_default();
    wait_until("four calls", || receiver.spans().iter().filter(|span| span.name == GET).count() == 4);
    let spans = receiver.spans();
    let mut calls: Vec<_> = spans.iter().filter(|span| span.name == GET).collect();
    calls.sort_by_key(|call| call.start_time_unix_nano);
    assert_eq!(calls.iter().map(|call| source(call)).collect::<Vec<_>>(), ["store", "cache", "store", "negative"]);
    let codes: Vec<_> = calls.iter().map(|call| number(&call.attributes, "rpc.grpc.status_code").unwrap()).collect();
    assert_eq!(codes, [0, 0, Code::NotFound as i64, Code::NotFound as i64]);
    assert!(calls.iter().all(|call| is_code(call, StatusCode::Unset)), "an absent profile is no error");
    let below = |call: &Span| -> Vec<String> {
        let mut below: Vec<_> = spans.iter().filter(|span| span.parent_span_id == call.span_id).collect();
        below.sort_by_key(|span| span.start_time_unix_nano);
        let cache =
            |span: &Span| word(&span.attributes, "profilestore.cache").map_or(String::new(), |it| format!(" {it}"));
        below.into_iter().map(|span| format!("{}{}", span.name, cache(span))).collect()
    };
    let found: Vec<_> = calls.iter().map(|call| below(call)).collect();
    assert_eq!(found[0].last().unwrap(), "store.get");
    assert!(found[0].contains(&"cache.get miss".to_owned()), "{found:?}");
    assert_eq!(found[1], ["cache.get hit"]);
    assert!(found[3].contains(&"cache.get negative".to_owned()), "{found:?}");
    assert!(!found[3].contains(&"store.get".to_owned()), "{found:?}");
    assert!(!receiver.spans().iter().any(|span| span.name == CREATE), "nobody recorded it");
}

#[test]
fn callers_decide_and_of_the_others_a_part_is_recorded() {
    let receiver = Receiver::start(Manner::Prompt);
    let server = tracing(&receiver.endpoint(), "1");
    let event = server.block_on(async {
        let mut profiles = server.profiles();
        profiles.create_profile(with_context(create("ada"), "00")).await.unwrap();
        let mut broken = Request::new(get("ada"));
        broken.metadata_mut().insert("traceparent", "00-none-of-it-01".parse().unwrap());
        profiles.get_profile(broken).await.unwrap();
        first_event(&server).await
    });
    let call = receiver.wait_for("the get", |span| span.name == GET);
    assert!(call.parent_span_id.is_empty() && hex(&call.trace_id) != TRACE, "a broken context is none");
    assert!(!receiver.spans().iter().any(|span| span.name == CREATE || span.name == "commit_group"));
    assert_eq!(event.traceparent, "");

    let mut server = tracing(&receiver.endpoint(), "0.25");
    server.block_on(async {
        let mut profiles = server.profiles();
        for _ in 0..1000 {
            let _ = profiles.get_profile(get("nobody")).await;
        }
    });
    server.stop();
    let recorded = receiver.spans().iter().filter(|span| span.name == GET).count();
    assert!((100..500).contains(&recorded), "{recorded} of 1000 at 25 %");
}

#[test]
fn only_the_servers_faults_are_errors_and_a_slow_calls_line_has_its_trace() {
    let receiver = Receiver::start(Manner::Prompt);
    let server = tracing(&receiver.endpoint(), "1");
    server.block_on(async {
        let no_such = "/profilestore.v1.ProfileService/NoSuchCall".parse().unwrap();
        let mut grpc = tonic::client::Grpc::new(server.channel());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<GetProfileRequest, GetProfileRequest>::default();
        let answer = grpc.unary(with_context(get("a"), "01"), no_such, codec).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
        assert_eq!(server.profiles().get_profile(get("")).await.unwrap_err().code(), Code::InvalidArgument);
    });
    let failed = receiver.wait_for("the unknown call", |span| span.name == "unknown/unknown");
    assert!(is_code(&failed, StatusCode::Error));
    assert_eq!(hex(&failed.trace_id), TRACE);
    let line = server.wait_for_line("a call failed", |_| true);
    assert_eq!(line["trace_id"], TRACE);
    let refused = receiver.wait_for("the refused call", |span| span.name == GET);
    assert!(is_code(&refused, StatusCode::Unset));
    let line = server.wait_for_line("a call was slow", |line| line["code"] == "InvalidArgument");
    assert_eq!(line["trace_id"], hex(&refused.trace_id));
}

#[test]
fn without_a_collector_a_callers_trace_still_goes_with_its_write_and_is_in_a_slow_calls_line() {
    let server = Observed::start(&[("PROFILESTORE__OBSERVE__SLOW_REQUEST", "1ns")]);
    let event = server.block_on(async {
        server.profiles().create_profile(with_context(create("ada"), "01")).await.unwrap();
        first_event(&server).await
    });
    assert_eq!(event.traceparent, format!("00-{TRACE}-{CALLER}-01"));
    // Others may record the trace, whatever this caller does.
    server.block_on(async { server.profiles().get_profile(with_context(get("ada"), "00")).await.unwrap() });
    let line = server.wait_for_line("a call was slow", |line| line["method"] == GET);
    assert_eq!(line["trace_id"], TRACE);
    // It is in the log, so it is there after a restart as well.
    let mut server = server;
    server.stop();
    let dir = std::mem::replace(&mut server.dir, tempfile::tempdir().unwrap());
    let again = Observed::start_in(dir, &[]);
    assert_eq!(again.block_on(first_event(&again)), event);
    let threads = std::fs::read_dir(format!("/proc/{}/task", again.process.id())).unwrap();
    // One of them may end meanwhile.
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    let ours: Vec<_> = names.filter(|name| name.trim() == "traces" || name.starts_with("OpenTelemetry")).collect();
    assert_eq!(ours, Vec::<String>::new(), "nothing is set up");
}

#[test]
fn the_standard_variables_set_traces_up_and_ours_go_before_them() {
    let receiver = Receiver::start(Manner::Prompt);
    let endpoint = receiver.endpoint();
    let mut server = Observed::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("PROFILESTORE__OBSERVE__OTLP_ENDPOINT", &endpoint),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1"),
        ("OTEL_SERVICE_NAME", "profiles-of-the-shop"),
    ]);
    let _ = server.block_on(async { server.profiles().get_profile(get("a")).await });
    // What is left is sent at the end.
    server.stop();
    assert_eq!(receiver.spans().iter().filter(|span| span.name == GET).count(), 1);
    assert_eq!(receiver.resource("service.name").as_deref(), Some("profiles-of-the-shop"));
}

#[test]
fn collectors_that_do_not_work_hold_up_no_call_and_no_end() {
    let (slow, hanging) = (Receiver::start(Manner::Slow(Duration::from_secs(1))), Receiver::start(Manner::Hanging));
    let stopped_at = TcpListener::bind("127.0.0.1:0").unwrap();
    for (what, endpoint) in [
        ("unreachable", format!("http://{NOBODY}")),
        ("slow", slow.endpoint()),
        ("hanging", hanging.endpoint()),
        ("never accepts", format!("http://{}", stopped_at.local_addr().unwrap())),
    ] {
        let mut server = tracing(&endpoint, "1");
        let rss = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let profiles = server.profiles();
        let calls = |rounds: usize| {
            server.block_on(async {
                for _ in 0..rounds {
                    let call = async |mut profiles: Client| profiles.get_profile(get("a")).await.unwrap_err().code();
                    let codes = futures_util::future::join_all((0..100).map(|_| call(profiles.clone()))).await;
                    assert!(codes.iter().all(|code| *code == Code::NotFound), "{what}: {codes:?}");
                }
            });
        };
        // More spans than the queue takes, so that it is full.
        calls(30);
        let before = rss();
        calls(100);
        let grown = rss().saturating_sub(before);
        assert!(grown < 12 * 1024, "{what}: {grown} KiB more for the spans of 10,000 calls that nobody takes");
        // It has an end, which does not wait for a collector for ever.
        server.stop();
    }
    assert!(slow.calls() > 0 && hanging.calls() > 0, "they were asked");
}
