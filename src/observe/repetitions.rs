//! Keeps one place in the code from flooding the log.
//!
//! Each place may write so many lines in a time ([`Pace`]); the next line that passes is followed by one that says how many
//! were left out. Lines of the levels debug and trace are not counted: whoever switches them on wants them all.
//!
//! Invariant: the memory has a bound, the number of places in the code.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::pace::Pace;
use super::slow_calls;

/// Where lines about the log itself come from; they are never left out.
const TARGET: &str = super::log_filter::TARGET;
/// Lines about calls have a pace of their own for each kind, which one place in the code would make one again.
const NEVER_LEFT_OUT: [&str; 2] = [TARGET, slow_calls::TARGET];

thread_local! {
    /// How many lines were left out before the one that this thread is about to write.
    static LEFT_OUT: Cell<u64> = const { Cell::new(0) };
}

/// The layer between a filter and what writes the lines.
#[derive(Default)]
pub struct Repetitions {
    places: Mutex<HashMap<Identifier, Pace>>,
}

impl<S: Subscriber> Layer<S> for Repetitions {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || NEVER_LEFT_OUT.contains(&metadata.target()) {
            return true;
        }
        match self.places.lock().entry(metadata.callsite()).or_default().pass(Instant::now()) {
            Some(left_out) => {
                LEFT_OUT.set(left_out);
                true
            }
            None => false,
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let left_out = LEFT_OUT.take();
        if left_out > 0 {
            let metadata = event.metadata();
            let (place, line) = (metadata.module_path().unwrap_or_default(), metadata.line());
            tracing::warn!(target: TARGET, place, line, left_out, "lines like the next one were left out");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::SubscriberExt;

    use super::super::pace::TIMES;
    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Lines {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_storm_from_one_place_leaves_few_lines_and_does_not_silence_others() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(Repetitions::default()).with(lines.clone());
        let written = || lines.0.swap(0, Ordering::Relaxed);
        tracing::subscriber::with_default(subscriber, || {
            (0..1000).for_each(|number| tracing::warn!(number, "a storm"));
            assert_eq!(written(), TIMES as usize);
            tracing::warn!("another place");
            (0..100).for_each(|number| tracing::debug!(number, "wanted"));
            assert_eq!(written(), 101);
        });
    }
}
