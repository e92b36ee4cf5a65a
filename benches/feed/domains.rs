//! Many watchers of a domain each, beside a steady load of writes: what they cost the server, and what the writers notice.
//!
//! The watchers are a process of their own, so that the processor time of this one is the server's and the writers'. They
//! would be on other machines. Where they are said to be polite they get the processor when nobody else wants it, so that the
//! writers notice what the server does for them and not what they do themselves.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use profilestore::model::{Canonicalization, Draft, Precondition, Profile};
use profilestore::pb::WatchProfilesRequest;
use profilestore::store::{Commit, Store};
use tokio::task::JoinSet;

use super::{Bench, client_of, cpu_seconds, median};

const WATCHERS: usize = 1000;
const DOMAINS: usize = 100;
/// Changes a second, one in a hundred of them for each watcher.
const PACE: u64 = 5000;
const TICK: Duration = Duration::from_millis(2);
const ROUND_TIME: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// How long after the last write the last event may come.
const PATIENCE: Duration = Duration::from_secs(60);
/// What makes this program the watchers; their address and domains follow.
pub const WATCH: &str = "--watch";

/// What a round of writes shows.
#[derive(Default)]
struct Figures {
    cores: Vec<f64>,
    mean_us: Vec<f64>,
    median_us: Vec<f64>,
    p99_us: Vec<f64>,
    events: Vec<f64>,
}

pub async fn measure(bench: &Bench) {
    println!(
        "\n{:<44} {:>8} {:>10} {:>10} {:>10} {:>10}",
        format!("beside {PACE} puts/s"),
        "cores",
        "mean us",
        "median us",
        "p99 us",
        "events/s"
    );
    let cases = [
        ("nobody", 0, DOMAINS, false),
        ("1000 polite watchers, a hundredth for each", WATCHERS, DOMAINS, true),
        ("1000 watchers, a hundredth for each", WATCHERS, DOMAINS, false),
        ("1000 watchers, nothing for any", WATCHERS, 0, false),
    ];
    let mut all: [Figures; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (&(_, count, domains, are_polite), figures) in cases.iter().zip(&mut all) {
            let watchers = (count > 0).then(|| Watchers::start(&bench.address, count, domains, are_polite));
            round(bench, watchers, count.checked_div(domains), figures).await;
        }
    }
    let base = median(&all[0].mean_us);
    for ((name, ..), figures) in cases.iter().zip(&all) {
        let [cores, mean, middle, p99, events] =
            [&figures.cores, &figures.mean_us, &figures.median_us, &figures.p99_us, &figures.events]
                .map(|values| median(values));
        println!("{name:<44} {cores:>8.2} {mean:>10.0} {middle:>10.0} {p99:>10.0} {events:>10.0}");
        println!("{:<44} {:>8.2} {:>10.2}", "  against nobody", cores - median(&all[0].cores), mean / base);
    }
}

/// `watchers_of_each` is how many watch each domain.
async fn round(bench: &Bench, watchers: Option<Watchers>, watchers_of_each: Option<usize>, figures: &mut Figures) {
    let (cpu, started) = (cpu_seconds(), Instant::now());
    let (mut ticks, mut writes) = (tokio::time::interval(TICK), JoinSet::new());
    // A put that changes nothing makes no event, so no two are alike.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let first = NUMBER.load(Ordering::Relaxed);
    while started.elapsed() < ROUND_TIME {
        ticks.tick().await;
        for _ in 0..PACE * TICK.as_millis() as u64 / 1000 {
            let (store, write) = (bench.store.clone(), put(NUMBER.fetch_add(1, Ordering::Relaxed)));
            writes.spawn(async move {
                let began = Instant::now();
                store.commit(Commit::each(vec![write])).await.expect("commits");
                began.elapsed().as_secs_f64() * 1e6
            });
        }
    }
    let mut latencies = writes.join_all().await;
    let seconds = started.elapsed().as_secs_f64();
    figures.cores.push((cpu_seconds() - cpu) / seconds);
    let written = NUMBER.load(Ordering::Relaxed) - first;
    // Each domain has as many watchers as the others, and each change is an event for those of its domain.
    let expected = watchers_of_each.unwrap_or(0) as u64 * written;
    let events = watchers.map_or(0, |watchers| watchers.stop(expected));
    assert_eq!(events, expected, "events of {written} changes");
    figures.events.push(events as f64 / seconds);
    latencies.sort_by(f64::total_cmp);
    figures.mean_us.push(latencies.iter().sum::<f64>() / latencies.len() as f64);
    figures.median_us.push(latencies[latencies.len() / 2]);
    figures.p99_us.push(latencies[latencies.len() * 99 / 100]);
}

/// A put that changes its profile, in one of the domains.
fn put(number: u64) -> profilestore::model::Write {
    let profile = Profile {
        id: format!("domain-bench-{}", number % 20_000),
        email: format!("u{number}@{}", domain(number as usize % DOMAINS)),
        attributes: [("filler".into(), "x".repeat(300)), ("version".into(), number.to_string())].into(),
        ..Profile::default()
    };
    let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").expect("valid");
    profilestore::model::Write::put(draft, Precondition::None)
}

fn domain(number: usize) -> String {
    format!("d{number}.example")
}

/// The process of the watchers.
struct Watchers(Child);

impl Watchers {
    /// Returns when all have begun.
    fn start(address: &str, count: usize, domains: usize, are_polite: bool) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", if are_polite { "19" } else { "0" }]).arg(std::env::current_exe().expect("this program"));
        command.args([WATCH, address, &count.to_string(), &domains.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("says that it watches");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    /// Ends them when they have seen so many events, or when these do not come; returns how many they saw.
    fn stop(mut self, expected: u64) -> u64 {
        let mut input = self.0.stdin.take().expect("a pipe");
        input.write_all(expected.to_string().as_bytes()).expect("is told what to wait for");
        drop(input);
        let mut count = String::new();
        self.0.stdout.take().expect("a pipe").read_to_string(&mut count).expect("says what it saw");
        self.0.wait().expect("ends");
        count.trim().parse().expect("a number")
    }
}

/// Watches until the standard input, a number, ends and so many events have come, and says how many there were.
pub async fn watch(mut arguments: impl Iterator<Item = String>) {
    let mut argument = || arguments.next().expect("an argument");
    let (address, count, domains) = (argument(), argument(), argument());
    let (count, domains): (usize, usize) = (count.parse().expect("a count"), domains.parse().expect("a count"));
    let (mut tasks, seen) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    let mut client = client_of(&address);
    for number in 0..count {
        if number % super::WATCHERS_PER_CONNECTION == 0 {
            client = client_of(&address);
        }
        let domain = number.checked_rem(domains).map_or_else(|| "nobody.invalid".into(), domain);
        let request = WatchProfilesRequest { domain, ..Default::default() };
        let mut stream = client.watch_profiles(request).await.expect("watches").into_inner();
        let seen = seen.clone();
        tasks.spawn(async move {
            loop {
                match stream.message().await {
                    Ok(Some(response)) => _ = seen.fetch_add(response.events.len() as u64, Ordering::Relaxed),
                    // The bench's server went away.
                    Ok(None) => return,
                    Err(status) => panic!("a watch ended: {status}"),
                }
            }
        });
    }
    println!("ready");
    std::io::stdout().flush().expect("writes");
    let expected = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()).expect("reads"));
    let expected: u64 = expected.await.expect("ends").parse().expect("a number");
    let told = Instant::now();
    while seen.load(Ordering::Relaxed) < expected && told.elapsed() < PATIENCE {
        tokio::time::sleep(TICK).await;
    }
    println!("{}", seen.load(Ordering::Relaxed));
}
