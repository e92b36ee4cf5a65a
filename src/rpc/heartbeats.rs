//! Heartbeats of a watch whose next response is waited for, such as by a read that is in line.
//!
//! A watch makes its own where it has nothing to send, with a fresh token. These come where it cannot, with the last
//! token, so that a watcher is never left in silence and takes a server for gone that has much to do.
//!
//! Invariant: what makes the next response is polled on and never dropped for a heartbeat, so its place in line is kept.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use super::error::RpcError;
use super::wire::WatchProfilesResponse;

/// A stream without events sends a token so often.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How much longer a watch is given to send a fresh token instead of its last one.
const GRACE: Duration = Duration::from_millis(100);

pin_project! {
    /// A watch's responses with heartbeats between them.
    pub struct Heartbeats<S> {
        #[pin]
        responses: S,
        // The token of the last response.
        token: String,
        // When there must have been another one.
        due: Instant,
        #[pin]
        timer: Sleep,
        is_over: bool,
    }
}

impl<S> Heartbeats<S> {
    /// The responses that follow the one with `token`.
    pub fn after(token: String, responses: S) -> Self {
        let due = Instant::now() + HEARTBEAT + GRACE;
        Self { responses, token, due, timer: sleep_until(due), is_over: false }
    }
}

/// A response without events.
pub fn heartbeat(token: &str) -> WatchProfilesResponse {
    WatchProfilesResponse { events: Vec::new(), resume_token: token.to_owned(), current: false }
}

impl<S: Stream<Item = Result<WatchProfilesResponse, RpcError>>> Stream for Heartbeats<S> {
    type Item = Result<WatchProfilesResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        if *this.is_over {
            return Poll::Ready(None);
        }
        match this.responses.poll_next(cx) {
            Poll::Ready(Some(Ok(response))) => {
                this.token.clone_from(&response.resume_token);
                *this.due = Instant::now() + HEARTBEAT + GRACE;
                return Poll::Ready(Some(Ok(response)));
            }
            Poll::Ready(ended) => {
                *this.is_over = true;
                return Poll::Ready(ended.map(|ended| ended.map_err(Status::from)));
            }
            Poll::Pending => {}
        }
        // A busy watch moves its timer now and then, and an idle one before it goes off for nothing.
        if *this.due >= this.timer.deadline() + HEARTBEAT / 2 {
            this.timer.as_mut().reset(*this.due);
        }
        loop {
            ready!(this.timer.as_mut().poll(cx));
            let now = Instant::now();
            if *this.due <= now {
                *this.due = now + HEARTBEAT;
                return Poll::Ready(Some(Ok(heartbeat(this.token))));
            }
            this.timer.as_mut().reset(*this.due);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;
    use crate::store::StoreError;

    #[tokio::test(start_paused = true)]
    async fn a_token_comes_every_second_while_the_next_response_waits_and_none_while_there_are_others() {
        let busy = stream::iter(0..30).then(async |number| {
            tokio::time::sleep(HEARTBEAT / 3).await;
            Ok(heartbeat(&number.to_string()))
        });
        let waits = stream::once(async {
            tokio::time::sleep(HEARTBEAT * 5).await;
            Err(RpcError::Store(StoreError::Closed))
        });
        let mut all = Box::pin(Heartbeats::after("first".into(), busy.chain(waits)));
        for number in 0..30 {
            assert_eq!(all.next().await.unwrap().unwrap().resume_token, number.to_string());
        }
        let begun = Instant::now();
        for second in 1..5 {
            assert_eq!(all.next().await.unwrap().unwrap(), heartbeat("29"));
            let elapsed = begun.elapsed().as_millis() as u64;
            assert!((second * 1000..=second * 1000 + 110).contains(&elapsed), "{second}: {elapsed} ms");
        }
        assert!(all.next().await.unwrap().is_err());
        assert!(all.next().await.is_none());
    }
}
