//! The one task that reads new changes for all watchers.
//!
//! It ends when the feed is closed, and only then: after an error or a panic it begins anew with an empty tail. Its end is what
//! the watches take for the end of the feed. While nobody watches it costs nothing: the committer wakes it only when it waits for
//! changes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::tail::Chunk;
use super::topics::Topics;
use super::{MESSAGE, Shared};
use crate::store::{ChangePage, Store, StoreError};

/// After a failed read the watchers read for themselves, and meet the error; the follower begins anew after this.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
/// Many watchers are woken less often, so that under load each has more to do when it is: each that was woken adds so
/// much to the pause before the next time.
const PAUSE_PER_WAKE_UP: Duration = Duration::from_micros(5);
/// The longest pause, and the shortest that a timer is worth.
const MAX_PAUSE: Duration = Duration::from_millis(20);
const MIN_PAUSE: Duration = Duration::from_millis(1);

pub async fn follow<S: Store>(shared: Arc<Shared<S>>) {
    let _closes = Closes(shared.topics.clone());
    let closing = shared.closing.clone();
    closing
        .run_until_cancelled(async {
            loop {
                let mut watchers = shared.watchers.subscribe();
                // The sender is in what this task shares, so it cannot go away before it.
                let _ = watchers.wait_for(|watchers| *watchers > 0).await;
                // A tail that was left half made by a panic is replaced before anybody else adds to it.
                let ended = AssertUnwindSafe(follow_for_watchers(&shared)).catch_unwind().await;
                match &ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "the feed could not read the changes for its watchers");
                    }
                    Err(_) => tracing::error!("the feed's task panicked and begins anew"),
                }
                shared.replace_tail();
                if !matches!(ended, Ok(Ok(()))) {
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        })
        .await;
}

/// Closes the topics when the task ends, however it does: what waits for changes would wait for ever.
struct Closes(Arc<Topics>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Adds to the tail until nobody watches any more.
async fn follow_for_watchers<S: Store>(shared: &Shared<S>) -> Result<(), StoreError> {
    let (mut head, mut watchers) = (shared.store.watch_head(), shared.watchers.subscribe());
    shared.replace_tail();
    loop {
        if *watchers.borrow_and_update() == 0 {
            return Ok(());
        }
        head.borrow_and_update();
        let end = shared.tail.lock().end();
        let page = shared.store.changes_after(&end, MESSAGE).await?;
        if page.next != end {
            let woken = shared.add(page);
            let pause = PAUSE_PER_WAKE_UP.saturating_mul(woken.try_into().unwrap_or(u32::MAX)).min(MAX_PAUSE);
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
        let newest = self.newest();
        self.tail.lock().replace(newest);
        self.topics.wake_all();
    }

    /// Adds what was read to the tail; returns how many watchers it woke.
    fn add(&self, page: ChangePage) -> usize {
        let topics = self.topics.of_changes(page.changes.iter());
        let chunk = Chunk::new(page, topics.clone());
        {
            let mut tail = self.tail.lock();
            tail.push(chunk);
            // Under the tail's lock, so that nobody who finds the chunk there misses that it concerns him.
            self.topics.touch(&topics, tail.end_number());
        }
        self.topics.wake(&topics)
    }
}
