//! The command line as people use it: each command's output and exit code, against a real server.

#[path = "cli/backups.rs"]
mod backups;
#[path = "cli/bulk_kills.rs"]
mod bulk_kills;
#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/csv_imports.rs"]
mod csv_imports;
#[path = "cli/exports.rs"]
mod exports;
#[path = "cli/import_syncs.rs"]
mod import_syncs;
#[path = "cli/imports.rs"]
mod imports;
#[path = "cli/json_output.rs"]
mod json_output;
#[path = "cli/load.rs"]
mod load;
#[path = "cli/log_lines.rs"]
mod log_lines;
#[path = "cli/logs.rs"]
mod logs;
#[path = "cli/mistakes.rs"]
mod mistakes;
#[path = "cli/otlp_receiver.rs"]
mod otlp_receiver;
#[path = "cli/personal_data.rs"]
mod personal_data;
#[path = "cli/points.rs"]
mod points;
#[path = "cli/settings.rs"]
mod settings;
#[path = "cli/top.rs"]
mod top;
#[path = "cli/traces.rs"]
mod traces;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_profilestore");

/// Where nobody listens: not the port of a listener that is gone, which another test may be given.
const NOBODY: &str = "127.0.0.1:1";

/// What a command did.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("an exit code"),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

/// The program without settings from this process's environment.
fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("PROFILESTORE_")) {
        command.env_remove(key);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end.
fn run(arguments: &[&str]) -> Ran {
    program().args(arguments).output().unwrap().into()
}

/// A server on a port of its own, over a store of its own; killed when it is dropped.
struct Server {
    process: Child,
    address: String,
    dir: TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with settings from its environment.
    fn start_with(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (process, address) = Self::serve_with("127.0.0.1:0", dir.path(), settings).expect("a ready line");
        Self { address, process, dir }
    }

    /// A server that can be started again on its port: one below those that outgoing connections take, and that no other
    /// test of this process is given while this server is down.
    fn start_again_and_again() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let dir = tempfile::tempdir().unwrap();
        let first = std::process::id() as u16 % 1000 * 10;
        let served = (0..10_000).find_map(|_| {
            let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
            TcpListener::bind(("127.0.0.1", port)).ok()?;
            Self::serve(&format!("127.0.0.1:{port}"), dir.path())
        });
        let (process, address) = served.expect("a free port");
        Self { address, process, dir }
    }

    /// `None` if it ends at once.
    fn serve(address: &str, dir: &Path) -> Option<(Child, String)> {
        Self::serve_with(address, dir, &[])
    }

    fn serve_with(address: &str, dir: &Path, settings: &[(&str, &str)]) -> Option<(Child, String)> {
        let mut process = program()
            .args(["serve", "--listen", address, "--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.join("data"))
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        match line.split_whitespace().find_map(|word| word.strip_prefix("grpc=")) {
            Some(address) => Some((process, address.to_owned())),
            None => {
                process.wait().unwrap();
                None
            }
        }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after it was killed.
    fn start_again(&mut self) {
        (self.process, _) = Self::serve(&self.address, self.dir.path()).expect("it starts on its data");
    }

    /// A server with three profiles.
    fn with_profiles() -> Self {
        let server = Self::start();
        for (id, email) in [("ada", "Ada@Example.com"), ("bob", "bob@example.com"), ("eve", "eve@mail.example.com")] {
            let name = format!("Name of {id}");
            let put = ["put", id, "--email", email, "--display-name", &name, "--attribute", "plan=pro"];
            assert_eq!(server.run(&put).code, 0);
        }
        server
    }

    /// Runs a command against the server.
    fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).env("PROFILESTORE_ADDR", &self.address);
        command
    }

    /// Runs a command with this standard input.
    fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        process.wait_with_output().unwrap().into()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until something is as it must become.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < limit, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The value of a field in the tab-separated print of a profile.
fn field(ran: &Ran, name: &str) -> String {
    let line = ran.out.lines().find_map(|line| line.strip_prefix(&format!("{name}\t")));
    line.unwrap_or_else(|| panic!("no {name} in {ran:?}")).to_owned()
}

/// The lines of an output as JSON.
fn json(ran: &Ran) -> Vec<serde_json::Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The first column of what was printed, without its header.
fn column(ran: &Ran) -> Vec<&str> {
    ran.out.lines().skip(1).map(|line| line.split('\t').next().unwrap()).collect()
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A pipe with a name.
fn named_pipe(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path.to_str().unwrap().to_owned()
}
