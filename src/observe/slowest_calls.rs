//! The slowest calls of the last five minutes, for those who look at the server now.
//!
//! Streams are left out, since they are open for as long as their callers like.
//!
//! Invariants: a call that is not among the slowest of its minute costs a comparison; what is kept of one is numbers and
//! names from the code, so nothing that a caller sent.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{CallSink, Code, EndedCall, Method};
use crate::figures::nanos;
use crate::store::AnswerSource;

/// So many minutes are kept, and so many calls of each.
const MINUTES: u64 = 5;
const CALLS_A_MINUTE: usize = 10;

/// The slowest calls of each of the last minutes.
#[derive(Debug)]
pub struct SlowestCalls {
    began: Instant,
    /// In nanoseconds; what was faster is not among the slowest of the current minute.
    threshold: AtomicU64,
    minutes: Mutex<VecDeque<Minute>>,
}

#[derive(Debug)]
struct Minute {
    number: u64,
    calls: Vec<SlowCall>,
}

/// A call that was slow.
#[derive(Debug, Clone)]
pub struct SlowCall {
    /// Which.
    pub method: Method,
    /// How it ended.
    pub code: Code,
    /// How long it took.
    pub elapsed: Duration,
    /// When it ended.
    pub ended: Instant,
    /// What gave the answer, as far as that is known.
    pub source: Option<AnswerSource>,
}

impl SlowestCalls {
    /// None yet.
    pub fn new() -> Self {
        Self { began: Instant::now(), threshold: AtomicU64::new(0), minutes: Mutex::default() }
    }

    /// The slowest of the calls that ended in the last five minutes, the slowest first, at most so many.
    pub fn slowest(&self, now: Instant, most: usize) -> Vec<SlowCall> {
        let mut minutes = self.minutes.lock();
        self.begin_minute(&mut minutes, now);
        let recent = |call: &&SlowCall| now.saturating_duration_since(call.ended) < Duration::from_secs(60 * MINUTES);
        let mut calls: Vec<_> = minutes.iter().flat_map(|minute| &minute.calls).filter(recent).cloned().collect();
        calls.sort_by_key(|call| std::cmp::Reverse(call.elapsed));
        calls.truncate(most);
        calls
    }

    /// Lets go of what is too old when a new minute has begun, in which any call may be among the slowest. Somebody has to
    /// call it now and then: calls that are faster than those of the last minute would not be noticed else.
    pub fn tick(&self, now: Instant) {
        self.begin_minute(&mut self.minutes.lock(), now);
    }

    fn keep(&self, call: SlowCall) {
        let mut minutes = self.minutes.lock();
        self.begin_minute(&mut minutes, call.ended);
        let Some(minute) = minutes.back_mut() else { return };
        let place = minute.calls.partition_point(|other| other.elapsed >= call.elapsed);
        minute.calls.insert(place, call);
        minute.calls.truncate(CALLS_A_MINUTE);
        if let [.., fastest] = &minute.calls[..]
            && minute.calls.len() == CALLS_A_MINUTE
        {
            self.threshold.store(nanos(fastest.elapsed), Ordering::Relaxed);
        }
    }

    fn begin_minute(&self, minutes: &mut VecDeque<Minute>, now: Instant) {
        let number = now.saturating_duration_since(self.began).as_secs() / 60;
        if minutes.back().is_none_or(|last| last.number < number) {
            minutes.push_back(Minute { number, calls: Vec::new() });
            self.threshold.store(0, Ordering::Relaxed);
            // The oldest is still partly within the last five minutes.
            while minutes.front().is_some_and(|first| first.number + MINUTES < number) {
                minutes.pop_front();
            }
        }
    }
}

impl Default for SlowestCalls {
    fn default() -> Self {
        Self::new()
    }
}

impl CallSink for SlowestCalls {
    fn ended(&self, call: &EndedCall) {
        if nanos(call.elapsed) <= self.threshold.load(Ordering::Relaxed) || call.method.kind() != "unary" {
            return;
        }
        let EndedCall { method, code, elapsed, source, started, .. } = *call;
        self.keep(SlowCall { method, code, elapsed, ended: started + elapsed, source });
    }
}

#[cfg(test)]
mod tests {
    use super::super::Traffic;
    use super::*;

    fn call(method: Method, started: Instant, millis: u64) -> EndedCall {
        EndedCall {
            method,
            code: Code::OK,
            started,
            elapsed: Duration::from_millis(millis),
            received: Traffic::default(),
            sent: Traffic::default(),
            source: Some(AnswerSource::Store),
            origin: Default::default(),
        }
    }

    fn millis(calls: &[SlowCall]) -> Vec<u128> {
        calls.iter().map(|call| call.elapsed.as_millis()).collect()
    }

    #[test]
    fn the_slowest_calls_of_each_minute_are_kept_and_no_streams() {
        let slow = SlowestCalls::new();
        let start = slow.began;
        let watch = Method::of_path("/profilestore.v1.ProfileService/WatchProfiles");
        slow.ended(&call(watch, start, 50_000));
        for number in 0..1000 {
            slow.ended(&call(Method::GET_PROFILE, start, number * 7 % 1000));
        }
        let now = start + Duration::from_secs(30);
        assert_eq!(millis(&slow.slowest(now, 100)), (990..1000).rev().collect::<Vec<u128>>());
        assert_eq!(millis(&slow.slowest(now, 2)), [999, 998]);
        assert_eq!(slow.minutes.lock().len(), 1);
    }

    #[test]
    fn a_call_that_is_slow_for_its_minute_is_kept_beside_slower_ones_of_others_until_it_is_old() {
        let slow = SlowestCalls::new();
        let minute = |number: u64| slow.began + Duration::from_secs(60 * number);
        for number in 0..20 {
            slow.ended(&call(Method::GET_PROFILE, minute(0), 900 + number));
        }
        slow.tick(minute(1));
        slow.ended(&call(Method::GET_PROFILE, minute(1), 5));
        assert_eq!(millis(&slow.slowest(minute(2), 100)).last(), Some(&5));
        assert_eq!(millis(&slow.slowest(minute(5) + Duration::from_secs(30), 100)), [5], "the first are too old");
        assert!(slow.slowest(minute(20), 100).is_empty());
        for number in 0..100 {
            slow.ended(&call(Method::GET_PROFILE, minute(number), 5));
        }
        assert!(slow.minutes.lock().len() <= 6, "memory is bounded");
    }
}
