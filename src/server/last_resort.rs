//! Ends the process when a step of its shutdown does not end.
//!
//! A disk that does not answer keeps in the kernel whatever waits for it: a serving thread that reads, with all its
//! connections and the timers that would bound them, or the closing of the store. So the bound is kept by a thread that
//! touches neither the disk nor a runtime, and waits for its last line no longer than a moment. What was acknowledged is in the log, as after a kill.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::observe::standard_error;

/// A bound on a step. When this is dropped the step has ended in time.
#[must_use]
pub struct LastResort {
    _in_time: Option<SyncSender<()>>,
}

impl LastResort {
    /// Ends the process with 1 if `step` has not ended within `bound`, after a line that says so and `why` it was begun.
    pub fn exit_after(bound: Duration, step: &'static str, why: &str) -> Self {
        let why = why.to_owned();
        Self::after(bound, move || {
            standard_error::say_last(&format!(
                "profilestore: {step} has not ended within {bound:?}, so the process ends as it is ({why})"
            ));
            std::process::exit(1);
        })
    }

    fn after(bound: Duration, act: impl FnOnce() + Send + 'static) -> Self {
        let (in_time, ended) = sync_channel(0);
        let wait = move || {
            if ended.recv_timeout(bound) == Err(RecvTimeoutError::Timeout) {
                act();
            }
        };
        let started = std::thread::Builder::new().name("last-resort".into()).spawn(wait);
        if let Err(error) = &started {
            tracing::warn!(%error, "nothing bounds the time of the shutdown");
        }
        Self { _in_time: started.is_ok().then_some(in_time) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn it_acts_when_the_step_does_not_end_and_never_when_it_has_ended() {
        let (acted, acts) = channel();
        let late = LastResort::after(Duration::from_millis(20), move || acted.send(()).unwrap());
        acts.recv().unwrap();
        drop(late);
        let (acted, acts) = channel();
        drop(LastResort::after(Duration::from_secs(3600), move || acted.send(()).unwrap()));
        assert!(acts.recv().is_err(), "its thread ends without having acted");
    }
}
