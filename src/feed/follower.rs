//! The one task that reads new changes for all watchers.
//!
//! It ends when the feed is closed. While nobody watches it costs nothing: the committer wakes it only when it
//! waits for changes.

use std::sync::Arc;
use std::time::Duration;

use super::tail::{Chunk, Tail};
use super::{MESSAGE, Shared};
use crate::store::{Store, StoreError};

/// After a failed read the watchers read for themselves, and meet the error; the follower begins anew after this.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
/// Many watchers are woken less often, so that under load each has more to do when it is, and those to whom nothing
/// matters leave the machine to the others: each adds so much to the pause between two wake-ups.
const PAUSE_PER_WATCHER: Duration = Duration::from_micros(5);
/// The longest pause, and the shortest that a timer is worth.
const MAX_PAUSE: Duration = Duration::from_millis(20);
const MIN_PAUSE: Duration = Duration::from_millis(1);

pub async fn follow<S: Store>(shared: Arc<Shared<S>>) {
    let closing = shared.closing.clone();
    closing
        .run_until_cancelled(async {
            loop {
                let mut watchers = shared.watchers.subscribe();
                // The sender is in what this task shares, so it cannot go away before it.
                let _ = watchers.wait_for(|watchers| *watchers > 0).await;
                match follow_for_watchers(&shared).await {
                    Ok(()) => shared.replace_tail(),
                    Err(error) => {
                        tracing::warn!(%error, "the feed could not read the changes for its watchers");
                        shared.replace_tail();
                        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    }
                }
            }
        })
        .await;
}

/// Adds to the tail until nobody watches any more.
async fn follow_for_watchers<S: Store>(shared: &Shared<S>) -> Result<(), StoreError> {
    let (mut head, mut watchers) = (shared.store.watch_head(), shared.watchers.subscribe());
    shared.replace_tail();
    loop {
        let count = *watchers.borrow_and_update();
        if count == 0 {
            return Ok(());
        }
        head.borrow_and_update();
        let end = shared.tail.lock().end();
        let page = shared.store.changes_after(&end, MESSAGE).await?;
        if page.next != end {
            shared.tail.lock().push(Chunk::new(page));
            shared.tail_changed.send_replace(());
            let pause = PAUSE_PER_WATCHER.saturating_mul(count.try_into().unwrap_or(u32::MAX)).min(MAX_PAUSE);
            if pause >= MIN_PAUSE {
                tokio::time::sleep(pause).await;
            }
            continue;
        }
        tokio::select! {
            changed = head.changed() => changed.map_err(|_| StoreError::Closed)?,
            _ = watchers.changed() => {}
        }
    }
}

impl<S: Store> Shared<S> {
    /// Begins the tail anew at the head. Watchers that are not there yet read the way to it by themselves.
    fn replace_tail(&self) {
        let head = *self.store.watch_head().borrow();
        *self.tail.lock() = Tail::new(head);
        self.tail_changed.send_replace(());
    }
}
