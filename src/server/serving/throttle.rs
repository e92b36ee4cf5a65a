//! Keeps what outsiders can cause as often as they like from flooding the log.

use std::time::Duration;

use tokio::time::Instant;

/// There is at most one line in this time.
const PAUSE: Duration = Duration::from_secs(10);

/// Counts an event and says when to write a line about it.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
    unsaid: u64,
}

impl Throttle {
    /// The first event is said at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes one event. If it is time for a line: the number of events since the last one.
    pub fn note(&mut self) -> Option<u64> {
        self.unsaid += 1;
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_said_at_once_and_all_are_counted() {
        let mut throttle = Throttle::new();
        assert_eq!(throttle.note(), Some(1));
        assert_eq!([throttle.note(), throttle.note()], [None, None]);
        tokio::time::advance(PAUSE).await;
        assert_eq!(throttle.note(), Some(3));
        assert_eq!(throttle.note(), None);
    }
}
