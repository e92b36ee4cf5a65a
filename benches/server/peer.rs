//! A server under measurement: a process of its own on a loopback port, ended with its owner.
//!
//! Invariant: dropping a [`Peer`] ends its process and all that it started, also when the bench fails.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A server must listen within this time. The largest sample takes most of it.
const START_TIMEOUT: Duration = Duration::from_secs(150);
/// A server that has not ended after this time is killed.
const END_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// The clock tick of `/proc` (`getconf CLK_TCK`), the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running server.
pub struct Peer {
    /// What the rows call it.
    pub name: &'static str,
    /// Where it listens on loopback.
    pub port: u16,
    child: Child,
    end: Signal,
    log: PathBuf,
}

impl Peer {
    /// Starts a server that will listen on `port`; its output goes to a file in `dir`.
    pub fn start(
        name: &'static str,
        port: u16,
        command: &mut Command,
        dir: &Path,
        end: Signal,
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{}.log", name.replace(' ', "-")));
        let out = File::create(&log)?;
        // A shell's settings for another server must not change this one.
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("PROFILESTORE__")) {
            command.env_remove(key);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let mut peer = Self { name, port, child, end, log };
        peer.wait_until_it_listens()?;
        Ok(peer)
    }

    fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while TcpStream::connect(self.address()).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}): {}", self.name, self.last_words());
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("{} does not listen: {}", self.name, self.last_words());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time in seconds, user and system, that the process has used with its children, ended or not.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let pid = self.child.id();
        let own = Stat::read(Path::new(&format!("/proc/{pid}/stat"))).context("the server has ended")?;
        let children = fs::read_dir("/proc")?
            .filter_map(|entry| Stat::read(&entry.ok()?.path().join("stat")))
            .filter(|stat| stat.parent == pid)
            .map(|stat| stat.ticks + stat.ticks_of_ended);
        let ticks = own.ticks + own.ticks_of_ended + children.sum::<u64>();
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The child has not been waited for, so the number is still its own.
        let _ = kill_process(Pid::from_child(&self.child), self.end);
        let asked = Instant::now();
        while asked.elapsed() < END_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `/proc/PID/stat` says.
struct Stat {
    parent: u32,
    ticks: u64,
    /// Of children that were waited for.
    ticks_of_ended: u64,
}

impl Stat {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        // The name before it may hold anything, also blanks and brackets.
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // proc(5) counts from 1 and two fields are cut off.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(field(4)?).ok()?,
            ticks: field(14)? + field(15)?,
            ticks_of_ended: field(16)? + field(17)?,
        })
    }
}

/// A loopback port that nobody listened on a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Where a program is: on the `PATH`, or in one of the folders beside it.
pub fn program(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.iter().cloned().chain(std::env::split_paths(&path)).map(|dir| dir.join(name)).find(|path| path.is_file())
}
