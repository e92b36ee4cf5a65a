//! Probes a connection that says nothing, and finds out that nobody answers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// The probes of one connection.
pub struct KeepAlive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    /// Until a probe is due, or its answer.
    timer: Pin<Box<Sleep>>,
    /// When the client was heard last, and how many bytes it had sent by then.
    heard: Instant,
    received: u64,
    /// Whether an answer is waited for.
    asked: bool,
}

impl KeepAlive {
    /// Probes after each `interval` of silence, and waits for each answer for `timeout`.
    pub fn new(pings: PingPong, interval: Duration, timeout: Duration) -> Self {
        let timer = Box::pin(sleep(interval));
        Self { pings, interval, timeout, timer, heard: Instant::now(), received: 0, asked: false }
    }

    /// Notes how many bytes the client has sent by now.
    pub fn note(&mut self, received: u64) {
        if received != self.received {
            self.received = received;
            self.heard = Instant::now();
        }
    }

    /// Ready when the answer to a probe did not come in time.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.asked {
            match self.pings.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.asked = false;
                    self.timer.as_mut().reset(Instant::now() + self.interval);
                }
                // The connection has ended, and is told so where it is polled.
                Poll::Ready(Err(_)) => return Poll::Pending,
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let due = self.heard + self.interval;
            if due > now || self.pings.send_ping(Ping::opaque()).is_err() {
                self.timer.as_mut().reset(due.max(now + Duration::from_millis(1)));
                continue;
            }
            self.asked = true;
            self.timer.as_mut().reset(now + self.timeout);
            // Registers for the answer.
            return match self.pings.poll_pong(cx) {
                Poll::Ready(_) => Poll::Pending,
                Poll::Pending => self.timer.as_mut().poll(cx),
            };
        }
    }
}
