//! `profilestore load`: puts load on a server through the project's client, and reports rates and latencies.
//!
//! Invariants: a run ends by itself; errors are counted and do not end it; what the report counts is what was
//! begun after the warm-up, each request once; without `--writes` nothing on the server changes.

mod args;
mod call;
mod keys;
mod loops;
mod mix;
mod prepare;
mod progress;
mod report;
mod sample_keys;
mod schedule;
mod tally;
mod timer;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

pub use self::args::LoadArgs;
use self::args::Plan;
use self::call::Requests;
use self::keys::Keys;
use self::mix::Operation;
use self::report::Report;
use self::tally::Tally;
use self::worker::{Event, Team};
use crate::server::sample::Sampler;

pub fn run(args: &LoadArgs) -> anyhow::Result<()> {
    let plan = args.plan()?;
    let keys = args.connection.run(async |client| {
        if let Some(count) = plan.prepare {
            prepare::prepare(&client, &args.connection, count).await?;
        }
        // Also without a need for the number: a server that is not there is told before anything is measured.
        let stored = client.count("", false).await.map_err(|error| args.connection.explain(error))?;
        let keys = match plan.keys {
            Some(keys) => keys,
            None => sample_keys::count(&client, &args.connection, stored).await?,
        };
        ensure!(
            keys > 0,
            "the server has no profiles of the sample; load some with --prepare N --writes or `serve --sample N`"
        );
        Ok(keys)
    })?;
    if plan.mix.has(Operation::Batch) && plan.batch_size as u64 > keys {
        return Err(args::wrong(format!("--batch-size is {}; there are only {keys} keys", plan.batch_size)).into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let (tally, took) = runtime.block_on(work(args, &plan, keys))?;
    let report = Report::new(&plan, keys, took, &tally);
    report.print(args.output)?;
    eprintln!("profilestore: {}", report.remark());
    match tally.first_failure {
        Some(failure) if !report.any_succeeded() => {
            bail!("every request failed, the first with {}: {}", report::name(failure.code), failure.message)
        }
        Some(failure) => {
            eprintln!("profilestore: the first error was {}: {}", report::name(failure.code), failure.message);
            Ok(())
        }
        None => {
            ensure!(report.any_succeeded(), "nothing was measured");
            Ok(())
        }
    }
}

/// Runs the workers, and says what they counted and how long it took.
async fn work(args: &LoadArgs, plan: &Plan, keys: u64) -> anyhow::Result<(Tally, Duration)> {
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be handled")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be handled")?;
    let (start, started) = watch::channel(None);
    let (events, mut happened) = mpsc::unbounded_channel();
    let team = Arc::new(Team {
        plan: plan.clone(),
        connection: args.connection.clone(),
        requests: Arc::new(requests(plan, keys)),
        numbers: Arc::default(),
        stop: CancellationToken::new(),
        start: started,
        events,
    });
    let watched = progress::is_watched();
    let tallies: Vec<_> = (0..plan.threads).map(|_| Arc::new(Mutex::new(Tally::new(watched)))).collect();
    for (number, tally) in tallies.iter().enumerate() {
        worker::spawn(&team, number, tally.clone())?;
    }
    let (mut ready, mut ended) = (0, 0);
    let mut begun = Instant::now();
    let mut shown = begun;
    let mut ticks = interval_at(begun + progress::INTERVAL, progress::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while ended < plan.threads {
        tokio::select! {
            event = happened.recv() => match event {
                Some(Event::Ready) => {
                    ready += 1;
                    if ready == plan.threads {
                        begun = Instant::now();
                        shown = begun;
                        ticks.reset();
                        start.send_replace(Some(begun));
                    }
                }
                Some(Event::Ended(result)) => {
                    result?;
                    ended += 1;
                }
                None => bail!("the workers ended without a word"),
            },
            _ = ticks.tick(), if watched && ready == plan.threads => {
                let measured_from = begun + plan.warmup;
                if Instant::now() > measured_from {
                    progress::show(&tallies, measured_from.elapsed(), shown.max(measured_from).elapsed());
                    shown = Instant::now();
                } else {
                    eprintln!("warming up");
                }
            }
            _ = interrupt.recv() => interrupted(&team.stop),
            _ = terminate.recv() => interrupted(&team.stop),
        }
    }
    let took = begun.elapsed().saturating_sub(plan.warmup);
    let mut sum = Tally::new(false);
    for tally in tallies {
        sum.merge(std::mem::replace(&mut tally.lock(), Tally::new(false)));
    }
    Ok((sum, took))
}

/// The first signal ends the load when what is in flight is answered; the second ends everything.
fn interrupted(stop: &CancellationToken) {
    if stop.is_cancelled() {
        eprintln!("profilestore: stopped by a second signal, without a report");
        std::process::exit(1);
    }
    stop.cancel();
}

fn requests(plan: &Plan, keys: u64) -> Requests {
    Requests {
        mix: plan.mix.clone(),
        keys: Keys::new(keys, plan.popularity),
        domains: Sampler::domain_ranks(keys),
        seed: plan.seed,
        batch_size: plan.batch_size,
        page_size: plan.page_size,
        value_bytes: plan.value_bytes,
    }
}
