//! How long hot gets take while durable puts run at full rate, against the same without puts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::callers::{Call, Callers};
use super::load::Load;

use super::report::{Bars, median};
use super::tables::{Peers, hot_gets};

const ROUNDS: usize = 5;
const GETS: u64 = 40_000;
/// Connections, and gets in flight on each.
const SHAPE: (usize, usize) = (16, 1);
/// The puts run this long before the gets begin.
const SETTLE: Duration = Duration::from_millis(500);

/// Percentiles in microseconds.
struct Times {
    p50: f64,
    p99: f64,
}

pub async fn gets_under_puts(peers: &Peers, dir: &Path, bars: &mut Bars) -> anyhow::Result<()> {
    let (connections, streams) = SHAPE;
    println!("\nhot gets, {connections} connections x {streams} in flight, while 256 durable puts are in flight");
    println!("  {:<24} {:>12} {:>12} {:>12}", "", "p50 us", "p99 us", "puts/s");
    let (mut quiet, mut busy, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let without = times_of_gets(peers, dir).await?;
        let (with, rate) = under_puts(peers, dir).await?;
        if round > 0 {
            quiet.push(without);
            busy.push(with);
            rates.push(rate);
        }
    }
    let of = |times: &[Times], figure: fn(&Times) -> f64| median(times.iter().map(figure).collect());
    for (name, times, rate) in [("without puts", &quiet, 0.0), ("with puts", &busy, median(rates))] {
        println!(
            "  {name:<24} {:>12.0} {:>12.0} {rate:>12.0}",
            of(times, |times| times.p50),
            of(times, |times| times.p99)
        );
    }
    let ratio = median(quiet.iter().zip(&busy).map(|(quiet, busy)| busy.p99 / quiet.p99).collect());
    println!("  p99 with puts / without: {ratio:.2}");
    bars.at_most("p99 of hot gets with durable puts at full rate, against without", 3.0, Some(ratio));
    Ok(())
}

async fn under_puts(peers: &Peers, dir: &Path) -> anyhow::Result<(Times, f64)> {
    // The time does not count here: the puts go on until they are told to stop.
    let puts = Callers { call: Call::UpdateProfile, profiles: peers.hot.clone(), time: Duration::ZERO };
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let mut callers = puts.start(&peers.ours, &stop).await?;
    tokio::time::sleep(SETTLE).await;
    let times = times_of_gets(peers, dir).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    while let Some(ended) = callers.join_next().await {
        done += ended??;
    }
    Ok((times?, done as f64 / started.elapsed().as_secs_f64()))
}

async fn times_of_gets(peers: &Peers, dir: &Path) -> anyhow::Result<Times> {
    let log = dir.join("times.log");
    let mut load = hot_gets(dir, &peers.hot[0], SHAPE)?;
    if let Load::Grpc { times, .. } = &mut load {
        *times = Some(log.clone());
    }
    load.measure(&peers.ours, GETS).await?;
    // Each line: when it began, the status, the microseconds.
    let text = std::fs::read_to_string(&log)?;
    let times: Option<Vec<u64>> = text.lines().map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    let mut times = times.ok_or_else(|| anyhow::anyhow!("h2load's log is odd"))?;
    anyhow::ensure!(times.len() == GETS as usize, "h2load's log is not complete");
    times.sort_unstable();
    let at = |part: f64| times[(times.len() as f64 * part) as usize] as f64;
    Ok(Times { p50: at(0.5), p99: at(0.99) })
}
