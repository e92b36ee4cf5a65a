//! How a call is repeated: after `UNAVAILABLE`, with growing pauses, within its deadline.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Request, Response, Status};

use super::error::ClientError;
use super::{Client, Connection};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The pauses between the attempts of one call.
#[derive(Debug)]
pub(super) struct Backoff {
    retries: u32,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(retries: u32) -> Self {
        Self { retries, failures: 0 }
    }

    /// After progress the failures before it count no more.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
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
        (Instant::now() + pause < deadline).then_some(pause)
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
            let mut backoff = Backoff::new(self.inner.retries);
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
