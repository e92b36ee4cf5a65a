//! The command line as people use it: each command's output and exit code, against a real server.

#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/load.rs"]
mod load;
#[path = "cli/mistakes.rs"]
mod mistakes;
#[path = "cli/settings.rs"]
mod settings;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_profilestore");

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
    _dir: TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut process = program()
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("grpc=")).expect("a ready line");
        Self { address: address.to_owned(), process, _dir: dir }
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
