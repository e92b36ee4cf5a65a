//! The arguments of `profilestore load`, and the plan that they make.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};

use super::keys::Popularity;
use super::mix::{Mix, Operation};
use super::schedule::Arrivals;
use crate::cli::Cli;
use crate::cli::connection::ConnectionArgs;
use crate::cli::output::OutputArgs;

const DEFAULT_DURATION: Duration = Duration::from_secs(10);
const DEFAULT_CONNECTIONS: usize = 8;
/// Longer runs are for whoever starts several.
const DURATIONS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
const RATES: RangeInclusive<f64> = 0.001..=1_000_000.0;
const EXPONENTS: RangeInclusive<f64> = 0.0..=10.0;

/// The same seed makes the same requests. Without --writes nothing on the server changes.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The calls and their weights: get one profile, get a batch, query a page of a domain, put a value.
    #[arg(long, value_name = "CALL=WEIGHT,...", default_value = "get=1")]
    mix: Mix,
    /// How many requests may be in flight.
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u64).range(1..=16_384))]
    concurrency: u64,
    /// Open loop: so many requests are due each second, whatever the answers do, and latency counts from when a
    /// request is due. Without it the next request begins when one is answered.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Requests of an open loop are due at random times (a Poisson process) instead of even ones.
    #[arg(long, requires = "rate")]
    poisson: bool,
    /// How long to measure [default: 10s, unless --requests is given].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// How many requests to measure; with --duration whichever ends first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    requests: Option<u64>,
    /// How long to run the load before it is measured.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    warmup: Option<Duration>,
    /// How many connections to use [default: 8, or as many as --concurrency if that is less].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    connections: Option<u64>,
    /// How many threads to use, each with its own connections [default: one for each core, if there are as many
    /// connections].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: Option<u64>,
    /// Of how many profiles: the ids of the first N that `serve --sample` or --prepare makes [default: as many of them
    /// as the server has].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: Option<u64>,
    /// The exponent of Zipf's law for how popular profiles are; 0 for all alike [default: that for which a fifth of
    /// the profiles takes four fifths of the requests].
    #[arg(long, value_name = "EXPONENT", value_parser = exponent)]
    zipf: Option<f64>,
    /// All profiles are equally popular.
    #[arg(long, conflicts_with = "zipf")]
    uniform: bool,
    /// How many profiles a batch asks for.
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch_size: u16,
    /// How many profiles a query asks for.
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u16).range(1..=1000))]
    page_size: u16,
    /// The size of the value that a put writes.
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u16).range(16..=8192))]
    value_bytes: u16,
    /// Allow puts and --prepare. A put sets the attribute `load-value` of a profile that exists and changes nothing
    /// else; a profile keeps it after the run.
    #[arg(long)]
    writes: bool,
    /// First load N generated profiles, where their ids are free.
    #[arg(long, value_name = "N", requires = "writes", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    prepare: Option<u64>,
    /// Makes other requests.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// When requests begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// When another is answered.
    Closed,
    /// At a rate a second.
    Open(Arrivals, f64),
}

/// What to do, with all bounds checked.
#[derive(Debug, Clone)]
pub struct Plan {
    pub mix: Mix,
    pub pace: Pace,
    /// How many requests may be in flight.
    pub concurrency: usize,
    /// At most as many as `concurrency`.
    pub connections: usize,
    /// At most as many as `connections`.
    pub threads: usize,
    pub warmup: Duration,
    /// There is a duration, or a number of requests, or both.
    pub duration: Option<Duration>,
    pub requests: Option<u64>,
    /// Of how many profiles; `None` asks the server.
    pub keys: Option<u64>,
    pub popularity: Popularity,
    pub batch_size: usize,
    pub page_size: i32,
    pub value_bytes: usize,
    pub prepare: Option<u64>,
    pub seed: u64,
}

impl LoadArgs {
    /// Checks what no single argument shows to be wrong.
    pub fn plan(&self) -> Result<Plan, clap::Error> {
        if self.mix.has(Operation::Put) && !self.writes {
            return Err(wrong("the mix has puts, which change profiles; --writes allows them".to_owned()));
        }
        let connections = self.connections.map_or(DEFAULT_CONNECTIONS.min(self.concurrency as usize), |n| n as usize);
        if connections > self.concurrency as usize {
            let concurrency = self.concurrency;
            return Err(wrong(format!(
                "--connections is {connections}; only --concurrency, {concurrency}, are of use"
            )));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.map_or(cores.min(connections), |n| n as usize);
        if threads > connections {
            return Err(wrong(format!("--threads is {threads}; only --connections, {connections}, are of use")));
        }
        let arrivals = if self.poisson { Arrivals::Poisson } else { Arrivals::Fixed };
        Ok(Plan {
            mix: self.mix.clone(),
            pace: self.rate.map_or(Pace::Closed, |rate| Pace::Open(arrivals, rate)),
            concurrency: self.concurrency as usize,
            connections,
            threads,
            warmup: self.warmup.unwrap_or_default(),
            duration: self.duration.or(self.requests.is_none().then_some(DEFAULT_DURATION)),
            requests: self.requests,
            keys: self.keys.or(self.prepare),
            popularity: match self.zipf {
                Some(exponent) => Popularity::Zipf(exponent),
                None if self.uniform => Popularity::Uniform,
                None => Popularity::TwentyEighty,
            },
            batch_size: usize::from(self.batch_size),
            page_size: i32::from(self.page_size),
            value_bytes: usize::from(self.value_bytes),
            prepare: self.prepare,
            seed: self.seed,
        })
    }
}

/// What is wrong with the arguments, in the form in which the command line says so.
pub fn wrong(message: String) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    let load = command.find_subcommand_mut("load");
    load.map_or_else(
        || clap::Error::raw(ErrorKind::ValueValidation, &message),
        |load| load.error(ErrorKind::ValueValidation, &message),
    )
}

fn duration(given: &str) -> Result<Duration, String> {
    let duration = humantime_serde::re::humantime::parse_duration(given).map_err(|error| error.to_string())?;
    if DURATIONS.contains(&duration) { Ok(duration) } else { Err("must be 1ms to 24h".to_owned()) }
}

fn rate(given: &str) -> Result<f64, String> {
    within(given, RATES, "must be 0.001 to 1000000 requests a second")
}

fn exponent(given: &str) -> Result<f64, String> {
    within(given, EXPONENTS, "must be 0 to 10")
}

fn within(given: &str, range: RangeInclusive<f64>, otherwise: &str) -> Result<f64, String> {
    given.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| otherwise.to_owned())
}
