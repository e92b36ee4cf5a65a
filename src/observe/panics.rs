//! How many panics there were in this process, whoever caught them.
//!
//! A panic of one call ends that call and nothing else, so nobody would notice it by what becomes of connections or
//! threads. They are counted where all of them pass: in the process's panic hook.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts panics from now on; whatever else is done at a panic goes on being done.
pub fn count() {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            others(panic);
        }));
    });
}

/// The panics since they are counted.
pub fn so_far() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_that_somebody_catches_is_counted_all_the_same() {
        count();
        count();
        let before = so_far();
        std::thread::spawn(|| panic!("wanted")).join().unwrap_err();
        // Other tests of this process may panic as well.
        assert!(so_far() > before);
    }
}
