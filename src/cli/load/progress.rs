//! What is shown while a load runs: a line every second, on a terminal only.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::tally::{Recent, Tally};

/// How often there is a line.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Whether anybody watches.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Shows what happened since the last line, as much of it as the terminal has room for in one line.
pub fn show(tallies: &[Arc<Mutex<Tally>>], so_far: Duration, since_last: Duration) {
    let mut recent = Recent::new();
    tallies.iter().for_each(|tally| tally.lock().take_recent(&mut recent));
    let columns = console::Term::stderr().size_checked().map_or(usize::MAX, |(_, columns)| usize::from(columns));
    eprintln!("{}", line(&recent, so_far, since_last, columns));
}

fn line(recent: &Recent, so_far: Duration, since_last: Duration, columns: usize) -> String {
    let Recent { latencies, failed } = recent;
    let millis = |share| latencies.quantile(share).as_secs_f64() * 1e3;
    let seconds = so_far.as_secs_f64();
    let rate = latencies.count() as f64 / since_last.as_secs_f64().max(1e-9);
    let (p50, p99) = (millis(0.5), millis(0.99));
    let whole = format!("{seconds:>5.0} s  {rate:>8.0}/s  p50 {p50:.2} ms  p99 {p99:.2} ms  errors {failed}");
    if whole.len() <= columns {
        return whole;
    }
    format!("{seconds:.0} s  {rate:.0}/s  p99 {p99:.2} ms  errors {failed}").chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::super::call::{Answer, Failure};
    use super::super::mix::Operation;
    use super::*;
    use crate::client::Code;

    #[test]
    fn a_line_tells_only_what_is_new() {
        let mut tally = Tally::new(true);
        for micros in 1..=100 {
            let answer = Answer { operation: Operation::Get, result: Ok(1) };
            tally.count(answer, Duration::from_micros(micros * 100));
        }
        let failure = Failure { code: Code::Unavailable, message: String::new() };
        tally.count(Answer { operation: Operation::Put, result: Err(failure) }, Duration::ZERO);
        let mut first = Recent::new();
        tally.take_recent(&mut first);
        assert_eq!(
            line(&first, 3 * INTERVAL, 2 * INTERVAL, 80),
            "    3 s        50/s  p50 5.00 ms  p99 9.90 ms  errors 1"
        );
        assert_eq!(line(&first, 3 * INTERVAL, 2 * INTERVAL, 40), "3 s  50/s  p99 9.90 ms  errors 1");
        assert_eq!(line(&first, 3 * INTERVAL, 2 * INTERVAL, 10), "3 s  50/s ");
        let mut second = Recent::new();
        tally.take_recent(&mut second);
        assert_eq!(
            line(&second, 4 * INTERVAL, INTERVAL, 80),
            "    4 s         0/s  p50 0.00 ms  p99 0.00 ms  errors 0"
        );
        assert_eq!(tally.calls[Operation::Get as usize].succeeded(), 100, "the report keeps everything");
    }
}
