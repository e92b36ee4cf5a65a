//! The load generator: what it prints and counts, what it refuses, and what it leaves alone.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::*;

const PROFILES: u64 = 300;
const HEADER: &str = "call\trequests\terrors\tper_s\tp50_us\tp90_us\tp99_us\tp99.9_us\tmax_us";

/// A server with the first profiles of the sample.
fn server() -> Server {
    let server = Server::start();
    let count = PROFILES.to_string();
    let ran = server.run(&["load", "--prepare", &count, "--writes", "--requests", "1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("300 profiles were loaded, 0 were there"), "{ran:?}");
    server
}

/// Runs a load to its JSON report.
#[track_caller]
fn load(server: &Server, arguments: &[&str]) -> Value {
    let ran = server.run(&[&["load", "--json"], arguments].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let [report] = &json(&ran)[..] else { panic!("one line: {ran:?}") };
    report.clone()
}

/// A number at a path of keys, for example `calls.get.requests`.
#[track_caller]
fn number(report: &Value, path: &str) -> u64 {
    let found = path.split('.').fold(report, |value, key| &value[key]);
    found.as_u64().unwrap_or_else(|| panic!("{path} is {found} in {report}"))
}

#[test]
fn a_report_is_tab_separated_or_json_and_its_counts_add_up() {
    let server = server();
    let arguments = ["--requests", "2000", "--mix", "get=90,batch=5,query=5", "--concurrency", "32"];
    let ran = server.run(&[&["load"], &arguments[..]].concat());
    assert_eq!((ran.code, ran.out.lines().next()), (0, Some(HEADER)), "{ran:?}");
    assert_eq!(column(&ran), ["batch", "get", "query", "all"]);
    assert!(ran.err.contains("closed loop, 32 in flight, 8 connections, 300 keys"), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "no progress off a terminal: {ran:?}");
    let cell = |line: &str, index: usize| line.split('\t').nth(index).unwrap().parse::<u64>().unwrap();
    let [calls @ .., all] = &ran.out.lines().skip(1).collect::<Vec<_>>()[..] else { panic!("rows: {ran:?}") };
    assert_eq!(cell(all, 1), 2000);
    assert_eq!(calls.iter().map(|line| cell(line, 1)).sum::<u64>(), 2000);
    assert!((4..=8).all(|index| cell(all, index) >= cell(all, index - 1) || index == 4), "percentiles grow: {all}");

    let report = load(&server, &arguments);
    assert_eq!((number(&report, "all.requests"), number(&report, "all.errors")), (2000, 0));
    for (name, line) in [("batch", calls[0]), ("get", calls[1]), ("query", calls[2])] {
        // The seed fixes which requests are made, whatever the threads do.
        assert_eq!(number(&report, &format!("calls.{name}.requests")), cell(line, 1), "{name}");
    }
    assert_eq!(number(&report, "calls.get.profiles"), number(&report, "calls.get.requests"));
    assert_eq!(number(&report, "calls.batch.profiles"), number(&report, "calls.batch.requests") * 100);
    let latency = &report["all"]["latencyMicros"];
    assert!(latency["p50"].as_f64().unwrap() <= latency["p99.9"].as_f64().unwrap());
    assert!(report["all"]["perSecond"].as_f64().unwrap() > 0.0);
    assert!(report.get("openLoop").is_none());
    let other = load(&server, &[&arguments[..], &["--seed", "2"]].concat());
    assert_ne!(other["calls"]["get"]["requests"], report["calls"]["get"]["requests"]);
}

#[test]
fn a_run_ends_after_its_duration_and_a_warmup_is_not_counted() {
    let server = server();
    let report = load(&server, &["--duration", "300ms", "--concurrency", "4"]);
    assert!(report["seconds"].as_f64().unwrap() >= 0.3, "{report}");
    assert!(number(&report, "all.requests") > 0);
    let report = load(&server, &["--requests", "50", "--warmup", "200ms"]);
    assert_eq!(number(&report, "all.requests"), 50);
}

#[test]
fn an_open_loop_accounts_for_every_request_that_was_due() {
    let server = server();
    let arguments = ["--rate", "400", "--duration", "500ms", "--warmup", "100ms"];
    let report = load(&server, &arguments);
    assert_eq!(number(&report, "openLoop.due"), 200, "{report}");
    assert_eq!(number(&report, "openLoop.begun") + number(&report, "openLoop.notBegun"), 200);
    assert_eq!(number(&report, "all.requests"), number(&report, "openLoop.begun"));
    assert!(number(&report, "openLoop.late") <= number(&report, "openLoop.begun"));
    let ran = server.run(&[&["load"], &arguments[..]].concat());
    assert!(ran.err.contains("open loop, 400/s") && ran.err.contains("200 requests were due"), "{ran:?}");
    // Random times are fixed by the seed, and there are as many as are asked for.
    let poisson = ["--rate", "1000", "--poisson", "--duration", "300ms"];
    assert_eq!(load(&server, &poisson)["openLoop"]["due"], load(&server, &poisson)["openLoop"]["due"]);
    let report = load(&server, &["--rate", "1000", "--poisson", "--requests", "77", "--concurrency", "2"]);
    assert_eq!((number(&report, "openLoop.due"), number(&report, "all.requests")), (77, 77));
}

#[test]
fn puts_and_preparing_need_the_switch_and_puts_change_one_attribute_only() {
    let server = server();
    for arguments in [&["--mix", "get=1,put=1", "--requests", "5"][..], &["--prepare", "5", "--requests", "5"]] {
        let ran = server.run(&[&["load"], arguments].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains("--writes"), "{ran:?}");
    }
    let strip = |mut profile: Value| {
        let value = profile["attributes"].as_object_mut().unwrap().remove("load-value");
        ["etag", "updateTime"].into_iter().for_each(|name| profile[name] = Value::Null);
        (profile, value.map_or(0, |value| value.as_str().unwrap().len()))
    };
    let profiles =
        || json(&server.run(&["list", "--json", "--limit", "0"])).into_iter().map(strip).collect::<Vec<_>>();
    let before = profiles();
    let report = load(&server, &["--mix", "put=1", "--writes", "--value-bytes", "77", "--requests", "400"]);
    assert_eq!((number(&report, "calls.put.requests"), number(&report, "all.errors")), (400, 0), "{report}");
    let after = profiles();
    assert_eq!((before.len(), after.len()), (PROFILES as usize, PROFILES as usize));
    assert!(before.iter().zip(&after).all(|(before, after)| before.0 == after.0), "only the attribute changed");
    assert!(after.iter().all(|(_, length)| [0, 77].contains(length)));
    assert!(after.iter().filter(|(_, length)| *length == 77).count() > 50);
}

/// What others have put there is not of the load, and does not make it ask for ids that nobody has.
#[test]
fn profiles_of_others_are_not_counted_among_the_keys() {
    let server = server();
    let text: String = (0..500).map(|number| format!("{{\"id\":\"other-{number}\"}}\n")).collect();
    let file = write(server.dir.path(), "others.jsonl", &text);
    assert_eq!(server.run(&["import", &file]).code, 0);
    let mix = ["--mix", "get=5,batch=1,put=1", "--writes", "--uniform", "--requests", "1000"];
    let report = load(&server, &mix);
    assert_eq!((number(&report, "keys"), number(&report, "all.errors")), (PROFILES, 0), "{report}");
    // What was deleted is counted and explained.
    assert_eq!(server.run(&["delete", "user-00000007"]).code, 0);
    let ran = server.run(&["load", "--uniform", "--requests", "3000"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("get\tNOT_FOUND\t") && ran.err.contains("were they deleted"), "{ran:?}");
}

#[test]
fn reads_change_nothing() {
    let server = server();
    let list = || server.run(&["list", "--json", "--limit", "0"]).out;
    let before = list();
    load(&server, &["--mix", "get=1,batch=1,query=1", "--requests", "300", "--uniform"]);
    assert!(before == list());
}

#[test]
fn wrong_arguments_are_2_and_say_what_is_allowed() {
    for (arguments, says) in [
        (&["--mix", "get=1,delete=1"][..], "get, batch, query and put"),
        (&["--mix", "get"], "CALL=WEIGHT"),
        (&["--mix", "get=0"], "weight of get"),
        (&["--rate", "0"], "0.001 to 1000000"),
        (&["--poisson"], "--rate"),
        (&["--duration", "25h"], "1ms to 24h"),
        (&["--requests", "0"], "0"),
        (&["--zipf", "11"], "0 to 10"),
        (&["--zipf", "1", "--uniform"], "--uniform"),
        (&["--concurrency", "4", "--connections", "5"], "--concurrency, 4"),
        (&["--connections", "2", "--threads", "3"], "--connections, 2"),
        (&["--value-bytes", "8193"], "8192"),
    ] {
        let ran = run(&[&["load"], arguments].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains(says), "{says:?} in {ran:?}");
    }
    let server = server();
    let ran = server.run(&["load", "--mix", "batch=1", "--batch-size", "301"]);
    assert!(ran.code == 2 && ran.err.contains("300 keys"), "{ran:?}");
}

#[test]
fn without_a_server_or_profiles_or_any_success_the_exit_code_is_1() {
    let ran = run(&["load", "--addr", NOBODY, "--timeout", "1s"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains(NOBODY) && ran.err.contains("profilestore serve"), "{ran:?}");
    let server = Server::start();
    let ran = server.run(&["load"]);
    assert!(ran.code == 1 && ran.err.contains("--prepare N --writes"), "{ran:?}");
    // Ids that nobody has: every request fails, and there is a report all the same.
    let ran = server.run(&["load", "--keys", "10", "--requests", "20"]);
    assert_eq!((ran.code, ran.out.lines().next()), (1, Some(HEADER)));
    assert!(ran.out.contains("get\t20\t20\t0\t") && ran.out.contains("get\tNOT_FOUND\t20\n"), "{ran:?}");
    assert!(ran.err.contains("every request failed") && ran.err.contains("NOT_FOUND"), "{ran:?}");
}

/// How many gets the server has answered.
fn reads(server: &Server) -> i64 {
    let status = &json(&server.run(&["status", "--json"]))[0];
    ["hitCount", "missCount"].map(|name| status["cache"][name].as_i64().unwrap()).iter().sum()
}

/// Waits until the server has answered so many gets; fails if the load ends before.
fn wait_until_reads(server: &Server, load: &mut Child, wanted: i64) {
    while reads(server) < wanted {
        assert!(load.try_wait().unwrap().is_none(), "the load has ended");
    }
}

#[test]
fn a_server_killed_in_the_middle_gives_counted_errors_and_a_report() {
    let mut server = server();
    let mut command =
        server.command(&["load", "--json", "--duration", "10s", "--concurrency", "8", "--timeout", "2s"]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_reads(&server, &mut process, 500);
    server.process.kill().unwrap();
    let ran: Ran = process.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 0, "some requests succeeded: {ran:?}");
    let report = &json(&ran)[0];
    let (requests, errors) = (number(report, "all.requests"), number(report, "all.errors"));
    assert!(errors > 0 && requests - errors >= 400, "{report}");
    assert!(number(report, "all.errorsByCode.UNAVAILABLE") > 0, "{report}");
    // What failed has times too, which are told beside.
    assert!(report["all"]["latencyMicrosWithErrors"]["p50"].as_f64().unwrap() > 0.0, "{report}");
    assert!(ran.err.contains("the first error was UNAVAILABLE"), "{ran:?}");
}

#[test]
fn an_interrupt_ends_a_run_early_with_a_report() {
    let server = server();
    for pace in [&[][..], &["--rate", "2000"]] {
        let arguments = [&["load", "--json", "--duration", "1h"], pace].concat();
        let before = json(&server.run(&["status", "--json"]))[0]["cache"]["hitCount"].as_i64().unwrap();
        let mut process = server.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until_reads(&server, &mut process, before + 1000);
        let pid = process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let ran: Ran = process.wait_with_output().unwrap().into();
        assert_eq!(ran.code, 0, "{ran:?}");
        let report = &json(&ran)[0];
        assert!(number(report, "all.requests") > 0 && report["seconds"].as_f64().unwrap() < 3600.0, "{report}");
    }
}

#[test]
fn on_a_terminal_there_is_a_line_every_second_and_a_table() {
    let server = server();
    // util-linux's script gives the command a terminal.
    let command = format!(
        "stty cols 80 && {PROGRAM} load --mix get=1,batch=1 --duration 4s --concurrency 2 --addr {}",
        server.address
    );
    let ran: Ran =
        Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("/s  p50 ") && ran.out.contains("errors 0"), "{ran:?}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = ran.out.lines().map(words).collect();
    let headers = ["call", "requests", "errors", "per_s", "p50", "p90", "p99", "p99.9", "max"];
    assert!(lines.iter().any(|line| line[..] == headers), "the headers fit in one line: {ran:?}");
    assert!(["get", "batch", "all"].iter().all(|name| lines.iter().any(|line| line.len() == 9 && line[0] == *name)));
}

#[test]
fn on_a_terminal_of_40_columns_every_figure_is_whole() {
    let server = server();
    let command = format!(
        "stty rows 24 cols 40 && {PROGRAM} load --mix get=1,batch=1 --duration 1500ms --concurrency 2 --addr {}",
        server.address
    );
    let ran: Ran =
        Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let lines: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    for header in ["requests", "errors", "per_s", "p50", "p90", "p99", "p99.9", "max"] {
        let found =
            lines.iter().filter(|line| matches!(line[..], [name, value] if name == header && is_number(value)));
        assert_eq!(found.count(), 3, "{header} of get, batch and all: {}", ran.out);
    }
    // But for the sentence at the end.
    let too_wide = |line: &&str| line.trim_end().chars().count() > 40 && !line.contains("closed loop");
    assert_eq!(ran.out.lines().find(too_wide), None, "{}", ran.out);
}

/// A server that stops for a while keeps all who come in that time waiting, and not only those who were there before.
#[test]
fn what_a_stalled_server_makes_callers_wait_is_in_the_latencies_of_an_open_loop() {
    const STALL: Duration = Duration::from_millis(1500);
    let server = server();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &server.process.id().to_string()]).status().unwrap().success());
    };
    let before = reads(&server);
    let report = std::thread::scope(|scope| {
        let loading = scope.spawn(|| load(&server, &["--rate", "200", "--duration", "6s", "--concurrency", "4"]));
        // More than it reads before it begins, to find out how many ids there are.
        wait_until("it has begun", || loading.is_finished() || reads(&server) >= before + PROFILES as i64);
        signal("-STOP");
        std::thread::sleep(STALL);
        signal("-CONT");
        loading.join().unwrap()
    });
    // A quarter of the requests were due while it stood still, and had to wait for the rest of that time. A closed loop with
    // four in flight would have seen it in four latencies.
    let latency = &report["all"]["latencyMicros"];
    let micros = |name: &str| latency[name].as_f64().unwrap();
    assert!(micros("p90") > 500_000.0 && micros("max") > 1_000_000.0, "{report}");
    assert_eq!(number(&report, "openLoop.due"), 1200, "{report}");
}
