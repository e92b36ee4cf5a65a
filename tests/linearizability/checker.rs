//! Is there an order that explains a history of one profile?
//!
//! The search is Wing and Gong's, with Lowe's memory of what was tried. stateright's tester is asked the same about
//! small histories; it does not do by itself, because to it a write without an answer may be made at any later time,
//! also long after the kill.

use std::collections::HashSet;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::history::{Action, Operation, Outcome};

/// What an operation leaves, if it can be next in this state.
fn after(state: Option<u32>, action: Action, outcome: Outcome) -> Option<Option<u32>> {
    let exists = state.is_some();
    match (action, outcome) {
        (Action::Read, Outcome::Saw(seen)) => (seen == state).then_some(state),
        (Action::Put(value), Outcome::Done | Outcome::InDoubt) => Some(Some(value)),
        (Action::Create(value), Outcome::Done | Outcome::InDoubt) => (!exists).then_some(Some(value)),
        (Action::Create(_), Outcome::Refused) => exists.then_some(state),
        (Action::Replace(value), Outcome::Done | Outcome::InDoubt) => exists.then_some(Some(value)),
        (Action::Replace(_), Outcome::Refused) => (!exists).then_some(state),
        (Action::Delete, Outcome::Done | Outcome::InDoubt) => Some(None),
        (action, outcome) => unreachable!("{action:?} has not the outcome {outcome:?}"),
    }
}

/// Whether some order of the operations explains them all. At first there is no profile.
pub fn is_linearizable(history: &[Operation]) -> bool {
    assert!(history.len() <= 128, "a history of {} operations is not short", history.len());
    let all = u128::MAX.checked_shr(128 - history.len() as u32).unwrap_or(0);
    let mut tried = HashSet::new();
    let mut open = vec![(0_u128, None)];
    while let Some((placed, state)) = open.pop() {
        if placed == all {
            return true;
        }
        if !tried.insert((placed, state)) {
            continue;
        }
        let left = || history.iter().enumerate().filter(|(number, _)| placed >> number & 1 == 0);
        // Nothing that ended before another one began may come behind it.
        let first_end = left().map(|(_, operation)| operation.end).min().unwrap_or(u64::MAX);
        for (number, operation) in left().filter(|(_, operation)| operation.begin <= first_end) {
            let placed = placed | 1 << number;
            if let Some(state) = after(state, operation.action, operation.outcome) {
                open.push((placed, state));
            }
            if operation.outcome == Outcome::InDoubt {
                // It was never made.
                open.push((placed, state));
            }
        }
    }
    false
}

/// One profile, as stateright wants it told.
#[derive(Clone)]
struct Profile(Option<u32>);

impl SequentialSpec for Profile {
    type Op = Action;
    type Ret = Outcome;

    fn invoke(&mut self, action: &Action) -> Outcome {
        let outcome = match action {
            Action::Read => Outcome::Saw(self.0),
            Action::Create(_) if self.0.is_some() => Outcome::Refused,
            Action::Replace(_) if self.0.is_none() => Outcome::Refused,
            _ => Outcome::Done,
        };
        if let Some(state) = after(self.0, *action, outcome) {
            self.0 = state;
        }
        outcome
    }
}

/// What stateright says of a history in which what has no answer never ends.
pub fn stateright_agrees(history: &[Operation]) -> bool {
    let mut tester = LinearizabilityTester::new(Profile(None));
    let mut events: Vec<_> = history.iter().enumerate().map(|(number, each)| (each.begin, false, number)).collect();
    let answered = history.iter().enumerate().filter(|(_, each)| each.outcome != Outcome::InDoubt);
    events.extend(answered.map(|(number, each)| (each.end, true, number)));
    events.sort_unstable();
    // A thread for each operation: which caller it was says nothing beyond the times.
    for (_, is_answer, number) in events {
        let Operation { action, outcome, .. } = history[number];
        if is_answer {
            tester.on_return(number, outcome).unwrap();
        } else {
            tester.on_invoke(number, action).unwrap();
        }
    }
    tester.is_consistent()
}
