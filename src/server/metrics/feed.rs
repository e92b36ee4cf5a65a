//! The feed: what can be followed, and how far the slowest watcher is behind.

use std::time::{SystemTime, UNIX_EPOCH};

use super::exposition::Page;
use crate::feed::{Feed, Window};
use crate::server::stack::ServerStore;
use crate::store::{Hold, Store};

/// The places that are held, together: their names are not from the code.
fn write_holds(page: &mut Page, holds: &[Hold]) {
    page.gauge("profilestore_holds", "Places in the log that are held.").value(holds.len());
    let help = "By how many changes the slowest holder is behind the newest.";
    let slowest = holds.iter().map(|hold| hold.lag).max().unwrap_or_default();
    page.gauge("profilestore_hold_slowest_lag_changes", help).value(slowest);
    let help = "Held changes that have left the log before their holders took them, of all who hold now.";
    page.gauge("profilestore_hold_lost_changes", help).value(holds.iter().map(|hold| hold.lost).sum::<u64>());
}

/// Writes the figures; those that take a look at the log only if there was an answer.
pub fn write(page: &mut Page, store: &ServerStore, feed: &Feed<ServerStore>, window: Option<&Window>) {
    page.gauge("profilestore_feed_watchers_limit", "The most watchers at a time.").value(feed.max_watchers());
    let help = "By how many changes the slowest watcher is behind the newest.";
    page.gauge("profilestore_feed_slowest_watcher_lag_changes", help).value(feed.slowest_lag());
    page.gauge("profilestore_feed_watchers", "Watchers now.").value(feed.watchers());
    let mut family = page.gauge("profilestore_feed_newest_change", "The number of the newest change.");
    if let Some(number) = store.changes_before(&feed.newest()) {
        family.value(number);
    }
    let Some(window) = window else { return };
    write_holds(page, &window.holds);
    let help = "The number of the change behind which watches can go on.";
    let mut family = page.gauge("profilestore_feed_oldest_change", help);
    if let Some(number) = store.changes_before(&window.oldest) {
        family.value(number);
    }
    let help = "How long ago the oldest change that is kept was made; 0 without one.";
    let age = window.oldest_time.map_or(0.0, |time| {
        let time = time.to_timestamp();
        let made = time.seconds as f64 + f64::from(time.nanos) / 1e9;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (now.as_secs_f64() - made).max(0.0)
    });
    page.gauge("profilestore_feed_oldest_age_seconds", help).value(age);
}
