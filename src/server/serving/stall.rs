//! Finds out that nobody takes what is sent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// Whoever has something to take must take at least this much in the time of a probe, or all of it: a byte now and then would
/// keep the rest for as long as the connection lives.
pub const LEAST_TAKEN: u64 = 4096;

/// Watches something that may be blocked, such as a socket or the window of a call.
pub struct Stall {
    patience: Duration,
    /// Runs from the last progress while it is blocked.
    timer: Option<Pin<Box<Sleep>>>,
    /// What was taken by then.
    seen: u64,
}

impl Stall {
    /// Gives up after so long without progress.
    pub fn new(patience: Duration) -> Self {
        Self { patience, timer: None, seen: 0 }
    }

    /// Gives up after so many times as long as before.
    pub fn be_patient(&mut self, times: u32) {
        self.patience *= times;
    }

    /// Notes that something went as a whole.
    pub fn restart(&mut self) {
        self.timer = None;
    }

    /// Ready when it has been blocked without any progress for too long. `taken` are all bytes that were taken so far.
    pub fn poll(&mut self, is_blocked: bool, taken: u64, cx: &mut Context<'_>) -> Poll<()> {
        if !is_blocked {
            self.timer = None;
            return Poll::Pending;
        }
        if self.timer.is_none() || taken >= self.seen + LEAST_TAKEN {
            self.timer = Some(Box::pin(sleep(self.patience)));
            self.seen = taken;
        }
        self.timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_little_now_and_then_is_not_given_up() {
        let patience = Duration::from_secs(80);
        let mut stall = Stall::new(patience);
        let mut ready =
            async |taken, is_blocked| futures_util::poll!(poll_fn(|cx| stall.poll(is_blocked, taken, cx))).is_ready();
        for taken in (0..10).map(|times| times * LEAST_TAKEN) {
            assert!(!ready(taken, true).await);
            tokio::time::advance(patience - Duration::from_secs(1)).await;
            assert!(!ready(taken, true).await);
        }
        // Less than that is nothing.
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(ready(10 * LEAST_TAKEN - 1, true).await);
        // Whoever has nothing to take waits for nothing.
        assert!(!ready(9, false).await);
        tokio::time::advance(patience * 2).await;
        assert!(!ready(9, false).await && !ready(9, true).await);
        tokio::time::advance(patience).await;
        assert!(ready(9, true).await);
    }
}
