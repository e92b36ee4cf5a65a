//! How a call is repeated: after `UNAVAILABLE`, with growing pauses, within its deadline.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Request, Response, Status};

use super::error::ClientError;
use super::{Client, Connection};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Whoever waits longer than this for a server may want to know.
const UNNOTICED: Duration = Duration::from_secs(1);

/// Told when a wait for the server becomes long.
#[derive(Clone, Default)]
pub(super) struct Notice(Option<Arc<dyn Fn() + Send + Sync>>);

impl Notice {
    pub(super) fn new(told: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notice").field(&self.0.is_some()).finish()
    }
}

/// The pauses between the attempts of one call.
#[derive(Debug)]
pub(super) struct Backoff {
    retries: u32,
    failures: u32,
    /// When it began to wait; `None` after progress.
    since: Option<Instant>,
    notice: Notice,
}

impl Backoff {
    /// For a call of this client that begins now.
    pub(super) fn of(client: &Client) -> Self {
        Self {
            retries: client.inner.retries,
            failures: 0,
            since: Some(Instant::now()),
            notice: client.inner.notice.clone(),
        }
    }

    /// The same without a bound on the attempts.
    pub(super) fn without_end(client: &Client) -> Self {
        Self { retries: u32::MAX, ..Self::of(client) }
    }

    /// After progress the failures before it count no more.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
        self.since = None;
    }

    /// How long to wait before the next attempt; `None` when there is to be none: after the last one, or when
    /// the wait would outlast the deadline, which helps nobody.
    pub(super) fn pause_after(&mut self, error: &ClientError, deadline: Instant) -> Option<Duration> {
        if self.failures >= self.retries {
            return None;
        }
        let grown = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        let pause = grown.max(error.retry_after().unwrap_or_default()).min(MAX_PAUSE);
        let pause = pause.mul_f64(rand::random_range(1.0..1.5));
        let now = Instant::now();
        let next = now + pause;
        if next >= deadline {
            return None;
        }
        if let Some(told) = &self.notice.0
            && may_be_repeated(error)
            && next - *self.since.get_or_insert(now) > UNNOTICED
        {
            told();
        }
        Some(pause)
    }
}

/// Whether a stream that knows its place goes on after a failure. A server that is overloaded has not kept anything
/// of what it refused.
pub(super) fn may_be_repeated(error: &ClientError) -> bool {
    error.is_unavailable() || error.reason() == "OVERLOADED"
}

impl Client {
    /// Makes a unary call, which must be safe to repeat: a read, or a write with a request id.
    pub(super) async fn call<M, R, F, Fut>(&self, message: M, attempt: F) -> Result<R, ClientError>
    where
        M: Clone,
        F: Fn(Connection, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.inner.deadline;
        let mut last = None;
        let attempts = async {
            let mut backoff = Backoff::of(self);
            loop {
                let mut request = Request::new(message.clone());
                request.set_timeout(deadline.saturating_duration_since(Instant::now()));
                let error = match attempt(self.connection(), request).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) => ClientError::from_status(&status),
                };
                match backoff.pause_after(&error, deadline) {
                    Some(pause) if error.is_unavailable() => {
                        last = Some(error);
                        sleep(pause).await;
                    }
                    _ => return Err(error),
                }
            }
        };
        let result = timeout_at(deadline, attempts).await;
        result.unwrap_or_else(|_| Err(ClientError::too_late(self.inner.deadline, last.as_ref())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_told_when_it_becomes_longer_than_a_second_and_not_after_progress() {
        let told = Arc::<AtomicUsize>::default();
        let counter = told.clone();
        let builder = Client::builder("127.0.0.1:1").retries(20);
        let client = builder.on_wait(move || _ = counter.fetch_add(1, Ordering::Relaxed)).build().unwrap();
        let error = ClientError::from_status(&Status::unavailable("nobody is there"));
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut backoff = Backoff::of(&client);
        for _ in 0..2 {
            // Before progress it waits since it began, and after progress since the first failure.
            let began = Instant::now();
            let mut pauses = 0;
            while told.load(Ordering::Relaxed) == 0 {
                assert!(began.elapsed() <= UNNOTICED, "{pauses} pauses");
                sleep(backoff.pause_after(&error, deadline).unwrap()).await;
                pauses += 1;
            }
            assert!(pauses > 2 && began.elapsed() > UNNOTICED, "{pauses} pauses");
            told.store(0, Ordering::Relaxed);
            backoff.reset();
            sleep(Duration::from_secs(10)).await;
        }
        // What is not repeated is not waited for.
        let last = backoff.pause_after(&error, Instant::now() + Duration::from_millis(1));
        assert_eq!((last, told.load(Ordering::Relaxed)), (None, 0));
    }
}
