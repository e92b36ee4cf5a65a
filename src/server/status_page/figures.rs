//! What the plots and the large numbers show: the difference of two readings of the server's counters.

use std::time::Instant;

use serde::Serialize;

use crate::cache::CacheFigures;
use crate::figures::{Distribution, LATENCY_BOUNDS};
use crate::observe::{CallFigures, MethodFigures};

/// The calls that change profiles.
const WRITES: [&str; 5] = ["CreateProfile", "UpdateProfile", "DeleteProfile", "BatchWriteProfiles", "ImportProfiles"];

/// The server's counters at one time.
#[derive(Debug, Clone)]
pub struct Reading {
    /// When.
    pub at: Instant,
    /// `None` when calls are not counted.
    pub calls: Option<CallFigures>,
    /// The cache's counters.
    pub cache: CacheFigures,
    /// The writes in each commit group.
    pub groups: Distribution,
    /// How long the groups took to be written to the log and synced, in nanoseconds.
    pub syncs: Distribution,
    /// The commits that wait.
    pub queue: usize,
}

/// What happened between two readings; `None` where nothing did that it could be about. The names are those of the
/// page.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// The time between the readings.
    pub seconds: f64,
    /// Calls that ended, a second.
    pub calls: Option<f64>,
    /// Those of them that write.
    pub writes: Option<f64>,
    /// Those that ended with a code that is the server's fault.
    pub server_errors: Option<f64>,
    /// Latency of calls that are no streams, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The same that 99 in a hundred do not exceed.
    pub p99_ms: Option<f64>,
    /// The part of the reads that the cache answered.
    pub hit_ratio: Option<f64>,
    /// Commit groups, a second.
    pub groups: Option<f64>,
    /// Writes in a group, on average.
    pub group_size: Option<f64>,
    /// How long a group took to be written to the log and synced, in milliseconds.
    pub sync_p50_ms: Option<f64>,
    /// The same that 99 in a hundred do not exceed.
    pub sync_p99_ms: Option<f64>,
    /// Calls that are no streams and are in flight at the second reading.
    pub in_flight: Option<f64>,
    /// Commits that wait at the second reading.
    pub queue: Option<f64>,
}

/// A figure of the plots.
type Column = (&'static str, fn(&Figures) -> Option<f64>);

/// What the page keeps of every second.
pub const COLUMNS: [Column; 10] = [
    ("calls", |of| of.calls),
    ("writes", |of| of.writes),
    ("p50_ms", |of| of.p50_ms),
    ("p99_ms", |of| of.p99_ms),
    ("hit_ratio", |of| of.hit_ratio),
    ("group_size", |of| of.group_size),
    ("sync_p50_ms", |of| of.sync_p50_ms),
    ("sync_p99_ms", |of| of.sync_p99_ms),
    ("in_flight", |of| of.in_flight),
    ("queue", |of| of.queue),
];

/// What became of the calls of one method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodRates {
    /// Its name, without the service.
    pub method: &'static str,
    /// Calls that ended, a second.
    pub calls: f64,
    /// Those that ended with another code than OK.
    pub errors: f64,
    /// Those that ended with a code that is the server's fault.
    pub server_errors: f64,
    /// Latency in milliseconds.
    pub p50_ms: Option<f64>,
    /// The same that 99 in a hundred do not exceed.
    pub p99_ms: Option<f64>,
}

impl Figures {
    /// What happened from one reading to the next.
    pub fn between(before: &Reading, now: &Reading) -> Self {
        let seconds = seconds_between(before, now);
        let calls = calls_between(before, now);
        let rate = |wanted: fn(&Between) -> u64| {
            calls.as_ref().map(|calls| rounded(calls.iter().map(wanted).sum::<u64>() as f64 / seconds))
        };
        let mut latency = Distribution::new(&LATENCY_BOUNDS);
        for of in calls.iter().flatten().filter(|of| !of.is_stream()) {
            latency.counts.iter_mut().zip(&of.latency.counts).for_each(|(sum, count)| *sum += count);
        }
        let groups = since(&before.groups, &now.groups);
        let syncs = since(&before.syncs, &now.syncs);
        let in_flight = now.calls.as_ref().map(|calls| {
            let unary = calls.methods.iter().filter(|of| of.method.kind() == "unary");
            unary.map(MethodFigures::in_flight).sum::<u64>() as f64
        });
        Self {
            seconds: rounded(seconds),
            calls: rate(|of| of.ended),
            writes: rate(|of| if WRITES.contains(&of.name()) { of.ended } else { 0 }),
            server_errors: rate(|of| of.server_errors),
            p50_ms: millis(&latency, 0.5),
            p99_ms: millis(&latency, 0.99),
            hit_ratio: hit_ratio(&before.cache, &now.cache),
            groups: Some(rounded(groups.count() as f64 / seconds)),
            group_size: (groups.count() > 0).then(|| rounded(groups.sum as f64 / groups.count() as f64)),
            sync_p50_ms: millis(&syncs, 0.5),
            sync_p99_ms: millis(&syncs, 0.99),
            in_flight,
            queue: Some(now.queue as f64),
        }
    }
}

/// The methods that were called from one reading to the next, the most called first.
pub fn methods_between(before: &Reading, now: &Reading) -> Vec<MethodRates> {
    let seconds = seconds_between(before, now);
    let calls = calls_between(before, now).unwrap_or_default();
    let mut rates: Vec<_> = calls
        .iter()
        .filter(|of| of.ended > 0)
        .map(|of| MethodRates {
            method: of.name(),
            calls: rounded(of.ended as f64 / seconds),
            errors: rounded(of.errors as f64 / seconds),
            server_errors: rounded(of.server_errors as f64 / seconds),
            p50_ms: millis(&of.latency, 0.5),
            p99_ms: millis(&of.latency, 0.99),
        })
        .collect();
    rates.sort_by(|a, b| b.calls.total_cmp(&a.calls));
    rates
}

/// One method's calls between two readings.
struct Between {
    of: crate::observe::Method,
    ended: u64,
    errors: u64,
    server_errors: u64,
    latency: Distribution,
}

impl Between {
    fn new(before: &MethodFigures, now: &MethodFigures) -> Self {
        let codes = || crate::observe::Code::all().zip(now.by_code.iter().zip(&before.by_code));
        let ended = |wanted: fn(crate::observe::Code) -> bool| {
            codes().filter(|(code, _)| wanted(*code)).map(|(_, (now, before))| now.saturating_sub(*before)).sum()
        };
        Self {
            of: now.method,
            ended: ended(|_| true),
            errors: ended(|code| code != crate::observe::Code::OK),
            server_errors: ended(crate::observe::Code::is_server_error),
            latency: since(&before.latency, &now.latency),
        }
    }

    fn name(&self) -> &'static str {
        self.of.name()
    }

    fn is_stream(&self) -> bool {
        self.of.kind() != "unary"
    }
}

fn calls_between(before: &Reading, now: &Reading) -> Option<Vec<Between>> {
    let (before, now) = (before.calls.as_ref()?, now.calls.as_ref()?);
    Some(before.methods.iter().zip(&now.methods).map(|(before, now)| Between::new(before, now)).collect())
}

fn seconds_between(before: &Reading, now: &Reading) -> f64 {
    now.at.saturating_duration_since(before.at).as_secs_f64().max(1e-3)
}

fn since(before: &Distribution, now: &Distribution) -> Distribution {
    let mut seen = now.clone();
    seen.counts.iter_mut().zip(&before.counts).for_each(|(now, before)| *now = now.saturating_sub(*before));
    seen.sum = now.sum.wrapping_sub(before.sum);
    seen
}

fn millis(latency: &Distribution, part: f64) -> Option<f64> {
    latency.quantile(part).map(|nanos| rounded(nanos / 1e6))
}

fn hit_ratio(before: &CacheFigures, now: &CacheFigures) -> Option<f64> {
    let hits = (now.hits + now.negative_hits).saturating_sub(before.hits + before.negative_hits);
    let misses = now.misses.saturating_sub(before.misses);
    (hits + misses > 0).then(|| rounded(hits as f64 / (hits + misses) as f64))
}

/// Four digits are more than a plot shows, and short to send.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    if digits <= 0 { value.round() } else { (value * 10_f64.powi(digits)).round() / 10_f64.powi(digits) }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::*;
    use crate::figures::SIZE_BOUNDS;
    use crate::observe::{Calls, Code};

    /// A reading after so many gets, each of which took 40 µs and a tenth of which found nothing, half of them in the
    /// cache.
    pub fn reading(at: Instant, gets: u64) -> Reading {
        let mut calls = Calls::new().figures();
        let of = &mut calls.methods[0];
        (of.begun, of.by_code[0], of.by_code[5]) = (gets + 2, gets - gets / 10, gets / 10);
        of.latency.counts[1] = gets;
        Reading {
            at,
            calls: Some(calls),
            cache: CacheFigures { hits: gets / 2, misses: gets - gets / 2, ..CacheFigures::default() },
            groups: Distribution::new(&SIZE_BOUNDS),
            syncs: Distribution::new(&LATENCY_BOUNDS),
            queue: 3,
        }
    }

    #[test]
    fn figures_are_about_the_time_between_two_readings() {
        let start = Instant::now();
        let before = reading(start, 1000);
        let mut now = reading(start + Duration::from_secs(2), 1200);
        (now.groups.counts[4], now.groups.sum) = (10, 100);
        now.syncs.counts[5] = 10;
        let figures = Figures::between(&before, &now);
        assert_eq!((figures.seconds, figures.calls, figures.writes), (2.0, Some(100.0), Some(0.0)));
        assert_eq!((figures.server_errors, figures.hit_ratio), (Some(0.0), Some(0.5)), "absence is not an error");
        assert_eq!((figures.groups, figures.group_size), (Some(5.0), Some(10.0)));
        assert_eq!((figures.in_flight, figures.queue), (Some(2.0), Some(3.0)));
        assert!(figures.p50_ms >= Some(0.025) && figures.p99_ms <= Some(0.05), "{figures:?}");
        assert!(figures.sync_p50_ms >= Some(0.5) && figures.sync_p99_ms <= Some(1.0), "{figures:?}");
        let methods = methods_between(&before, &now);
        assert_eq!(methods.len(), 1, "those that were called");
        assert_eq!((methods[0].method, methods[0].calls, methods[0].errors), ("GetProfile", 100.0, 10.0));
    }

    #[test]
    fn where_nothing_happened_there_is_nothing_to_tell() {
        let start = Instant::now();
        let (before, now) = (reading(start, 1000), reading(start + Duration::from_secs(1), 1000));
        let figures = Figures::between(&before, &now);
        assert_eq!((figures.calls, figures.p99_ms, figures.hit_ratio), (Some(0.0), None, None));
        assert_eq!((figures.groups, figures.group_size, figures.sync_p99_ms), (Some(0.0), None, None));
        assert!(methods_between(&before, &now).is_empty());
        let uncounted = Reading { calls: None, ..now };
        assert_eq!(Figures::between(&before, &uncounted).calls, None);
        assert_eq!(Code::OK.number(), 0, "where the readings of these tests have it");
    }

    #[test]
    fn four_digits_are_kept() {
        let cases =
            [(0.0, 0.0), (0.000123456, 0.0001235), (1.23456, 1.235), (99_999.6, 100_000.0), (123_456.7, 123_457.0)];
        for (value, expected) in cases {
            assert!((rounded(value) - expected).abs() < 1e-9, "{value} becomes {}", rounded(value));
        }
        assert_eq!(rounded(f64::NAN), 0.0);
    }
}
