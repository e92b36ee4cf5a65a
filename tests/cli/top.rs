//! `profilestore top`.

use std::process::Stdio;

use crate::*;

/// Reads so that something is hot, while somebody looks.
fn read(server: &Server) {
    for id in ["ada", "ada", "ada", "bob"] {
        assert_eq!(server.run(&["get", id]).code, 0);
    }
    assert_eq!(server.run(&["query", "example.com"]).code, 0);
}

#[test]
fn top_reports_hot_keys_and_rates_as_json() {
    let server = Server::with_profiles();
    read(&server);
    let ran = server.run(&["top", "--json", "--interval", "200ms", "--count", "2", "--limit", "2"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let reports = json(&ran);
    assert_eq!(reports.len(), 2, "one object for each report");
    let report = &reports[1];
    assert_eq!((&report["ids"][0]["key"], &report["ids"][0]["readCount"]), (&"ada".into(), &3.into()));
    assert_eq!(report["ids"].as_array().unwrap().len(), 2);
    assert_eq!(report["domains"][0]["key"], "example.com");
    assert_eq!(report["profileCount"], 3);
    // What this command asked for itself.
    let asked: Vec<_> =
        report["methods"].as_array().unwrap().iter().map(|of| of["method"].as_str().unwrap()).collect();
    assert!(asked.contains(&"profilestore.v1.AdminService/GetStatus"), "{asked:?}");
    assert!(report["callsPerSecond"].as_f64() > Some(0.0) && report["p99Millis"].as_f64() > Some(0.0), "{report}");
    assert!(report["intervalSeconds"].as_f64() >= Some(0.19), "{report}");
}

#[test]
fn top_prints_lines_off_a_terminal() {
    let server = Server::with_profiles();
    read(&server);
    let ran = server.run(&["top", "--once", "--interval", "100ms"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split('\t').collect()).collect();
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{}", ran.out);
    let kinds: Vec<_> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(kinds[..2], ["kind", "all"]);
    assert!(lines.iter().any(|line| line[0] == "id" && line[1] == "ada" && line[7] == "3"), "{}", ran.out);
    assert!(!ran.out.contains('\u{1b}'), "no control characters: {}", ran.out);
}

#[test]
fn top_keeps_a_screen_of_a_terminal_in_its_place() {
    let server = Server::with_profiles();
    read(&server);
    let command =
        format!("stty rows 30 cols 60 && {PROGRAM} top --count 2 --interval 100ms --addr {}", server.address);
    let ran: Ran =
        Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    let screens: Vec<_> = ran.out.split("\u{1b}[H").skip(1).collect();
    assert_eq!(screens.len(), 2, "{}", ran.out);
    for screen in screens {
        assert!(screen.contains("ada") && screen.contains("example.com") && screen.contains("calls/s"), "{screen}");
        let lines: Vec<_> = screen.lines().map(|line| line.replace("\u{1b}[K", "").replace("\u{1b}[J", "")).collect();
        assert!(lines.len() <= 30, "{} lines: {screen}", lines.len());
        assert!(lines.iter().all(|line| line.trim_end().chars().count() <= 60), "{screen}");
    }
}

#[test]
fn top_shows_whole_figures_on_a_terminal_of_40_columns() {
    let server = Server::with_profiles();
    read(&server);
    let command =
        format!("stty rows 40 cols 40 && {PROGRAM} top --count 2 --interval 100ms --addr {}", server.address);
    let ran: Ran =
        Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    let screen = ran.out.split("\u{1b}[H").last().unwrap().replace("\u{1b}[K", "").replace("\u{1b}[J", "");
    for part in ["server errors/s", "hit ratio ", " on disk", " watchers", "p99 ms", "GetStatus", "reads/s"] {
        assert!(screen.contains(part), "{part} in\n{screen}");
    }
    assert!(screen.lines().all(|line| line.trim_end().chars().count() <= 40), "{screen}");
}

#[test]
fn top_says_what_is_wrong() {
    for arguments in [
        &["--interval", "1ms"][..],
        &["--limit", "0"],
        &["--limit", "101"],
        &["--once", "--count", "3"],
        &["--count", "-1"],
    ] {
        let ran = run(&[&["top"], arguments].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}");
    }
    let ran = run(&["top", "--once", "--addr", NOBODY, "--timeout", "1s"]);
    assert!(ran.code == 1 && ran.err.contains("profilestore serve"), "{ran:?}");
}

#[test]
fn top_goes_on_when_the_server_is_back_and_ends_when_it_stays_away() {
    let mut server = Server::start_again_and_again();
    let mut looks = server.command(&["top", "--json", "--interval", "100ms", "--timeout", "5s"]);
    let mut looks = looks.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let next = |lines: &mut dyn BufRead| {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it has ended");
        line
    };
    let mut reports = BufReader::new(looks.stdout.take().unwrap());
    let mut errors = BufReader::new(looks.stderr.take().unwrap());
    assert!(next(&mut reports).contains("profileCount"));
    server.kill();
    // Calls are repeated for a while before they fail.
    assert!(next(&mut errors).contains("no answer: "));
    server.start_again();
    // Those that it made before the kill, and one that it makes now.
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let made_at = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap()["time"].as_f64().unwrap();
    while made_at(next(&mut reports)) < since {}
    looks.kill().unwrap();
    looks.wait().unwrap();

    let counted = ["top", "--count", "1000000", "--interval", "100ms", "--timeout", "1s"];
    let mut counted = server.command(&counted).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    next(&mut BufReader::new(counted.stdout.as_mut().unwrap()));
    server.kill();
    assert_eq!(counted.wait().unwrap().code(), Some(1));
}
