//! Progress on a terminal: how much is done, how fast, and how long it still takes. Elsewhere nothing is shown.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const WITH_END: &str = "{percent:>3}% [{wide_bar}] {msg} {eta} left";
const WITHOUT_END: &str = "{spinner} {msg}";

/// A line on standard error that says how far it is.
pub struct Meter {
    bar: ProgressBar,
    has_end: bool,
    began: Instant,
    first: u64,
}

impl Meter {
    /// Nothing is shown where standard error is not a terminal.
    pub fn is_shown() -> bool {
        !ProgressDrawTarget::stderr().is_hidden()
    }

    /// A meter that ends at `total` if that is known. `first` profiles were done before.
    pub fn new(total: Option<u64>, first: u64) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = if total.is_some() { WITH_END } else { WITHOUT_END };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, has_end: total.is_some(), began: Instant::now(), first }
    }

    /// One that is never shown.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), has_end: false, began: Instant::now(), first: 0 }
    }

    /// What was done before this run does not count for the time that is left.
    pub fn begin_at(&self, position: u64) {
        self.bar.set_position(position);
        self.bar.reset_eta();
    }

    /// `position` of the total is done, `count` profiles in all.
    pub fn show(&self, position: u64, count: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let rate = count.saturating_sub(self.first) as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let message = if self.has_end { format!("{rate:.0}/s") } else { format!("{count} profiles, {rate:.0}/s") };
        self.bar.set_message(message);
        self.bar.set_position(position);
    }
}

impl Drop for Meter {
    /// The line goes away, also before an error is told.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
