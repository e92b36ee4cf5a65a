//! What each command prints, and its exit code, when all is well.

use std::process::Stdio;

use crate::*;

#[test]
fn put_stores_a_profile_and_get_prints_it() {
    let server = Server::start();
    let put =
        server.run(&["put", "ada", "--email", "Ada@Example.com", "--display-name", "Ada", "--attribute", "a.b=c=d"]);
    assert_eq!((put.code, put.err.as_str()), (0, ""));
    let got = server.run(&["get", "ada"]);
    assert_eq!((got.code, &got.out), (0, &put.out), "put prints what get prints");
    assert!(got.out.starts_with("field\tvalue\nid\tada\nemail\tAda@Example.com\ndisplay_name\tAda\n"));
    assert_eq!((field(&got, "attributes.a.b"), field(&got, "domain")), ("c=d".into(), "example.com".into()));
    let [got] = &json(&server.run(&["get", "ada", "--json"]))[..] else { panic!("one line") };
    assert_eq!((&got["displayName"], &got["attributes"]["a.b"]), (&"Ada".into(), &"c=d".into()));
    assert!(got["etag"].is_string() && got["createTime"].as_str().unwrap().ends_with('Z'));
    let some = server.run(&["get", "ada", "--fields", "email,attributes.a.b"]);
    assert_eq!(some.out, "field\tvalue\nemail\tAda@Example.com\nattributes.a.b\tc=d\n");
}

#[test]
fn put_replaces_unless_it_is_told_to_merge_or_create() {
    let server = Server::with_profiles();
    assert_eq!(server.run(&["put", "ada", "--merge", "--attribute", "team=x"]).code, 0);
    let merged = server.run(&["get", "ada"]);
    assert_eq!((field(&merged, "attributes.plan"), field(&merged, "attributes.team")), ("pro".into(), "x".into()));
    assert_eq!(server.run(&["put", "ada", "--merge", "--email", "", "--display-name", "New"]).code, 0);
    let cleared = server.run(&["get", "ada"]);
    assert_eq!(
        (field(&cleared, "display_name"), cleared.out.contains("email")),
        ("New".into(), false),
        "{cleared:?}"
    );
    assert_eq!(field(&cleared, "attributes.team"), "x");
    assert_eq!(server.run(&["put", "ada", "--merge", "--email", "Ada@Example.com"]).code, 0);
    let replaced = server.run(&["put", "ada", "--display-name", "Only"]);
    assert!(!replaced.out.contains("email") && !replaced.out.contains("attributes"), "{replaced:?}");
    let taken = server.run(&["put", "ada", "--create"]);
    assert_eq!((taken.code, taken.out.as_str()), (1, ""));
    assert!(taken.err.contains("already exists"), "{taken:?}");
}

#[test]
fn put_reads_json_from_standard_input_and_what_get_printed_can_be_put_again() {
    let server = Server::with_profiles();
    let got = server.run(&["get", "ada", "--json"]);
    let again = server.run_with_input(&["put", "-", "--json"], &got.out);
    assert_eq!((again.code, &again.out), (0, &got.out), "nothing changes");
    let snake = r#"{"id": "new", "display_name": "New", "attributes": {"k": "v"}}"#;
    let put = server.run_with_input(&["put", "-", "--create"], snake);
    assert_eq!((put.code, field(&put, "display_name")), (0, "New".into()));
    for (bad, says) in [("{", "not a profile"), (r#"{"id": "x", "nonsense": 1}"#, "nonsense"), ("", "not a profile")]
    {
        let refused = server.run_with_input(&["put", "-"], bad);
        assert_eq!(refused.code, 1, "{bad}");
        assert!(refused.err.contains(says), "{refused:?}");
    }
}

#[test]
fn etags_guard_put_and_delete() {
    let server = Server::with_profiles();
    let etag = field(&server.run(&["get", "ada"]), "etag");
    assert_eq!(server.run(&["put", "ada", "--display-name", "B", "--etag", &etag]).code, 0);
    let late = server.run(&["put", "ada", "--display-name", "C", "--etag", &etag]);
    assert_eq!(late.code, 1);
    assert!(late.err.contains("get the profile again"), "{late:?}");
    assert_eq!(server.run(&["delete", "ada", "--etag", &etag]).code, 1);
    let deleted = server.run(&["delete", "ada"]);
    assert_eq!((deleted.code, deleted.out.as_str(), deleted.err.as_str()), (0, "deleted ada\n", ""));
    let missing = server.run(&["delete", "ada"]);
    assert_eq!((missing.code, missing.out.as_str()), (1, ""), "{missing:?}");
    let allowed = server.run(&["delete", "ada", "--allow-missing"]);
    let sentence = "deleted ada, or there was no such profile\n";
    assert_eq!((allowed.code, allowed.out.as_str(), allowed.err.as_str()), (0, sentence, ""));
}

#[test]
fn lists_print_headers_and_rows_or_json_lines() {
    let server = Server::with_profiles();
    let query = server.run(&["query", "example.com"]);
    assert_eq!(query.code, 0);
    assert_eq!(
        query.out,
        "id\temail\tdisplay_name\tattributes\n\
         ada\tAda@Example.com\tName of ada\tplan=pro\n\
         bob\tbob@example.com\tName of bob\tplan=pro\n"
    );
    assert_eq!(column(&server.run(&["query", "example.com", "--subdomains"])), ["ada", "bob", "eve"]);
    assert_eq!(column(&server.run(&["lookup", "ADA@example.COM"])), ["ada"]);
    assert_eq!(column(&server.run(&["list"])), ["ada", "bob", "eve"]);
    let listed = json(&server.run(&["list", "--json"]));
    assert_eq!(listed.iter().map(|each| each["id"].as_str().unwrap()).collect::<Vec<_>>(), ["ada", "bob", "eve"]);
    let some = server.run(&["list", "--limit", "2"]);
    assert_eq!((column(&some), some.code), (vec!["ada", "bob"], 0));
    assert!(some.err.contains("--limit 0"), "{some:?}");
    let exact = server.run(&["list", "--limit", "3"]);
    assert_eq!((column(&exact).len(), exact.err.as_str()), (3, ""));
    assert_eq!(column(&server.run(&["list", "--limit", "0"])).len(), 3);
    assert_eq!(server.run(&["query", "nobody.example"]).out, "id\temail\tdisplay_name\tattributes\n");
}

#[test]
fn domains_and_counts() {
    let server = Server::with_profiles();
    let domains = server.run(&["domains"]);
    assert_eq!(domains.out, "domain\tprofile_count\nexample.com\t2\nmail.example.com\t1\n");
    assert_eq!(column(&server.run(&["domains", "mail.example.com"])), ["mail.example.com"]);
    assert_eq!(column(&server.run(&["domains", "--largest", "--limit", "1"])), ["example.com"]);
    let lines = json(&server.run(&["domains", "--json"]));
    assert_eq!((&lines[0]["domain"], &lines[0]["profileCount"]), (&"example.com".into(), &2.into()));
    assert_eq!(server.run(&["count"]).out, "3\n");
    assert_eq!(server.run(&["count", "example.com"]).out, "2\n");
    assert_eq!(server.run(&["count", "example.com", "--subdomains"]).out, "3\n");
    assert_eq!(server.run(&["count", "--json"]).out, "{\"count\":3}\n");
}

#[test]
fn status_and_health_tell_how_the_server_is() {
    let server = Server::with_profiles();
    let status = server.run(&["status"]);
    assert_eq!((status.code, field(&status, "profiles"), field(&status, "engine")), (0, "3".into(), "sled".into()));
    let [status] = &json(&server.run(&["status", "--json"]))[..] else { panic!("one line") };
    assert_eq!((&status["profileCount"], &status["domainCount"]), (&3.into(), &2.into()));
    assert!(status["cache"]["capacityBytes"].as_i64().unwrap() > 0);
    let health = server.run(&["health"]);
    assert_eq!((health.code, health.out.as_str()), (0, "SERVING\n"));
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert_eq!(script.code, 0);
        assert!(script.out.contains("lookup"), "{shell}");
    }
    let page = run(&["man"]);
    assert_eq!(page.code, 0);
    assert!(page.out.contains(".TH") && page.out.contains("lookup"));
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(&["man", dir.path().to_str().unwrap()]).code, 0);
    for name in ["profilestore.1", "profilestore-get.1", "profilestore-import.1", "profilestore-lookup.1"] {
        assert!(dir.path().join(name).is_file(), "{name}");
    }
    assert_eq!(run(&["--version"]).out, format!("profilestore {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let server = Server::with_profiles();
    for arguments in [&["list", "--limit", "0"][..], &["count"], &["status"], &["completions", "bash"], &["man"]] {
        let mut process = server.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(process.stdout.take());
        let ran: Ran = process.wait_with_output().unwrap().into();
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn on_a_terminal_of_40_columns_a_table_fits() {
    let server = Server::with_profiles();
    // util-linux's script gives the command a terminal; its first lines set the width.
    let command = format!("stty rows 24 cols 40 && {PROGRAM} list --addr {}", server.address);
    let ran: Ran =
        Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("ada") && ran.out.contains("eve"), "{ran:?}");
    let widest = ran.out.lines().map(|line| line.trim_end_matches('\r').chars().count()).max().unwrap();
    assert!(widest <= 40, "{widest} columns: {}", ran.out);
    // Four columns have no room: each field has a line of its own, and its value is in one piece.
    for line in [&["id", "eve"][..], &["email", "eve@mail.example.com"], &["display_name", "Name", "of", "eve"]] {
        assert!(
            ran.out.lines().any(|found| found.split_whitespace().eq(line.iter().copied())),
            "{line:?}: {}",
            ran.out
        );
    }
}

#[test]
fn watch_prints_changes_as_json_and_goes_on_after_a_token() {
    let server = Server::with_profiles();
    assert_eq!(server.run(&["delete", "bob"]).code, 0);
    let all = json(&server.run(&["watch", "--from", "oldest", "--limit", "4"]));
    let short: Vec<_> = all.iter().map(|line| format!("{} {}", line["type"], line["id"])).collect();
    assert_eq!(short, [r#""PUT" "ada""#, r#""PUT" "bob""#, r#""PUT" "eve""#, r#""DELETE" "bob""#]);
    assert_eq!(all[0]["profile"]["email"], "Ada@Example.com");
    assert!(all[3].get("profile").is_none() && all.iter().all(|line| line["position"].is_string()));
    let token = all[3]["resumeToken"].as_str().unwrap();
    assert_eq!(server.run(&["put", "new", "--email", "new@mail.example.com"]).code, 0);
    let [new] = &json(&server.run(&["watch", "--from", token, "--limit", "1"]))[..] else { panic!("one line") };
    assert_eq!(new["id"], "new");
    let below = ["watch", "example.com", "--subdomains", "--snapshot", "--limit", "3"];
    let mut ids: Vec<_> = json(&server.run(&below)).iter().map(|line| line["id"].to_string()).collect();
    ids.sort();
    assert_eq!(ids, [r#""ada""#, r#""eve""#, r#""new""#]);
    let wrong = server.run(&["watch", "example.com", "--from", token]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("resume_token"), "{wrong:?}");
}

#[test]
fn watch_keeps_its_place_in_a_token_file_also_when_nothing_happens() {
    let server = Server::with_profiles();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("place");
    let file = path.to_str().unwrap();
    let of_nobody = ["watch", "nobody.example", "--token-file", file];
    let mut idle = server.command(&of_nobody).stdout(Stdio::null()).spawn().unwrap();
    let place = || std::fs::read_to_string(&path).unwrap_or_default();
    let changed = |before: &str| wait_until("the place moves on", || place() != before);
    changed("");
    let first = place();
    // Of another domain: the watch prints nothing, and its place moves on all the same.
    assert_eq!(server.run(&["delete", "bob"]).code, 0);
    changed(&first);
    idle.kill().unwrap();
    idle.wait().unwrap();
    std::fs::remove_file(&path).unwrap();
    let ids = |ran: &Ran| json(ran).iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let all = ["watch", "--from", "oldest", "--limit", "1", "--token-file", file];
    let first = ids(&server.run(&all));
    assert_eq!(server.run(&["put", "new"]).code, 0);
    let then = ids(&server.run(&all));
    // The file says where to go on, and --from no more.
    assert_eq!([first, then].concat(), ["ada", "bob", "eve", "bob", "new"]);
    std::fs::write(&path, "").unwrap();
    let empty = server.run(&all);
    assert_eq!((empty.code, empty.err.contains("holds no token")), (1, true), "{empty:?}");
}
