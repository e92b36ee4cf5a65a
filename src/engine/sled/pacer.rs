//! How background work leaves the machine to those who wait for answers, and ends when it should.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// After so long at work it rests.
const SLICE: Duration = Duration::from_millis(2);
/// It rests so many times as long as it worked: of one core it takes a fifth at most.
const REST: u32 = 4;

/// Background work was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Tells background work to end, wherever it rests.
#[derive(Debug, Clone, Default)]
pub struct Stopper(Arc<(Mutex<bool>, Condvar)>);

impl Stopper {
    /// Tells it.
    pub fn stop(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    /// Whether it was told.
    pub fn check(&self) -> Result<(), Stopped> {
        if *self.0.0.lock() { Err(Stopped) } else { Ok(()) }
    }

    /// Waits until told.
    pub fn wait(&self) {
        self.0.1.wait_while(&mut self.0.0.lock(), |stopped| !*stopped);
    }

    /// Waits so long, or until told.
    pub fn rest(&self, duration: Duration) -> Result<(), Stopped> {
        let mut stopped = self.0.0.lock();
        if !*stopped {
            self.0.1.wait_for(&mut stopped, duration);
        }
        if *stopped { Err(Stopped) } else { Ok(()) }
    }
}

/// Told when this is dropped: held by a thread, so that others learn of its end in whatever way it comes.
#[derive(Debug)]
pub struct StopOnDrop(pub Stopper);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Spreads one piece of background work over time.
#[derive(Debug)]
pub struct Pacer {
    stopper: Stopper,
    hurry: bool,
    slice_began: Instant,
}

impl Pacer {
    /// For work that begins now. In a hurry it does not rest, but ends when told.
    pub fn new(stopper: Stopper, hurry: bool) -> Self {
        Self { stopper, hurry, slice_began: Instant::now() }
    }

    /// Called often by the work, after every record or block.
    pub fn pause(&mut self) -> Result<(), Stopped> {
        let worked = self.slice_began.elapsed();
        if worked < SLICE {
            return Ok(());
        }
        if self.hurry {
            self.stopper.check()?;
        } else {
            self.stopper.rest(worked * REST)?;
        }
        self.slice_began = Instant::now();
        Ok(())
    }
}
