//! The log while the server runs: its filter, its lines about calls, and what is never in it.

use profilestore::pb::{ExportProfilesRequest, GetProfileRequest, WatchProfilesRequest};
use rustix::process::Signal;
use tonic::{Code, Request};

use crate::otlp_receiver::Observed;
use crate::*;

/// Every call is slower than this.
const ALL_ARE_SLOW: (&str, &str) = ("PROFILESTORE__OBSERVE__SLOW_REQUEST", "1ns");

fn get(id: &str) -> GetProfileRequest {
    GetProfileRequest { id: id.into(), ..Default::default() }
}

#[test]
fn a_slow_call_leaves_a_line_that_says_all_about_it_but_nothing_of_the_profile() {
    let server = Observed::start(&[ALL_ARE_SLOW]);
    server.block_on(async {
        let mut profiles = server.profiles();
        let mut request = Request::new(get("nobody-of-that-name"));
        request.metadata_mut().insert("x-request-id", "order-66.a_b".parse().unwrap());
        assert_eq!(profiles.get_profile(request).await.unwrap_err().code(), Code::NotFound);
        let mut request = Request::new(get("nobody-of-that-name"));
        request.metadata_mut().insert("x-request-id", "ada@example.com".parse().unwrap());
        assert_eq!(profiles.get_profile(request).await.unwrap_err().code(), Code::NotFound);
    });
    let line = server.wait_for_line("a call was slow", |line| line["request_id"] == "order-66.a_b");
    assert_eq!(line["method"], "profilestore.v1.ProfileService/GetProfile");
    assert_eq!((line["code"].as_str(), line["source"].as_str()), (Some("NotFound"), Some("store")));
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0);
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    assert_eq!(line["received_bytes"], 5 + 2 + "nobody-of-that-name".len());
    assert!(line.get("trace_id").is_none(), "there is no trace: {line}");
    let nameless = server.wait_for_line("a call was slow", |line| line["source"] == "negative");
    assert!(nameless.get("request_id").is_none(), "what its caller does not know helps nobody: {nameless}");
    assert!(!server.log_text().contains("nobody-of") && !server.log_text().contains("ada@"));
}

#[test]
fn a_call_that_fails_by_the_servers_fault_leaves_a_line_and_a_callers_mistake_none() {
    let server = Observed::start(&[]);
    server.block_on(async {
        fail(&server).await;
        assert_eq!(server.profiles().get_profile(get("")).await.unwrap_err().code(), Code::InvalidArgument);
    });
    let line = server.wait_for_line("a call failed", |_| true);
    assert_eq!((line["method"].as_str(), line["code"].as_str()), (Some("unknown/unknown"), Some("Unimplemented")));
    server.block_on(async {
        let mut patience = Duration::from_millis(50);
        // On a busy machine it may meet its deadline before it has begun.
        let mut watch = loop {
            let mut request = Request::new(WatchProfilesRequest::default());
            request.set_timeout(patience);
            patience *= 2;
            match server.profiles().watch_profiles(request).await {
                Ok(watch) => break watch.into_inner(),
                Err(status) => assert!(patience < Duration::from_secs(60), "{status:?}"),
            }
        };
        let ended = loop {
            if let Err(ended) = watch.message().await {
                break ended;
            }
        };
        assert_eq!(ended.code(), Code::DeadlineExceeded);
        fail(&server).await;
    });
    wait_until("the line of the later call", || server.lines("a call failed").len() > 1);
    assert_eq!(server.lines("a call failed").len(), 2, "the end of a watch is no failure");
    assert_eq!(server.lines("a call was slow").len(), 0);
    assert!(!server.log_text().contains("NameOfNobody"));
}

/// A call that fails by the server's fault.
async fn fail(server: &Observed) {
    let no_such = "/profilestore.v1.ProfileService/NameOfNobody".parse().unwrap();
    let mut grpc = tonic::client::Grpc::new(server.channel());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<GetProfileRequest, GetProfileRequest>::default();
    let answer = grpc.unary(Request::new(get("")), no_such, codec).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}

#[test]
fn a_storm_of_slow_calls_leaves_few_lines_that_count_the_others_and_hides_no_call_that_fails() {
    let server = Observed::start(&[ALL_ARE_SLOW]);
    let mut calls = 500;
    let storm = async |calls: usize| {
        let mut profiles = server.profiles();
        for _ in 0..calls {
            let _ = profiles.get_profile(get("a")).await;
        }
    };
    server.block_on(storm(calls));
    server.block_on(fail(&server));
    server.wait_for_line("a call failed", |_| true);
    // Each line says how many calls before it left none, so those behind the last line are the only ones missing.
    let lines = |server: &Observed| server.lines("a call was slow");
    let first = lines(&server).len();
    assert!((1..calls).contains(&first), "{first} lines");
    wait_until("the next window", || {
        server.block_on(storm(1));
        calls += 1;
        lines(&server).iter().any(|line| line["fields"]["left_out"].as_u64() > Some(0))
    });
    let counted = |line: &serde_json::Value| 1 + line["fields"]["left_out"].as_u64().unwrap();
    // The last lines may come after their answers.
    wait_until("all are counted", || lines(&server).iter().map(counted).sum::<u64>() >= calls as u64);
    assert_eq!(lines(&server).iter().map(counted).sum::<u64>(), calls as u64);
}

#[test]
fn a_long_stream_leaves_a_line_and_a_watch_none() {
    let server = Observed::start(&[ALL_ARE_SLOW]);
    server.block_on(async {
        let mut profiles = server.profiles();
        drop(profiles.watch_profiles(WatchProfilesRequest::default()).await.unwrap());
        let mut export = profiles.export_profiles(ExportProfilesRequest::default()).await.unwrap().into_inner();
        while export.message().await.unwrap().is_some() {}
    });
    let line = server.wait_for_line("a long call has ended", |_| true);
    assert_eq!(
        (line["method"].as_str(), line["code"].as_str()),
        (Some("profilestore.v1.ProfileService/ExportProfiles"), Some("OK"))
    );
    assert!(!server.log_text().contains("WatchProfiles"));
}

#[test]
fn a_hang_up_takes_the_filter_of_the_configuration_and_a_bad_one_changes_nothing() {
    let server = Observed::start(&[ALL_ARE_SLOW]);
    let config = server.dir.path().join("config.toml");
    let call = || server.block_on(async { server.profiles().get_profile(get("a")).await.unwrap_err().code() });
    assert_eq!(call(), Code::NotFound);
    server.wait_for_line("a call was slow", |_| true);

    std::fs::write(&config, "[log]\nfilter = \"info,profilestore::calls=off\"\n").unwrap();
    server.signal(Signal::HUP);
    server.wait_for_line("the log filter was changed", |line| line["filter"] == "info,profilestore::calls=off");
    let lines = server.lines("a call was slow").len();
    assert_eq!(call(), Code::NotFound);

    std::fs::write(&config, "[log]\nfilter = \"a=b=c\"\n").unwrap();
    server.signal(Signal::HUP);
    let error = "the settings were read again and cannot be used; nothing was changed";
    let line = server.wait_for_line(error, |_| true);
    assert!(line["error"].as_str().unwrap().contains("log.filter"), "{line}");
    assert_eq!(call(), Code::NotFound);
    assert_eq!(server.lines("a call was slow").len(), lines, "they are still off");

    std::fs::write(&config, "").unwrap();
    server.signal(Signal::HUP);
    server.wait_for_line("the log filter was changed", |line| line["filter"] == "info");
    assert_eq!(call(), Code::NotFound);
    wait_until("a line again", || server.lines("a call was slow").len() > lines);
}

#[test]
fn what_is_said_again_and_again_is_counted_and_the_count_is_said() {
    let server = Observed::start(&[]);
    std::fs::write(server.dir.path().join("config.toml"), "[log]\nfilter = \"a=b=c\"\n").unwrap();
    let repeated = "the settings were read again and cannot be used; nothing was changed";
    let (began, mut said_at_first) = (Instant::now(), 0);
    wait_until("the count of what was left out", || {
        server.signal(Signal::HUP);
        let counted = server.lines("lines like the next one were left out");
        if counted.is_empty() {
            said_at_first = server.lines(repeated).len();
        }
        !counted.is_empty()
    });
    let line = server.wait_for_line("lines like the next one were left out", |_| true);
    assert!(line["left_out"].as_u64() > Some(0) && line["place"].as_str() > Some("profilestore"), "{line}");
    // Those that pass in a window, of which a slow machine may need several, and perhaps the one behind the count.
    let windows = 1 + began.elapsed().as_secs() as usize / 10;
    assert!((1..=20 * windows + 1).contains(&said_at_first), "{said_at_first} lines of one kind");
}

#[test]
fn the_admin_listener_shows_and_changes_the_filter() {
    let server = Observed::start(&[ALL_ARE_SLOW]);
    let call = || server.block_on(async { server.profiles().get_profile(get("a")).await.unwrap_err().code() });
    assert_eq!(server.admin("GET", "/log/filter", ""), (200, "info\n".into()));
    assert_eq!(server.admin("PUT", "/log/filter", "error\n"), (200, "error\n".into()));
    let lines = server.lines("a call was slow").len();
    assert_eq!(call(), Code::NotFound);
    let (status, why) = server.admin("PUT", "/log/filter", "a=b=c");
    assert!(status == 400 && why.contains("cannot be read"), "{status} {why}");
    let (status, why) = server.admin("PUT", "/log/filter", "loud");
    assert!(status == 400 && why.contains("\"loud\" is no level"), "{status} {why}");
    assert_eq!(server.admin("PUT", "/log/filter", &"a".repeat(5000)).0, 413);
    for empty in ["", " \n"] {
        let (status, why) = server.admin("PUT", "/log/filter", empty);
        assert!(status == 400 && why.contains("empty"), "{status} {why}");
    }
    for name in ["profiles.example.com", "a", ""] {
        assert_eq!(server.admin_as(name, "PUT", "/log/filter", "info").0, 403, "{name} may be anybody's name");
    }
    assert_eq!(server.admin("GET", "/log/filter", ""), (200, "error\n".into()));
    assert_eq!(server.admin_as("127.0.0.1:80", "PUT", "/log/filter", "info").0, 200);
    assert_eq!(server.lines("a call was slow").len(), lines);
    assert_eq!(call(), Code::NotFound);
    wait_until("a line again", || server.lines("a call was slow").len() > lines);
}

#[test]
fn no_filter_hides_that_it_was_set() {
    let server = Observed::start(&[]);
    let changed = |filter: &str| {
        assert_eq!(server.admin("PUT", "/log/filter", filter).0, 200);
        server.wait_for_line("the log filter was changed", |line| line["filter"] == filter)
    };
    assert_eq!(changed("off")["asked_by"], "PUT /log/filter");
    changed("info");
    assert_eq!(server.lines("the log filter was changed").len(), 2, "each is told once");
}

/// What a server says at its start about open files, when it may have this many.
fn said_of_open_files(limit: u32, settings: &[(&str, &str)]) -> Option<serde_json::Value> {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n $0 && exec \"$@\"", &limit.to_string(), PROGRAM, "serve"]);
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(dir.path().join("data")).envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log).unwrap());
    let mut process = command.spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let address = ready.split_whitespace().find_map(|word| word.strip_prefix("grpc=")).expect("a ready line");
    // One more than are taken is closed, and none before.
    let line = || {
        let text = std::fs::read_to_string(&log).unwrap();
        // Of the last one a part may be there.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.find(|line| line["fields"]["message"].as_str().unwrap().contains("limit on open files"))
    };
    // Standard error has a thread of its own.
    wait_until("the store is opened", || std::fs::read_to_string(&log).unwrap().contains("opened the store"));
    let said = line();
    if let Some(taken) = said.as_ref().and_then(|line| line["fields"]["connections"].as_u64()) {
        use std::io::Read;
        let connect = |_| std::net::TcpStream::connect(address).unwrap();
        let all: Vec<_> = (0..=taken).map(connect).collect();
        let mut last = all.last().unwrap();
        last.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // Closed without a word; one that is taken is greeted.
        assert!(!matches!(last.read(&mut [0; 9]), Ok(1..)), "the connection behind the {taken} that are taken");
        let mut first = &all[0];
        first.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        first.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        assert!(matches!(first.read(&mut [0; 9]), Ok(1..)), "one of those that are taken");
    }
    process.kill().unwrap();
    process.wait().unwrap();
    said
}

#[test]
fn a_low_limit_on_open_files_is_a_warning_only_if_more_was_asked_for() {
    let said = said_of_open_files(300, &[]).expect("a line");
    assert_eq!((&said["level"], &said["fields"]["connections"]), (&"INFO".into(), &150.into()), "{said}");
    let said = said_of_open_files(300, &[("PROFILESTORE__LIMITS__CONNECTIONS", "400")]).expect("a line");
    assert_eq!((&said["level"], &said["fields"]["connections"]), (&"WARN".into(), &150.into()), "{said}");
    assert_eq!((&said["fields"]["wanted"], &said["fields"]["needed"]), (&400.into(), &912.into()), "{said}");
    assert_eq!(said_of_open_files(300, &[("PROFILESTORE__LIMITS__CONNECTIONS", "100")]), None);
}
