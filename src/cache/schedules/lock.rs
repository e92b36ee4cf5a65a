//! The lock of a shard in unit tests: parking_lot's as in the program, or shuttle's, which lets the test decide
//! who runs next whenever it is taken or given back.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use parking_lot::MutexGuard as PlainGuard;
use shuttle::sync::MutexGuard as ScheduledGuard;

thread_local! {
    static SCHEDULED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, locks that this thread makes are shuttle's.
pub struct Scheduling(());

impl Scheduling {
    pub fn begin() -> Self {
        SCHEDULED.set(true);
        Self(())
    }
}

impl Drop for Scheduling {
    fn drop(&mut self) {
        SCHEDULED.set(false);
    }
}

pub enum Mutex<T> {
    Plain(parking_lot::Mutex<T>),
    Scheduled(shuttle::sync::Mutex<T>),
}

pub enum Guard<'a, T> {
    Plain(PlainGuard<'a, T>),
    Scheduled(ScheduledGuard<'a, T>),
}

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        if SCHEDULED.get() {
            Self::Scheduled(shuttle::sync::Mutex::new(value))
        } else {
            Self::Plain(parking_lot::Mutex::new(value))
        }
    }

    pub fn lock(&self) -> Guard<'_, T> {
        match self {
            Self::Plain(mutex) => Guard::Plain(mutex.lock()),
            Self::Scheduled(mutex) => Guard::Scheduled(mutex.lock().unwrap()),
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Plain(guard) => guard,
            Self::Scheduled(guard) => guard,
        }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Plain(guard) => guard,
            Self::Scheduled(guard) => guard,
        }
    }
}
