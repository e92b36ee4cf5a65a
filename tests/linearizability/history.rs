//! What was asked and answered, with times that order every answer against every call.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;

/// What one operation does to one profile. No two writes write the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Read,
    Put(u32),
    /// A put that is refused when there is a profile.
    Create(u32),
    /// A put that is refused when there is none.
    Replace(u32),
    /// A delete, whether there is a profile or not.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Saw(Option<u32>),
    Done,
    /// The condition was not met.
    Refused,
    /// No answer came.
    InDoubt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub profile: usize,
    pub begin: u64,
    pub end: u64,
    pub action: Action,
    pub outcome: Outcome,
}

/// Keeps a history while it is made.
#[derive(Default)]
pub struct Recorder {
    clock: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

impl Recorder {
    /// A moment after all moments so far.
    pub fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A read that began at a moment and has just been answered.
    pub fn saw(&self, profile: usize, begin: u64, value: Option<u32>) {
        let outcome = Outcome::Saw(value);
        self.operations.lock().push(Operation { profile, begin, end: self.now(), action: Action::Read, outcome });
    }

    /// Writes that begin. They are in doubt until they are answered.
    pub fn begin(&self, writes: &[(usize, Action)]) -> usize {
        let mut operations = self.operations.lock();
        let (begin, first) = (self.now(), operations.len());
        operations.extend(writes.iter().map(|&(profile, action)| Operation {
            profile,
            begin,
            end: u64::MAX,
            action,
            outcome: Outcome::InDoubt,
        }));
        first
    }

    /// The writes that began as the `first` and those behind it are answered.
    pub fn answered(&self, first: usize, outcomes: &[Outcome]) {
        let mut operations = self.operations.lock();
        let end = self.now();
        for (operation, outcome) in operations[first..].iter_mut().zip(outcomes) {
            (operation.end, operation.outcome) = (end, *outcome);
        }
    }

    /// Everything that has no answer yet will never have one, and is made by now or never.
    pub fn killed(&self) {
        let now = self.now();
        self.operations.lock().iter_mut().filter(|operation| operation.end == u64::MAX).for_each(|operation| {
            operation.end = now;
        });
    }

    pub fn into_operations(self) -> Vec<Operation> {
        self.operations.into_inner()
    }
}

/// The histories of all profiles, each by itself.
pub fn of_each_profile(history: Vec<Operation>) -> Vec<Vec<Operation>> {
    let profiles = history.iter().map(|operation| operation.profile + 1).max().unwrap_or(0);
    let mut of_each = vec![Vec::new(); profiles];
    for operation in history {
        of_each[operation.profile].push(operation);
    }
    of_each
}

pub fn print(history: &[Operation]) -> String {
    let mut text = String::new();
    for Operation { profile, begin, end, action, outcome } in history {
        writeln!(text, "profile {profile}, {begin:4} to {end:4}: {action:?} {outcome:?}").unwrap();
    }
    text
}

/// A history of one profile that may or may not be linearizable. Writes that have no answer never end.
pub fn any(rng: &mut StdRng, callers: usize, each: usize) -> Vec<Operation> {
    let (recorder, mut value, mut state) = (Recorder::default(), 0, None);
    let mut running: Vec<(usize, usize)> = Vec::new();
    let mut left = vec![each; callers];
    let mut silent = vec![false; callers];
    while left.iter().zip(&silent).any(|(left, silent)| *left > 0 && !silent) || !running.is_empty() {
        let caller = rng.random_range(0..callers);
        if let Some(at) = running.iter().position(|(running, _)| *running == caller) {
            let (_, first) = running.swap_remove(at);
            let action = recorder.operations.lock()[first].action;
            if action != Action::Read && rng.random_ratio(1, 6) {
                silent[caller] = true;
                continue;
            }
            let exists = state.is_some();
            let mut outcome = match action {
                Action::Read => Outcome::Saw(state),
                Action::Create(_) if exists => Outcome::Refused,
                Action::Replace(_) if !exists => Outcome::Refused,
                _ => Outcome::Done,
            };
            match action {
                Action::Put(value) => state = Some(value),
                Action::Create(value) | Action::Replace(value) if outcome == Outcome::Done => state = Some(value),
                Action::Delete => state = None,
                _ => {}
            }
            if rng.random_ratio(1, 8) {
                outcome = match action {
                    Action::Read => Outcome::Saw((value > 0).then(|| rng.random_range(0..value))),
                    Action::Create(_) | Action::Replace(_) if outcome == Outcome::Done => Outcome::Refused,
                    _ => Outcome::Done,
                };
            }
            recorder.answered(first, &[outcome]);
        } else if left[caller] > 0 && !silent[caller] {
            left[caller] -= 1;
            let action = match rng.random_range(0..6) {
                0..3 => Action::Read,
                3 => Action::Put(value),
                4 if rng.random_bool(0.5) => Action::Replace(value),
                4 => Action::Create(value),
                _ => Action::Delete,
            };
            value += 1;
            running.push((caller, recorder.begin(&[(0, action)])));
        }
    }
    recorder.into_operations()
}
