//! `config show`, `config check`, and the example file.

use crate::*;

const EXAMPLE: &str = include_str!("../../examples/profilestore.toml");

#[test]
fn the_example_file_has_every_setting_with_its_default() {
    let defaults = run(&["config", "show"]);
    assert_eq!((defaults.code, defaults.err.as_str()), (0, ""));
    let defaults: toml::Table = defaults.out.parse().unwrap();
    let example: toml::Table = EXAMPLE.parse().unwrap();
    assert_eq!(example, defaults);
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "example.toml", EXAMPLE);
    let checked = run(&["config", "check", "--config", &file]);
    assert_eq!((checked.code, checked.err.as_str()), (0, ""));
}

#[test]
fn what_is_shown_is_what_would_be_used_and_can_be_fed_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.toml", "[cache]\nttl = \"1m\"\nmax_entries = 5\n");
    let mut command = program();
    command.args(["config", "show", "--config", &file, "--data-dir", "elsewhere"]);
    let shown: Ran = command.env("PROFILESTORE__CACHE__MAX_ENTRIES", "7").output().unwrap().into();
    let settings: toml::Table = shown.out.parse().unwrap();
    assert_eq!(settings["cache"]["ttl"].as_str(), Some("1m"));
    assert_eq!(settings["cache"]["max_entries"].as_integer(), Some(7));
    assert_eq!(settings["store"]["data_dir"].as_str(), Some("elsewhere"));
    let again = run(&["config", "show", "--config", &write(dir.path(), "b.toml", &shown.out)]);
    assert_eq!(again.out, shown.out);
}

#[test]
fn a_bad_configuration_is_78_and_all_of_it_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let bad = "[store]\nrunning_scans = 0\nqueued_commits = true\n[cache]\nttl = \"0s\"\nmax_byte = 1\n\
               [limits]\nconnections = 0\n[nonsense]\n";
    let wrong = [
        "store.running_scans must be",
        "store.queued_commits must be",
        "cache.ttl must be",
        "cache.max_byte",
        "limits.connections must be",
        "nonsense",
        "email.uniqe",
        "server.listen",
    ];
    let file = write(dir.path(), "bad.toml", bad);
    for command in [&["config", "check"][..], &["config", "show"], &["serve"]] {
        let mut command = program_with(&[command, &["--config", &file]].concat());
        command.env("PROFILESTORE__EMAIL__UNIQE", "true").env("PROFILESTORE__SERVER__LISTEN", "nowhere");
        let ran: Ran = command.output().unwrap().into();
        assert_eq!((ran.code, ran.out.as_str()), (78, ""), "{ran:?}");
        for each in wrong {
            assert!(ran.err.contains(each), "{each} in {ran:?}");
        }
        assert_eq!(ran.err.lines().count(), 1 + wrong.len(), "{ran:?}");
    }
    let unknown = run(&["config", "check", "--config", &write(dir.path(), "c.toml", "[cache]\nmax_byte = 1\n")]);
    assert!(unknown.code == 78 && unknown.err.contains("max_byte"), "{unknown:?}");
    let absent = run(&["config", "check", "--config", "/nowhere/at-all.toml"]);
    assert!(absent.code == 78 && absent.err.contains("at-all.toml"), "{absent:?}");
}

#[test]
fn flags_go_before_the_environment() {
    let mut command = program_with(&["config", "show", "--data-dir", "flag"]);
    let command = command.env("PROFILESTORE__STORE__DATA_DIR", "007").env("PROFILESTORE__CACHE__TTL", "7s");
    let settings: toml::Table = Ran::from(command.output().unwrap()).out.parse().unwrap();
    assert_eq!(settings["store"]["data_dir"].as_str(), Some("flag"));
    assert_eq!(settings["cache"]["ttl"].as_str(), Some("7s"));
    let mut command = program_with(&["config", "show"]);
    let shown: Ran = command.env("PROFILESTORE__STORE__DATA_DIR", "007").output().unwrap().into();
    assert!(shown.out.contains("data_dir = \"007\""), "{shown:?}");
}

#[test]
fn a_mistake_in_the_line_of_a_password_does_not_show_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.toml", "[publish]\nurl = \"nats://u:geheim@h:4222\n");
    let ran = run(&["config", "check", "--config", &file]);
    assert!(ran.code == 78 && ran.err.contains("a.toml, line 2") && !ran.err.contains("geheim"), "{ran:?}");
}

fn program_with(arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(arguments);
    command
}
