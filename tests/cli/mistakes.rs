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
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in [&["get", "ada"][..], &["count"], &["status"], &["health"], &["list"]] {
        let arguments: Vec<_> = command.iter().copied().chain(["--addr", &port, "--timeout", "2s"]).collect();
        let ran = run(&arguments);
        assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{ran:?}");
        assert!(ran.err.contains(&port) && ran.err.contains("profilestore serve"), "{ran:?}");
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
        &["get", "x", "--timeout", "soon"],
        &["list", "--limit", "-1"],
        &["completions", "nosh"],
    ] {
        let ran = run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}");
        assert!(ran.err.contains("--help") || ran.err.contains("Usage"), "{ran:?}");
    }
    let ran = run(&["get", "x", "--addr", "not an address"]);
    assert!(ran.code == 1 && ran.err.contains("address"), "{ran:?}");
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
