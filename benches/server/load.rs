//! What drives the servers: h2load, redis-benchmark and pgbench, each checked to have got what it asked for.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

use super::callers::Callers;
use super::peer::Peer;

pub const GET_PROFILE: &str = "/profilestore.v1.ProfileService/GetProfile";
pub const BATCH_GET_PROFILES: &str = "/profilestore.v1.ProfileService/BatchGetProfiles";
pub const QUERY_PROFILES_BY_DOMAIN: &str = "/profilestore.v1.ProfileService/QueryProfilesByDomain";
pub const ETCD_RANGE: &str = "/etcdserverpb.KV/Range";

/// How a server is loaded. Every load keeps as many requests in flight as it says and asks anew at once.
#[derive(Clone)]
pub enum Load {
    /// One gRPC call again and again by h2load.
    Grpc {
        path: &'static str,
        body: PathBuf,
        /// The body of an answer has at least this many bytes; an error has none.
        answer_bytes: usize,
        connections: usize,
        streams: usize,
        /// Where the time of each request is written.
        times: Option<PathBuf>,
    },
    /// One command again and again by redis-benchmark.
    Redis { command: Vec<String>, connections: usize, pipelined: usize },
    /// A prepared statement again and again by pgbench.
    Postgres { pgbench: PathBuf, script: PathBuf, connections: usize },
    /// Calls by this program.
    Calls(Callers),
}

/// What a load did.
pub struct Done {
    pub requests: u64,
    pub per_second: f64,
}

/// What a load cost.
#[derive(Clone, Copy)]
pub struct Sample {
    pub per_second: f64,
    /// Microseconds of the server's CPU for each request.
    pub cpu_micros: f64,
}

impl Load {
    /// Loads the server with this many requests, and measures what it used for them.
    pub async fn measure(&self, peer: &Peer, requests: u64) -> anyhow::Result<Sample> {
        let before = peer.cpu_seconds()?;
        let done = self.run(peer, requests).await.with_context(|| format!("loading {}", peer.name))?;
        let used = peer.cpu_seconds()? - before;
        Ok(Sample { per_second: done.per_second, cpu_micros: used * 1e6 / done.requests as f64 })
    }

    async fn run(&self, peer: &Peer, requests: u64) -> anyhow::Result<Done> {
        let per_second = match self {
            Self::Grpc { path, body, answer_bytes, connections, streams, times } => {
                let url = format!("http://{}{path}", peer.address());
                let shape = [requests as usize, *connections, *streams];
                h2load(&url, body, shape, *answer_bytes, times.as_deref()).await?
            }
            Self::Redis { command, connections, pipelined } => {
                let mut arguments = vec!["--csv".into(), "-h".into(), "127.0.0.1".into()];
                let numbers = [
                    ("-p", usize::from(peer.port)),
                    ("-n", requests as usize),
                    ("-c", *connections),
                    ("-P", *pipelined),
                ];
                arguments.extend(numbers.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]));
                arguments.extend_from_slice(command);
                let output = output("redis-benchmark".as_ref(), &arguments).await?;
                // The last line, behind the command and in quotes.
                let line = output.lines().last().unwrap_or_default();
                number_behind(line, "\",\"").with_context(|| format!("redis-benchmark said: {output}"))?
            }
            Self::Postgres { pgbench, script, connections } => {
                let per_client = requests / *connections as u64;
                let arguments = [
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &peer.port.to_string(),
                    "-U",
                    "bench",
                    "-M",
                    "prepared",
                    "-n",
                    "-c",
                    &connections.to_string(),
                    "-t",
                    &per_client.to_string(),
                    "-f",
                    &script.to_string_lossy(),
                    "postgres",
                ];
                let output = output(pgbench, &arguments.map(str::to_owned)).await?;
                ensure!(output.contains("number of failed transactions: 0 "), "pgbench said: {output}");
                number_behind(&output, "tps = ").with_context(|| format!("pgbench said: {output}"))?
            }
            Self::Calls(callers) => return callers.run(peer).await,
        };
        Ok(Done { requests, per_second })
    }
}

/// Requests a second. Every answer must be there and have a message in it.
async fn h2load(
    url: &str,
    body: &Path,
    [requests, connections, streams]: [usize; 3],
    answer_bytes: usize,
    times: Option<&Path>,
) -> anyhow::Result<f64> {
    let mut arguments: Vec<String> =
        ["-t", "1", "-H", "content-type: application/grpc", "-H", "te: trailers"].map(Into::into).into();
    for (name, value) in [("-n", requests), ("-c", connections), ("-m", streams)] {
        arguments.extend([name.to_owned(), value.to_string()]);
    }
    arguments.extend(["-d".into(), body.to_string_lossy().into_owned()]);
    if let Some(times) = times {
        // h2load appends.
        let _ = std::fs::remove_file(times);
        arguments.push(format!("--log-file={}", times.display()));
    }
    arguments.push(url.to_owned());
    let output = output("h2load".as_ref(), &arguments).await?;
    let said = || format!("h2load said: {output}");
    let answered = number_behind(&output, "status codes: ").with_context(said)?;
    ensure!(answered as usize == requests, "{answered} of {requests} requests were answered; {}", said());
    let (_, data) = output.rsplit_once("), ").with_context(said)?;
    let data = number_behind(data, "(").with_context(said)?;
    ensure!(data as usize >= requests * answer_bytes, "some answers are too short to be right; {}", said());
    let line = output.lines().find(|line| line.starts_with("finished in")).with_context(said)?;
    number_behind(line, ", ").with_context(said)
}

/// The number that stands behind the first `mark`.
fn number_behind(text: &str, mark: &str) -> Option<f64> {
    let rest = text.split_once(mark)?.1;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// What a program prints. It is killed when nobody waits for it any more.
pub async fn output(program: &Path, arguments: &[String]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("{} cannot be started", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{} failed: {text} {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}
