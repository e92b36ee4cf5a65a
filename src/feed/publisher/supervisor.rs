//! What keeps the publisher running: a panic in it delays publishing, as a broker that is away does.
//!
//! Invariant: as long as it is not told to stop, the publisher is at work or about to begin anew from its stored place, and its
//! figures say which.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, LONGEST};
use super::broker::Broker;
use super::run::Publisher;
use crate::store::Store;

/// One that worked for so long has begun well, so the pauses before the next times are short again.
const BEGAN_WELL: Duration = LONGEST.saturating_mul(2);

impl<S: Store> Publisher<S> {
    /// Publishes until `stop` is cancelled; then takes the answers that come within two seconds and stores the place. A
    /// panic is logged, and it begins anew where its place was stored last, after a pause that doubles each time.
    pub async fn run<B: Broker>(self, broker: B, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let mut publisher = self;
        loop {
            let (again, figures, began) = (publisher.again(), publisher.figures(), Instant::now());
            // What it has in its hands goes with it: nothing of it is looked at after a panic.
            let ended = AssertUnwindSafe(publisher.publish(&broker, &stop)).catch_unwind().await;
            if ended.is_ok() {
                return;
            }
            tracing::error!("the publisher panicked; it begins anew where its place was stored last");
            figures.update(|figures| {
                figures.publishing = false;
                figures.failures += 1;
            });
            if began.elapsed() >= BEGAN_WELL {
                backoff.reset();
            }
            publisher = loop {
                tokio::select! {
                    () = sleep(backoff.next()) => {}
                    () = stop.cancelled() => return,
                }
                match again.prepare_again().await {
                    Ok(publisher) => break publisher,
                    Err(error) => tracing::warn!(%error, "the publisher cannot begin anew; it tries again"),
                }
            };
        }
    }
}
