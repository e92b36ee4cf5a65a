//! What a server logs, and what it never does.

use std::fs::{self, File};
use std::path::PathBuf;

use crate::*;

/// A server whose log is kept, with everything in it that can be.
struct Logged {
    server: Server,
    log: PathBuf,
}

impl Logged {
    fn start(dir: TempDir, log: PathBuf) -> Self {
        let mut process = program()
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .envs([("PROFILESTORE__LOG__FILTER", "trace"), ("PROFILESTORE__LOG__FORMAT", "json")])
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("grpc="));
        Self { server: Server { address: address.expect("a ready line").to_owned(), process, dir }, log }
    }

    /// Kills the server and starts it again on what `damage` leaves of its data.
    fn start_again(mut self, damage: impl FnOnce(&Path)) -> Self {
        self.server.kill();
        let dir = std::mem::replace(&mut self.server.dir, tempfile::tempdir().unwrap());
        damage(&dir.path().join("data"));
        Self::start(dir, self.log.clone())
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

/// Stands in everything that callers send.
const PERSONAL: &str = "qzx7personal";

#[test]
fn nothing_of_a_profile_is_in_the_log_of_a_server() {
    let (dir, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let logged = Logged::start(dir, logs.path().join("log"));
    let (email, name) = (format!("{PERSONAL}@{PERSONAL}.example"), format!("{PERSONAL} Lovelace"));
    let attribute = format!("{PERSONAL}={PERSONAL}");
    let put = ["put", "ada", "--email", &email, "--display-name", &name, "--attribute", &attribute];
    let run = |arguments: &[&str], code: i32| {
        let ran = logged.server.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
    };
    run(&put, 0);
    run(&["put", "ada", "--merge", "--attribute", &attribute], 0);
    run(&["get", "ada"], 0);
    run(&["lookup", &email], 0);
    run(&["query", &format!("{PERSONAL}.example")], 0);
    run(&["count", &format!("{PERSONAL}.example")], 0);
    // And what is refused.
    run(&["put", "ada", "--email", &format!("{PERSONAL} nobody"), "--display-name", &name], 1);
    run(&["put", "ada", "--email", &email, "--attribute", &format!("{PERSONAL}={}", "x".repeat(17_000))], 1);
    run(&["lookup", &format!("{PERSONAL} nobody")], 1);
    run(&["query", &format!("{PERSONAL}_.example")], 1);
    let file = write(
        logs.path(),
        "a.jsonl",
        &format!("{{\"id\":\"b\",\"email\":\"{email}\"}}\n{{\"id\":\"c\",\"email\":\"{PERSONAL}\"}}\n"),
    );
    run(&["import", &file], 3);
    run(&["delete", "b"], 0);
    run(&["verify"], 0);
    let logged = logged.start_again(|_| {});
    assert_eq!(logged.server.run(&["get", "ada"]).code, 0);
    let logged = logged.start_again(|data| {
        fs::write(data.join("sled").join("db"), PERSONAL).unwrap();
        fs::write(data.join("sled-suspect"), "a test says so").unwrap();
    });
    assert_eq!(logged.server.run(&["get", "ada"]).code, 0);
    let text = logged.text();
    let told: Vec<_> = text.lines().filter(|line| line.contains(PERSONAL)).take(3).collect();
    assert!(told.is_empty(), "{told:#?}");
    assert!(text.lines().count() > 20, "this is not the log: {text}");
}

#[test]
fn a_state_that_is_built_anew_is_told_in_the_log() {
    let (dir, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let logged = Logged::start(dir, logs.path().join("log"));
    assert_eq!(logged.server.run(&["put", "ada", "--email", "ada@example.com"]).code, 0);
    let logged = logged.start_again(|data| {
        fs::write(data.join("sled").join("db"), "not a database").unwrap();
        fs::write(data.join("sled-suspect"), "a test says so").unwrap();
    });
    assert_eq!(column(&logged.server.run(&["list"])), ["ada"]);
    let dir = logged.server.dir.path().join("data");
    let mut told = None;
    wait_until("the line is written", || {
        let text = logged.text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        told = whole.lines().find(|line| line.contains("state was built anew, whole")).map(str::to_owned);
        told.is_some()
    });
    let told: serde_json::Value = serde_json::from_str(&told.unwrap()).unwrap();
    let fields = &told["fields"];
    assert_eq!(fields["from"], "the log alone");
    assert_eq!(fields["profiles"], 1);
    assert!(fields["damage"].as_str().is_some_and(|damage| !damage.is_empty()), "{told}");
    let aside = PathBuf::from(fields["set_aside"].as_str().unwrap());
    assert_eq!(aside, dir.join("sled-set-aside-1"));
    // After a kill sled was asked how far the state had come, and has written to what it opened.
    assert!(aside.join("db").is_file());
}
