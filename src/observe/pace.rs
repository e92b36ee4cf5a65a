//! How often the same thing may be said.

use std::time::{Duration, Instant};

/// So many times in [`WINDOW`].
pub const TIMES: u32 = 20;
/// The length of a window.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Lets things pass as long as there are few of them, and counts the others.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the window began; `None` before the first.
    since: Option<Instant>,
    passed: u32,
    left_out: u64,
}

impl Pace {
    /// `None` when there have been too many. Otherwise how many were left out since the last that passed.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.passed) = (Some(now), 0);
        }
        if self.passed == TIMES {
            self.left_out += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pass_and_of_many_some_and_all_are_counted() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!((0..1000).filter(|_| pace.pass(start) == Some(0)).count(), TIMES as usize);
        assert_eq!(pace.pass(start + WINDOW - Duration::from_nanos(1)), None);
        assert_eq!(pace.pass(start + WINDOW), Some(1001 - u64::from(TIMES)));
        assert_eq!(pace.pass(start + WINDOW), Some(0));
    }
}
