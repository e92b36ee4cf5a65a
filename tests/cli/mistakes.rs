//! What people are told when something is wrong: one sentence with the cause and what to do, and an exit code.

use crate::*;

#[track_caller]
fn assert_fails(ran: &Ran, code: i32, says: &[&str]) {
    assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{ran:?}");
    for part in says {
        assert!(ran.err.contains(part), "{part:?} in {ran:?}");
    }
    assert!(!ran.err.contains("panicked"), "{ran:?}");
}

#[test]
fn without_a_server_the_error_says_how_to_get_one() {
    for command in [&["get", "ada"][..], &["count"], &["status"], &["health"], &["list"]] {
        let arguments: Vec<_> = command.iter().copied().chain(["--addr", NOBODY, "--timeout", "2s"]).collect();
        let ran = run(&arguments);
        assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{ran:?}");
        assert!(ran.err.contains(NOBODY) && ran.err.contains("profilestore serve"), "{ran:?}");
    }
}

#[test]
fn on_a_terminal_it_is_said_once_that_a_command_waits_for_a_server() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in ["get ada", "export --timeout 8s"] {
        // util-linux's script gives the command a terminal.
        let command = format!("{PROGRAM} {command} --addr {port}");
        let ran: Ran = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .into();
        assert_eq!(ran.code, 1, "{ran:?}");
        let told: Vec<_> = ran.out.lines().collect();
        assert_eq!(told.len(), 2, "{ran:?}");
        assert!(told[0].contains(&format!("waiting for the server at {port}")), "{ran:?}");
        assert!(told[1].contains("no server answers"), "{ran:?}");
    }
}

#[test]
fn every_violation_is_named() {
    let server = Server::start();
    let ran = server.run(&["put", "no spaces", "--email", "nobody", "--display-name", "\n"]);
    assert_fails(&ran, 1, &["profile.id", "profile.email", "profile.display_name"]);
    assert_fails(&server.run(&["get", "no spaces"]), 1, &["id"]);
    assert_fails(&server.run(&["get", "nobody"]), 1, &["no profile", "nobody"]);
    assert_fails(&server.run(&["get", "x", "--fields", "nothing"]), 1, &["read_mask"]);
    assert_eq!(server.run(&["query", "-bad-.example"]).code, 2, "an argument that looks like a flag");
    let ran = server.run(&["query", "bad..example"]);
    assert!(ran.code == 1 && ran.err.contains("domain"), "{ran:?}");
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["get"],
        &["put", "x", "--attribute", "novalue"],
        &["put", "x", "--create", "--merge"],
        &["put", "x", "--etag", ""],
        &["delete", "x", "--etag", ""],
        &["count", "--subdomains"],
        // As an empty variable of a shell gives them; they would mean everything, or nothing that can be.
        &["count", ""],
        &["domains", ""],
        &["watch", ""],
        &["export", "--domain", ""],
        &["get", ""],
        &["put", ""],
        &["delete", ""],
        &["get", "x", "--timeout", "soon"],
        &["list", "--limit", "-1"],
        &["completions", "nosh"],
    ] {
        let ran = run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}");
        assert!(ran.err.contains("--help") || ran.err.contains("Usage"), "{ran:?}");
    }
}

#[test]
fn where_the_server_is_and_how_long_it_may_take_are_checked_before_it_is_asked() {
    for (arguments, says) in [
        (["--addr", "not an address"], "HOST:PORT"),
        (["--addr", "localhost"], "HOST:PORT"),
        (["--addr", ""], "HOST:PORT"),
        (["--timeout", "10m"], "1 ms to 5 min are allowed"),
        (["--timeout", "0s"], "1 ms to 5 min are allowed"),
    ] {
        let ran = run(&[&["get", "x"][..], &arguments].concat());
        assert_fails(&ran, 2, &[arguments[0], says]);
        assert!(!ran.err.contains("refused"), "{ran:?}");
    }
    let ran: Ran = program().args(["count"]).env("PROFILESTORE_ADDR", "localhost").output().unwrap().into();
    assert_fails(&ran, 2, &["--addr", "HOST:PORT"]);
}

#[test]
fn a_server_without_room_is_not_said_to_be_busy() {
    let all_that_any_disk_has = [("PROFILESTORE__STORE__MIN_FREE_BYTES", "9000000000000000000")];
    let server = Server::start_with(&all_that_any_disk_has);
    let ran = server.run(&["put", "ada"]);
    assert_fails(&ran, 1, &["disk is nearly full"]);
    assert!(!ran.err.contains("too much to do") && !ran.err.contains("overloaded"), "{ran:?}");
    assert_eq!(server.run(&["count"]).out, "0\n");
}

#[test]
fn a_reindex_of_a_store_that_is_not_there_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let ran = run(&["reindex", "--data-dir", missing.to_str().unwrap()]);
    assert!(ran.code == 1 && ran.err.contains("there is no store in"), "{ran:?}");
    assert!(!missing.exists());
}

#[test]
fn an_error_says_a_thing_once() {
    let ran = run(&["config", "check", "--config", "/nowhere/at-all.toml"]);
    assert_eq!(ran.err.matches("at-all.toml").count(), 1, "{ran:?}");
}

#[test]
fn every_command_has_help() {
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    let commands = help.out.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names: Vec<_> = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(names.len() >= 16, "{names:?}");
    for name in names.into_iter().filter(|name| !["", "help"].contains(name)) {
        let help = run(&[name, "--help"]);
        assert!(help.code == 0 && help.out.contains("Usage"), "{name}");
    }
}
