//! When the requests of an open loop are due.
//!
//! Invariant: the times depend on the rate and the seed alone, never on what the server does.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Exp1};

/// How the times are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// The same time between all.
    Fixed,
    /// A Poisson process: each comes independently of the others, as from many callers.
    Poisson,
}

/// The times at which requests are due, counted from the beginning, in order.
#[derive(Debug, Clone)]
pub struct Schedule {
    arrivals: Arrivals,
    rate: f64,
    random: SmallRng,
    number: u64,
    /// Of a Poisson process: when the last one was due, in seconds.
    last: f64,
    requests: u64,
    end: Option<Duration>,
}

impl Schedule {
    /// At most `requests` at `rate` a second, all due before `end`.
    pub fn new(arrivals: Arrivals, rate: f64, seed: u64, requests: u64, end: Option<Duration>) -> Self {
        Self { arrivals, rate, random: SmallRng::seed_from_u64(seed), number: 0, last: 0.0, requests, end }
    }
}

impl Iterator for Schedule {
    /// The request's number, from 0, and when it is due.
    type Item = (u64, Duration);

    fn next(&mut self) -> Option<Self::Item> {
        let seconds = match self.arrivals {
            // Not added up, so that errors do not add up either.
            Arrivals::Fixed => self.number as f64 / self.rate,
            Arrivals::Poisson => {
                let gap: f64 = Exp1.sample(&mut self.random);
                self.last += gap / self.rate;
                self.last
            }
        };
        let due = Duration::try_from_secs_f64(seconds).ok()?;
        if self.number >= self.requests || self.end.is_some_and(|end| due >= end) {
            return None;
        }
        self.number += 1;
        Some((self.number - 1, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_SECONDS: Option<Duration> = Some(Duration::from_secs(10));

    #[test]
    fn fixed_times_are_as_many_as_rate_times_duration() {
        for rate in [0.5, 3.0, 1000.0, 12_345.0] {
            let times: Vec<_> = Schedule::new(Arrivals::Fixed, rate, 1, u64::MAX, TEN_SECONDS).collect();
            assert_eq!(times.len() as f64, (rate * 10.0).ceil());
            for (number, due) in times {
                assert!((due.as_secs_f64() - number as f64 / rate).abs() < 1e-8);
            }
        }
        assert_eq!(Schedule::new(Arrivals::Fixed, 1000.0, 1, 70, TEN_SECONDS).count(), 70);
        assert_eq!(Schedule::new(Arrivals::Fixed, 1000.0, 1, 70, None).count(), 70);
    }

    #[test]
    fn poisson_times_have_the_rate_and_the_spread_of_a_poisson_process() {
        let times: Vec<_> =
            Schedule::new(Arrivals::Poisson, 1000.0, 1, u64::MAX, TEN_SECONDS).map(|(_, due)| due).collect();
        // Four standard deviations of the count, 100, on either side.
        assert!((9_600..10_400).contains(&times.len()), "{}", times.len());
        assert!(times.is_sorted() && times.iter().all(|due| *due < TEN_SECONDS.unwrap()));
        let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((0.95..1.05).contains(&(deviation / mean)), "the gaps are not exponential: {}", deviation / mean);
    }

    #[test]
    fn the_same_seed_gives_the_same_times() {
        let times = |seed| Schedule::new(Arrivals::Poisson, 10.0, seed, 100, None).collect::<Vec<_>>();
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }
}
