//! Where a request's microseconds go: the server's CPU under perf, by who used it.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::process::Command;

use super::callers::{Call, Callers};
use super::load::{Load, output};
use super::peer::program;
use super::tables::hot_gets;
use super::{HOT_PROFILES, PROFILES, ours};

const TIME: Duration = Duration::from_secs(3);
/// perf copies this much of a stack for each sample.
const STACK: &str = "dwarf,16384";
const SAMPLES_PER_SECOND: &str = "500";

/// What the system does for the server, by any function on the stack.
const KERNEL: [(&str, &[&str]); 5] = [
    ("kernel: send", &["sys_sendto", "sys_writev", "tcp_sendmsg"]),
    ("kernel: recv", &["sys_recvfrom", "tcp_recvmsg"]),
    ("kernel: epoll", &["epoll_wait"]),
    ("kernel: write and sync files", &["sync", "sys_pwrite", "sys_write"]),
    ("kernel: wake-ups and switches", &["futex", "eventfd", "schedule"]),
];

/// What the server does, by the innermost function that belongs to someone: a copy or an allocation counts for its
/// caller. The order matters where names contain one another.
const PROGRAM: [(&str, &[&str]); 9] = [
    ("HPACK", &["hpack"]),
    ("h2", &["h2::", "http::", "serve_connection"]),
    ("socket buffer", &["gathered_io"]),
    ("lane: decode and answer", &["rpc::lane", "rpc::fast_lane"]),
    ("cache", &["profilestore::cache", "lru::"]),
    ("sled", &["sled::"]),
    ("commit log and engine", &["profilestore::engine", "crc32c"]),
    ("tonic, prost and checks", &["tonic::", "prost", "profilestore::rpc", "profilestore::model", "idna"]),
    ("tokio", &["tokio::"]),
];

pub async fn run(dir: &Path) -> anyhow::Result<()> {
    if program("perf", &[]).is_none() {
        println!("perf is not installed (Debian: linux-perf), so nothing is broken down");
        return Ok(());
    }
    let server = ours::start("profilestore", dir, PROFILES).await?;
    let hot = Arc::new(ours::hot_profiles(&server, HOT_PROFILES).await?);
    let puts = Callers { call: Call::UpdateProfile, profiles: hot.clone(), time: TIME };
    for (title, load, requests) in [
        ("hot gets, 8 connections x 32", hot_gets(dir, &hot[0], (8, 32))?, 400_000),
        ("hot gets, 16 connections x 1", hot_gets(dir, &hot[0], (16, 1))?, 150_000),
        ("durable puts, 256 in flight", Load::Calls(puts), 0),
    ] {
        let cost = load.measure(&server, requests).await?.cpu_micros;
        let data = dir.join("perf.data");
        let mut perf = Command::new("perf");
        perf.args(["record", "-q", "-F", SAMPLES_PER_SECOND, "--call-graph", STACK, "-p", &server.pid().to_string()]);
        perf.arg("-o").arg(&data).arg("--").args(["sleep", &TIME.as_secs().to_string()]);
        perf.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut perf = perf.spawn().context("perf cannot be started")?;
        load.measure(&server, requests).await?;
        ensure!(perf.wait().await?.success(), "perf cannot record; see kernel.perf_event_paranoid");
        print(title, cost, &data).await?;
    }
    Ok(())
}

async fn print(title: &str, cost: f64, data: &Path) -> anyhow::Result<()> {
    let arguments = ["script", "--no-inline", "-F", "ip,sym", "-i", &data.to_string_lossy()];
    let script = output("perf".as_ref(), &arguments.map(str::to_owned)).await?;
    let stacks: Vec<_> = script.split("\n\n").filter(|stack| !stack.trim().is_empty()).collect();
    ensure!(!stacks.is_empty(), "perf took no samples");
    let mut groups: HashMap<&str, usize> = HashMap::new();
    for stack in &stacks {
        *groups.entry(group(stack)).or_default() += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
    println!("\n{title}: {cost:.1} us of CPU, {} samples", stacks.len());
    for (group, samples) in groups {
        let share = samples as f64 / stacks.len() as f64;
        println!("  {group:<32} {:>5.1} % {:>7.2} us", share * 100.0, share * cost);
    }
    Ok(())
}

/// Whom a stack, innermost first, belongs to.
fn group(stack: &str) -> &'static str {
    let frames: Vec<_> = stack.lines().filter_map(|line| line.trim().split_once(' ')).collect();
    let holds = |name: &str, marks: &[&str]| marks.iter().any(|mark| name.contains(mark));
    let in_kernel = |address: &str| address.len() == 16 && address.starts_with("ffff");
    let kernel: Vec<_> = frames.iter().take_while(|(address, _)| in_kernel(address)).collect();
    if !kernel.is_empty() {
        let found = KERNEL.iter().find(|(_, marks)| kernel.iter().any(|(_, name)| holds(name, marks)));
        return found.map_or("kernel: other", |(group, _)| group);
    }
    let of_frame = |name: &str| PROGRAM.iter().find(|(_, marks)| holds(name, marks)).map(|(group, _)| *group);
    frames.iter().find_map(|(_, name)| of_frame(name)).unwrap_or("other")
}
