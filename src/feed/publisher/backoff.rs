//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(10);

/// Waits that double up to a bound. Half of each is left to chance, so that many who lost one broker do not all come
/// back at once.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt.
    pub fn next(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// An attempt has come to something.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_half_of_each_is_chance() {
        let mut firsts = std::collections::HashSet::new();
        for _ in 0..100 {
            let mut backoff = Backoff::default();
            let mut whole = FIRST;
            for attempt in 0..100 {
                let wait = backoff.next();
                assert!(wait >= whole / 2 && wait <= whole, "{wait:?} at attempt {attempt}");
                whole = (whole * 2).min(LONGEST);
            }
            backoff.reset();
            firsts.insert(backoff.next());
        }
        assert!(firsts.iter().all(|wait| *wait <= FIRST));
        assert!(firsts.len() > 10, "all waits are alike");
    }
}
