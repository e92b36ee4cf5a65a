//! How requests follow on one another.
//!
//! Closed loop: each slot begins a request when its last one is answered. Open loop: requests are due at times that
//! the server does not influence; one that finds all slots taken waits, and its latency counts from when it was due.
//!
//! Invariants: at most as many requests are in flight as there are slots; what was begun is counted when it ends,
//! and every loop waits for what it began; what was due and could not be begun is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::call::{Answer, Target};
use super::tally::Tally;
use crate::client::Code;

/// How long a slot of a closed loop rests when the server cannot be reached; without it the loop would only measure
/// how fast connections are refused.
const REST: Duration = Duration::from_millis(100);
/// The numbers of the requests that warm the server up; those that are measured count from 0.
pub const FIRST_WARMUP_NUMBER: u64 = 1 << 63;

/// What the loops of one worker share.
pub struct Lanes<T> {
    pub target: T,
    pub tally: Arc<Mutex<Tally>>,
    /// How many requests may be in flight.
    pub slots: usize,
    /// Set when somebody wants the load to end early.
    pub stop: CancellationToken,
}

/// Between which times a closed loop measures, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// What begins earlier is not counted.
    pub measured_from: Instant,
    pub end: Option<Instant>,
    pub requests: u64,
}

/// The numbers of a closed loop's requests, which all workers draw from.
#[derive(Debug, Default)]
pub struct Numbers {
    warmup: AtomicU64,
    measured: AtomicU64,
}

impl Numbers {
    /// The number of the request that begins now, and whether it is measured; `None` when there are to be no more.
    fn next(&self, bounds: Bounds) -> Option<(u64, bool)> {
        let now = Instant::now();
        if bounds.end.is_some_and(|end| now >= end) {
            return None;
        }
        if now < bounds.measured_from {
            return Some((FIRST_WARMUP_NUMBER + self.warmup.fetch_add(1, Ordering::Relaxed), false));
        }
        let number = self.measured.fetch_add(1, Ordering::Relaxed);
        (number < bounds.requests).then_some((number, true))
    }
}

/// Runs a closed loop in each slot.
pub async fn closed<T: Target>(lanes: Arc<Lanes<T>>, numbers: Arc<Numbers>, bounds: Bounds) {
    let mut slots = JoinSet::new();
    for slot in 0..lanes.slots {
        let (lanes, numbers) = (lanes.clone(), numbers.clone());
        slots.spawn(async move {
            while !lanes.stop.is_cancelled()
                && let Some((number, measured)) = numbers.next(bounds)
            {
                let begun = Instant::now();
                let answer = lanes.target.call(number, slot).await;
                let unreachable = matches!(&answer.result, Err(failure) if failure.code == Code::Unavailable);
                lanes.count(answer, begun, measured);
                if unreachable {
                    sleep(REST).await;
                }
            }
        });
    }
    while slots.join_next().await.is_some() {}
}

/// A request of an open loop.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    pub number: u64,
    pub at: Instant,
    pub measured: bool,
}

/// Begins requests when they are due. What waits at `give_up` is not begun any more. `until` waits for a time.
pub async fn open<T: Target>(
    lanes: Arc<Lanes<T>>,
    mut dues: impl Iterator<Item = Due>,
    give_up: Option<Instant>,
    mut until: impl AsyncFnMut(Instant),
) {
    let mut calls = JoinSet::new();
    let mut turn = 0;
    while let Some(due) = dues.next() {
        let begins = async {
            until(due.at).await;
            while calls.len() >= lanes.slots {
                calls.join_next().await;
            }
        };
        tokio::select! {
            biased;
            () = lanes.stop.cancelled() => {
                let now = Instant::now();
                lanes.count_not_begun(std::iter::once(due).chain(dues).take_while(|due| due.at <= now));
                break;
            }
            () = begins => {}
        }
        let begun = Instant::now();
        if give_up.is_some_and(|give_up| begun >= give_up) {
            lanes.count_not_begun(std::iter::once(due).chain(dues));
            break;
        }
        while calls.try_join_next().is_some() {}
        if due.measured {
            lanes.tally.lock().count_begun(begun - due.at);
        }
        turn += 1;
        let (lanes, lane) = (lanes.clone(), turn);
        calls.spawn(async move {
            let answer = lanes.target.call(due.number, lane).await;
            lanes.count(answer, due.at, due.measured);
        });
    }
    while calls.join_next().await.is_some() {}
}

impl<T> Lanes<T> {
    fn count(&self, answer: Answer, since: Instant, measured: bool) {
        if measured {
            let took = since.elapsed();
            self.tally.lock().count(answer, took);
        }
    }

    fn count_not_begun(&self, dues: impl Iterator<Item = Due>) {
        let count = dues.filter(|due| due.measured).count() as u64;
        self.tally.lock().punctuality.not_begun += count;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::call::Failure;
    use super::super::mix::Operation;
    use super::super::schedule::{Arrivals, Schedule};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Answers after a time that depends on the number; knows how many calls were in flight.
    struct Fake<F> {
        takes: F,
        running: AtomicUsize,
        most_running: AtomicUsize,
    }

    impl<F: Fn(u64) -> Result<Duration, Code> + Send + Sync + 'static> Target for Fake<F> {
        async fn call(&self, number: u64, _lane: usize) -> Answer {
            let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_running.fetch_max(running, Ordering::Relaxed);
            let result = match (self.takes)(number) {
                Ok(time) => {
                    sleep(time).await;
                    Ok(1)
                }
                Err(code) => Err(Failure { code, message: "as told".to_owned() }),
            };
            self.running.fetch_sub(1, Ordering::Relaxed);
            Answer { operation: Operation::Get, result }
        }
    }

    fn lanes<F: Fn(u64) -> Result<Duration, Code>>(slots: usize, takes: F) -> Arc<Lanes<Fake<F>>> {
        let target = Fake { takes, running: AtomicUsize::new(0), most_running: AtomicUsize::new(0) };
        let tally = Arc::new(Mutex::new(Tally::new(false)));
        Arc::new(Lanes { target, tally, slots, stop: CancellationToken::new() })
    }

    /// `count` requests, one each 10 ms from now on.
    fn dues(count: u64) -> impl Iterator<Item = Due> {
        let start = Instant::now();
        Schedule::new(Arrivals::Fixed, 100.0, 1, count, None).map(move |(number, offset)| Due {
            number,
            at: start + offset,
            measured: true,
        })
    }

    #[track_caller]
    fn assert_near(time: Duration, expected: Duration) {
        let (low, high) = (expected.mul_f64(0.99), expected.mul_f64(1.01) + 2 * MS);
        assert!((low..=high).contains(&time), "{time:?} is not about {expected:?}");
    }

    /// The first request takes a second. Those that were due meanwhile waited, as callers would have.
    #[tokio::test(start_paused = true)]
    async fn a_stall_counts_for_every_request_that_was_due_meanwhile() {
        let lanes = lanes(1, |number| Ok(if number == 0 { 1000 * MS } else { MS }));
        open(lanes.clone(), dues(200), None, tokio::time::sleep_until).await;
        let tally = lanes.tally.lock();
        let get = &tally.calls[Operation::Get as usize];
        assert_eq!((get.succeeded(), tally.punctuality.not_begun), (200, 0));
        assert_near(get.latencies.max(), 1000 * MS);
        // A backlog of a second shrinks by 9 ms with each request of 1 ms: it is gone after some 110 of the 200.
        assert!(get.latencies.quantile(0.5) > 90 * MS, "{:?}", get.latencies.quantile(0.5));
        assert_near(get.latencies.quantile(0.05), MS);
        assert_near(tally.punctuality.lateness.max(), 990 * MS);
        assert!((105..=115).contains(&tally.punctuality.late), "{} were late", tally.punctuality.late);
    }

    #[tokio::test(start_paused = true)]
    async fn slots_bound_what_is_in_flight_and_a_free_one_makes_nothing_late() {
        for (slots, most) in [(3, 3), (10, 5)] {
            // Five are in flight when all begin in time.
            let lanes = lanes(slots, |_| Ok(45 * MS));
            open(lanes.clone(), dues(100), None, tokio::time::sleep_until).await;
            assert_eq!(lanes.target.most_running.load(Ordering::Relaxed), most);
            let tally = lanes.tally.lock();
            assert_eq!(tally.calls[0].succeeded(), 100);
            // The timer of the test has a millisecond.
            assert_eq!(tally.punctuality.lateness.max() > 2 * MS, slots == 3);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_begun_is_counted() {
        let lanes = lanes(1, |_| Ok(100 * MS));
        let give_up = Instant::now() + 1050 * MS;
        open(lanes.clone(), dues(100), Some(give_up), tokio::time::sleep_until).await;
        let tally = lanes.tally.lock();
        assert_eq!((tally.calls[0].succeeded(), tally.punctuality.not_begun), (11, 89));
        assert_eq!(tally.punctuality.lateness.count(), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_open_loop_counts_what_was_due_and_waits_for_what_it_began() {
        let lanes = lanes(1, |_| Ok(100 * MS));
        let stop = lanes.stop.clone();
        tokio::spawn(async move {
            sleep(245 * MS).await;
            stop.cancel();
        });
        open(lanes.clone(), dues(100), None, tokio::time::sleep_until).await;
        let tally = lanes.tally.lock();
        // 25 were due in the first 245 ms; the third was on its way.
        assert_eq!((tally.calls[0].succeeded(), tally.punctuality.not_begun), (3, 22));
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_makes_exactly_the_requests_it_is_told_to_and_not_those_of_the_warmup() {
        let lanes = lanes(4, |number| if number % 10 == 0 { Err(Code::NotFound) } else { Ok(MS) });
        let measured_from = Instant::now() + 50 * MS;
        closed(lanes.clone(), Arc::default(), Bounds { measured_from, end: None, requests: 1001 }).await;
        assert!(Instant::now() >= measured_from);
        let tally = lanes.tally.lock();
        assert_eq!((tally.calls[0].succeeded(), tally.calls[0].failed()), (900, 101));
        assert_eq!(tally.calls[0].failures().collect::<Vec<_>>(), [(Code::NotFound, 101)]);
        assert_eq!(lanes.target.most_running.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_ends_at_its_end_and_rests_when_the_server_is_gone() {
        let lanes = lanes(2, |_| Err(Code::Unavailable));
        let start = Instant::now();
        let bounds = Bounds { measured_from: start, end: Some(start + 1000 * MS), requests: u64::MAX };
        closed(lanes.clone(), Arc::default(), bounds).await;
        assert_near(start.elapsed(), 1000 * MS);
        let failed = lanes.tally.lock().calls[0].failed();
        assert!((18..=20).contains(&failed), "{failed} attempts of 2 slots in 1 s, with 0.1 s of rest after each");
    }
}
