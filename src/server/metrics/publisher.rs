//! The publisher to the message queue: whether it publishes and how far it is behind.

use std::time::SystemTime;

use super::exposition::{NANOSECONDS, Page};
use crate::feed::publisher::Figures;
use crate::model::CommitTime;

type Count = fn(&Figures) -> u64;

/// Counters: name, help, and where they are.
const COUNTERS: [(&str, &str, Count); 4] = [
    ("profilestore_publisher_acknowledged_total", "Messages that the broker has acknowledged.", |of| of.acknowledged),
    ("profilestore_publisher_duplicates_total", "Acknowledged messages that the broker had already.", |of| {
        of.duplicates
    }),
    ("profilestore_publisher_failures_total", "Attempts to publish that came to nothing.", |of| of.failures),
    ("profilestore_publisher_lost_changes_total", "Changes that were trimmed before they were published.", |of| {
        of.lost
    }),
];

/// Writes the publisher's figures.
pub fn write(page: &mut Page, figures: &Figures) {
    for (name, help, count) in COUNTERS {
        page.counter(name, help).labelled(&[], count(figures));
    }
    page.gauge(
        "profilestore_publisher_publishing",
        "1 while the broker takes messages, or is there and nothing waits, 0 while publishing is delayed.",
    )
    .labelled(&[], u8::from(figures.publishing));
    page.gauge("profilestore_publisher_lag_changes", "Changes that are not acknowledged by the broker yet.")
        .labelled(&[], figures.lag_changes);
    let age = figures.oldest_unpublished_age(CommitTime::from_system_time(SystemTime::now()));
    page.gauge(
        "profilestore_publisher_oldest_unpublished_seconds",
        "How long the oldest unacknowledged change has waited.",
    )
    .labelled(&[], age.as_secs_f64());
    let last = figures.last_acknowledged.map_or(0, CommitTime::unix_nanos);
    page.gauge(
        "profilestore_publisher_last_acknowledged_timestamp_seconds",
        "When the last acknowledged change was committed; 0 before the first.",
    )
    .labelled(&[], last as f64 / NANOSECONDS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_that_is_behind_says_by_how_much() {
        let mut page = Page::default();
        let an_hour_ago =
            CommitTime::from_system_time(SystemTime::now()).saturating_sub(std::time::Duration::from_secs(3600));
        let figures = Figures {
            lag_changes: 7,
            oldest_unpublished: Some(an_hour_ago),
            failures: 3,
            lost: 2,
            last_acknowledged: Some(CommitTime::from_unix_nanos(1_500_000_000)),
            ..Figures::default()
        };
        write(&mut page, &figures);
        let text = page.into_text();
        for line in [
            "profilestore_publisher_publishing 0",
            "profilestore_publisher_lag_changes 7",
            "profilestore_publisher_failures_total 3",
            "profilestore_publisher_lost_changes_total 2",
            "profilestore_publisher_last_acknowledged_timestamp_seconds 1.5",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        }
        let age =
            text.lines().find_map(|line| line.strip_prefix("profilestore_publisher_oldest_unpublished_seconds "));
        assert!((3600.0..3700.0).contains(&age.unwrap().parse().unwrap()), "{age:?}");
    }
}
