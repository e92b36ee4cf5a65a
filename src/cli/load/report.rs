//! What a load found out.
//!
//! Latencies are those of requests that succeeded; the others are counted by code. Rates are of requests that
//! succeeded, from when measuring began to the last answer.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use serde::Serialize;

use super::args::{Pace, Plan};
use super::mix::Operation;
use super::tally::{CallTally, LATE, Punctuality, Tally, Times};
use crate::cli::output::{OutputArgs, to_json};
use crate::client::Code;

const HEADERS: &[&str] = &["call", "requests", "errors", "per_s", "p50_us", "p90_us", "p99_us", "p99.9_us", "max_us"];
/// Without the unit, for which a terminal of 80 columns has no room.
const TABLE_HEADERS: &[&str] = &["call", "requests", "errors", "per_s", "p50", "p90", "p99", "p99.9", "max"];
const ERROR_HEADERS: &[&str] = &["call", "error", "count"];

/// The figures of a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    seconds: f64,
    concurrency: usize,
    connections: usize,
    keys: u64,
    seed: u64,
    /// All calls together.
    all: CallReport,
    /// By kind, those of the mix.
    calls: BTreeMap<&'static str, CallReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_loop: Option<OpenReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CallReport {
    requests: u64,
    errors: u64,
    errors_by_code: BTreeMap<String, u64>,
    per_second: f64,
    profiles: u64,
    /// Of the requests that succeeded.
    latency_micros: Option<Percentiles>,
    /// Of all requests, where some failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_micros_with_errors: Option<Percentiles>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OpenReport {
    rate: f64,
    due: u64,
    begun: u64,
    not_begun: u64,
    /// How many began more than [`LATE`] after they were due.
    late: u64,
    lateness_micros: Option<Percentiles>,
}

/// In microseconds.
#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p99_9: f64,
    max: f64,
}

impl Report {
    pub fn new(plan: &Plan, keys: u64, took: Duration, tally: &Tally) -> Self {
        let mut all = CallTally::new();
        tally.calls.iter().for_each(|call| all.merge(call));
        let calls = Operation::ALL.into_iter().filter(|operation| plan.mix.has(*operation));
        Self {
            seconds: took.as_secs_f64(),
            concurrency: plan.concurrency,
            connections: plan.connections,
            keys,
            seed: plan.seed,
            all: CallReport::new(&all, took),
            calls: calls
                .map(|operation| (operation.name(), CallReport::new(&tally.calls[operation as usize], took)))
                .collect(),
            open_loop: match plan.pace {
                Pace::Open(_, rate) => Some(OpenReport::new(rate, &tally.punctuality)),
                Pace::Closed => None,
            },
        }
    }

    /// Whether anything succeeded.
    pub fn any_succeeded(&self) -> bool {
        self.all.requests > self.all.errors
    }

    pub fn print(&self, output: OutputArgs) -> std::io::Result<()> {
        let mut rows = output.rows(if std::io::stdout().is_terminal() { TABLE_HEADERS } else { HEADERS })?;
        if output.json() {
            rows.row(&[], to_json(self))?;
            return rows.finish();
        }
        // With one kind of call the sum says nothing new.
        let all = (self.calls.len() > 1).then_some(("all", &self.all));
        for (name, call) in self.calls.iter().map(|(name, call)| (*name, call)).chain(all) {
            rows.row(&call.cells(name), |_| {})?;
            if let Some(cells) = call.cells_with_errors(name) {
                rows.row(&cells, |_| {})?;
            }
        }
        rows.finish()?;
        if self.all.errors > 0 {
            let mut rows = output.rows(ERROR_HEADERS)?;
            for (name, call) in &self.calls {
                for (code, count) in &call.errors_by_code {
                    rows.row(&[(*name).to_owned(), code.clone(), count.to_string()], |_| {})?;
                }
            }
            rows.finish()?;
        }
        Ok(())
    }

    /// What the table does not say.
    pub fn remark(&self) -> String {
        let Self { seconds, concurrency, connections, keys, .. } = self;
        let setting = format!("{connections} connections, {keys} keys, {seconds:.1} s");
        match &self.open_loop {
            None => format!("closed loop, {concurrency} in flight, {setting}; latencies in microseconds"),
            Some(OpenReport { rate, due, not_begun, late, lateness_micros, .. }) => {
                let worst = lateness_micros.as_ref().map_or(0.0, |times| times.max / 1e3);
                format!(
                    "open loop, {rate}/s, at most {concurrency} in flight, {setting}; {due} requests were due, \
                     {late} began more than {} ms late (at most {worst:.1} ms), {not_begun} were not begun; latencies in microseconds",
                    LATE.as_millis()
                )
            }
        }
    }
}

impl CallReport {
    fn new(tally: &CallTally, took: Duration) -> Self {
        Self {
            requests: tally.succeeded() + tally.failed(),
            errors: tally.failed(),
            errors_by_code: tally.failures().map(|(code, count)| (name(code), count)).collect(),
            per_second: tally.succeeded() as f64 / took.as_secs_f64().max(1e-9),
            profiles: tally.profiles,
            latency_micros: Percentiles::of(&tally.latencies),
            latency_micros_with_errors: Percentiles::of(&tally.with_failures).filter(|_| tally.failed() > 0),
        }
    }

    fn cells(&self, name: &str) -> [String; HEADERS.len()] {
        self.cells_of(name, self.latency_micros.as_ref())
    }

    /// The same with the times of those that failed among them, where some did.
    fn cells_with_errors(&self, name: &str) -> Option<[String; HEADERS.len()]> {
        let times = self.latency_micros_with_errors.as_ref()?;
        Some(self.cells_of(&format!("{name} with errors"), Some(times)))
    }

    fn cells_of(&self, name: &str, times: Option<&Percentiles>) -> [String; HEADERS.len()] {
        let time = |of: fn(&Percentiles) -> f64| times.map(|times| format!("{:.0}", of(times))).unwrap_or_default();
        [
            name.to_owned(),
            self.requests.to_string(),
            self.errors.to_string(),
            format!("{:.0}", self.per_second),
            time(|times| times.p50),
            time(|times| times.p90),
            time(|times| times.p99),
            time(|times| times.p99_9),
            time(|times| times.max),
        ]
    }
}

impl OpenReport {
    fn new(rate: f64, punctuality: &Punctuality) -> Self {
        let begun = punctuality.lateness.count();
        Self {
            rate,
            due: begun + punctuality.not_begun,
            begun,
            not_begun: punctuality.not_begun,
            late: punctuality.late,
            lateness_micros: Percentiles::of(&punctuality.lateness),
        }
    }
}

impl Percentiles {
    /// `None` when there are no times.
    fn of(times: &Times) -> Option<Self> {
        let micros = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
        let at = |share| micros(times.quantile(share));
        (times.count() > 0).then(|| Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: micros(times.max()),
        })
    }
}

/// A code as gRPC spells it, for example `DEADLINE_EXCEEDED`.
pub fn name(code: Code) -> String {
    let mut name = String::new();
    for character in format!("{code:?}").chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(character.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::load::call::{Answer, Failure};

    #[test]
    fn codes_are_spelled_as_grpc_spells_them() {
        let names: Vec<_> = [Code::NotFound, Code::DeadlineExceeded, Code::Internal].map(name).into();
        assert_eq!(names, ["NOT_FOUND", "DEADLINE_EXCEEDED", "INTERNAL"]);
    }

    #[test]
    fn calls_that_failed_have_their_time_in_a_line_of_its_own() {
        let mut tally = Tally::new(false);
        let failure = Failure { code: Code::DeadlineExceeded, message: String::new() };
        for (result, millis) in [(Ok(1), 1), (Ok(1), 2), (Err(failure), 5000)] {
            tally.count(Answer { operation: Operation::Get, result }, Duration::from_millis(millis));
        }
        let call = CallReport::new(&tally.calls[Operation::Get as usize], Duration::from_secs(1));
        let (without, with) =
            (call.latency_micros.as_ref().unwrap(), call.latency_micros_with_errors.as_ref().unwrap());
        assert!(without.max < 2_100.0 && with.max >= 5_000_000.0 && with.p50 == without.max, "{without:?} {with:?}");
        assert_eq!(call.cells_with_errors("get").unwrap()[0], "get with errors");
        let none = CallReport::new(&CallTally::new(), Duration::from_secs(1));
        assert!(none.cells_with_errors("get").is_none());
    }

    #[test]
    fn percentiles_are_those_of_the_times_to_three_digits() {
        let mut times = Times::new();
        assert!(Percentiles::of(&times).is_none());
        (1..=1000).for_each(|n| times.add(Duration::from_micros(n * 10)));
        let found = Percentiles::of(&times).unwrap();
        let found = [found.p50, found.p90, found.p99, found.p99_9, found.max];
        for (found, expected) in found.into_iter().zip([5_000.0, 9_000.0, 9_900.0, 9_990.0, 10_000.0]) {
            assert!((found - expected).abs() <= expected / 1000.0, "{found} is not {expected}");
        }
    }
}
