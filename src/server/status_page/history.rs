//! What the server has done in the last five minutes, a point for every second.

use std::collections::{BTreeMap, VecDeque};

use super::figures::{COLUMNS, Figures, MethodRates, Reading, methods_between};

/// How many points are kept.
pub const POINTS: usize = 300;
/// The large numbers are means over so many seconds.
const MEAN_OVER: usize = 10;

/// The last points, and the readings that the next ones are made of.
#[derive(Debug, Default)]
pub struct History {
    /// The number of the oldest point that is kept; the first ever has 1, so that 0 is none.
    first: u64,
    /// Each with its time, in milliseconds since 1970.
    points: VecDeque<(u64, Figures)>,
    readings: VecDeque<Reading>,
}

/// Points as the page wants them: for each figure its values, the newest last.
pub type Columns = BTreeMap<&'static str, Vec<Option<f64>>>;

impl History {
    /// No points yet.
    pub fn new() -> Self {
        Self { first: 1, ..Self::default() }
    }

    /// Adds a reading and, unless it is the first, a point.
    pub fn add(&mut self, time_millis: u64, reading: Reading) {
        if let Some(last) = self.readings.back() {
            self.points.push_back((time_millis, Figures::between(last, &reading)));
        }
        self.readings.push_back(reading);
        if self.readings.len() > MEAN_OVER + 1 {
            self.readings.pop_front();
        }
        if self.points.len() > POINTS {
            self.points.pop_front();
            self.first += 1;
        }
    }

    /// The number of the next point.
    pub fn next(&self) -> u64 {
        self.first + self.points.len() as u64
    }

    /// The points from a number on, and the number of the first of them. A number that is none of those kept, or the
    /// next, gives all.
    pub fn points_from(&self, number: u64) -> (u64, Columns) {
        let first = if (self.first..=self.next()).contains(&number) { number } else { self.first };
        let wanted = || self.points.iter().skip((first - self.first) as usize);
        let mut columns: Columns =
            COLUMNS.iter().map(|(name, value)| (*name, wanted().map(|(_, of)| value(of)).collect())).collect();
        columns.insert("t", wanted().map(|(time, _)| Some(*time as f64)).collect());
        (first, columns)
    }

    /// What happened in the last ten seconds, of all calls and by method.
    pub fn now(&self) -> (Figures, Vec<MethodRates>) {
        match (self.readings.front(), self.readings.back()) {
            (Some(before), Some(now)) if self.readings.len() > 1 => {
                (Figures::between(before, now), methods_between(before, now))
            }
            _ => (Figures::default(), Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::figures::tests::reading;
    use super::*;

    fn history(readings: u64) -> History {
        let start = Instant::now();
        let mut history = History::new();
        for second in 0..readings {
            history.add(1000 * second, reading(start + Duration::from_secs(second), second * 10));
        }
        history
    }

    #[test]
    fn five_minutes_are_kept_and_numbered_on() {
        let history = history(1001);
        let (first, columns) = history.points_from(0);
        assert_eq!((first, history.next(), columns["t"].len()), (701, 1001, POINTS));
        assert!(columns.values().all(|column| column.len() == POINTS));
        assert_eq!((columns["t"][0], columns["calls"][POINTS - 1]), (Some(701_000.0), Some(10.0)));
        assert_eq!(history.readings.len(), MEAN_OVER + 1);
    }

    #[test]
    fn points_from_a_number_on_are_those_that_are_new() {
        let history = history(11);
        let counted = |number| {
            let (first, columns) = history.points_from(number);
            (first, columns["calls"].len())
        };
        assert_eq!((counted(1), counted(8), counted(11)), ((1, 10), (8, 3), (11, 0)));
        for gone_or_never in [0, 12, u64::MAX] {
            assert_eq!(counted(gone_or_never), (1, 10), "{gone_or_never}");
        }
    }

    #[test]
    fn the_present_is_the_last_ten_seconds() {
        assert_eq!(history(0).now(), (Figures::default(), Vec::new()));
        assert_eq!(history(1).now(), (Figures::default(), Vec::new()));
        let (now, methods) = history(100).now();
        assert_eq!((now.seconds, now.calls, methods.len()), (10.0, Some(10.0), 1));
    }
}
