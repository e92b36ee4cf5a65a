//! The threads that make the calls.
//!
//! Each has a runtime, connections and slots of its own, so that an answer wakes no other thread. A slot keeps to one
//! connection. All begin together, once every connection has been used.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::args::{Pace, Plan};
use super::call::{Requests, Server};
use super::loops::{self, Bounds, Due, FIRST_WARMUP_NUMBER, Lanes, Numbers};
use super::schedule::Schedule;
use super::tally::Tally;
use super::timer::Timer;
use crate::cli::connection::ConnectionArgs;

/// What all workers share.
pub struct Team {
    pub plan: Plan,
    pub connection: ConnectionArgs,
    pub requests: Arc<Requests>,
    pub numbers: Arc<Numbers>,
    pub stop: CancellationToken,
    /// When to begin; `None` until all are ready.
    pub start: watch::Receiver<Option<Instant>>,
    /// What happens to workers.
    pub events: mpsc::UnboundedSender<Event>,
}

/// What a worker tells; each tells at most two things.
#[derive(Debug)]
pub enum Event {
    /// Its connections work.
    Ready,
    /// It has ended.
    Ended(anyhow::Result<()>),
}

/// Starts a worker. It ends with its load, or when `team.stop` is set.
pub fn spawn(team: &Arc<Team>, number: usize, tally: Arc<Mutex<Tally>>) -> anyhow::Result<()> {
    let team = team.clone();
    let work = move || {
        let load = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("a runtime cannot be started")?.block_on(work(&team, number, tally))
        };
        // A worker that is lost must be told like any other end, or the others would wait for it.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(load));
        let ended = ended.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the load has panicked")));
        // Whoever does not listen any more does not need it.
        let _ = team.events.send(Event::Ended(ended));
    };
    std::thread::Builder::new().name(format!("load-{number}")).spawn(work).context("no threads can be started")?;
    Ok(())
}

async fn work(team: &Team, worker: usize, tally: Arc<Mutex<Tally>>) -> anyhow::Result<()> {
    let plan = &team.plan;
    let mut clients = Vec::new();
    for _ in part(plan.connections, plan.threads, worker) {
        // A repetition would hide a failure, and count as one slow request.
        let client = team.connection.builder().connections(1).retries(0).build();
        let client = client.map_err(|error| team.connection.explain(error))?;
        client.health().await.map_err(|error| team.connection.explain(error))?;
        clients.push(client);
    }
    // Slot s keeps to connection s modulo their number.
    let slots = part(plan.connections, plan.threads, worker)
        .map(|connection| part(plan.concurrency, plan.connections, connection).count())
        .sum();
    let target = Server { clients, requests: team.requests.clone() };
    let lanes = Arc::new(Lanes { target, tally, slots, stop: team.stop.child_token() });
    let mut timer = Timer::new().context("there is no timer")?;
    let _ = team.events.send(Event::Ready);
    let mut start = team.start.clone();
    let Ok(begin) = start.wait_for(Option::is_some).await.map(|start| start.unwrap_or_else(Instant::now)) else {
        return Ok(());
    };
    let measured_from = begin + plan.warmup;
    let end = plan.duration.map(|duration| measured_from + duration);
    match plan.pace {
        Pace::Closed => {
            let bounds = Bounds { measured_from, end, requests: plan.requests.unwrap_or(u64::MAX) };
            loops::closed(lanes, team.numbers.clone(), bounds).await;
        }
        Pace::Open(..) => {
            let dues = dues(plan, begin).skip(worker).step_by(plan.threads);
            let give_up = end.map(|end| end + team.connection.timeout());
            loops::open(lanes, dues, give_up, async |due| timer.until(due).await).await;
        }
    }
    Ok(())
}

/// The numbers below `count` that fall to one of `parts`.
fn part(count: usize, parts: usize, index: usize) -> impl Iterator<Item = usize> {
    (index..count).step_by(parts)
}

/// All requests of an open loop that begins at a time: those of the warm-up, then those that are measured.
fn dues(plan: &Plan, begin: Instant) -> impl Iterator<Item = Due> + use<> {
    let (warmup, requests) = (plan.warmup, plan.requests.unwrap_or(u64::MAX));
    let schedule = |seed, requests, end: Option<Duration>| match plan.pace {
        Pace::Open(arrivals, rate) => Some(Schedule::new(arrivals, rate, seed, requests, end)),
        Pace::Closed => None,
    };
    let warming = schedule(!plan.seed, u64::MAX, Some(warmup)).into_iter().flatten();
    let measured = schedule(plan.seed, requests, plan.duration).into_iter().flatten();
    warming
        .map(move |(number, offset)| Due {
            number: FIRST_WARMUP_NUMBER + number,
            at: begin + offset,
            measured: false,
        })
        .chain(measured.map(move |(number, offset)| Due { number, at: begin + warmup + offset, measured: true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_everything_once() {
        for (count, parts) in [(8, 2), (7, 3), (64, 64), (1, 1), (256, 7)] {
            let mut all: Vec<_> = (0..parts).flat_map(|index| part(count, parts, index)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
            assert!((0..parts).all(|index| part(count, parts, index).count() >= count / parts));
        }
    }
}
