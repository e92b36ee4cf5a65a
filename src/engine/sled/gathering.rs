//! How long a group waits for the callers who were answered last.
//!
//! A group costs a sync, a batch of sled's with a sync of its own, and a dozen wake-ups, however many writes it has.
//! Whoever was just answered often has the next write already, but his thread needs a moment to be told and to say so. A
//! committer that goes on at once makes small groups of whatever has come in meanwhile, and with every caller waiting for
//! the processor it stays so: each group is as small as the one before, and costs as much as a large one.
//!
//! So a group waits until as many have come as were answered last and waited then, at most for as long as the last group
//! took. A lone caller never waits: when he is back, all are.
//!
//! Invariants: a wait is bounded by [`LONGEST_WAIT`]; after a wait in vain, in which fewer than half of those came back who were
//! waited for, the next groups go on at once, more of them each time. Where half of them or more come back every time, every
//! group waits, and may wait to that bound for the rest.

use std::time::{Duration, Instant};

/// The longest wait, also after a sync that took long.
const LONGEST_WAIT: Duration = Duration::from_millis(2);
/// The most groups that go on at once after a wait in vain.
const MOST_SKIPPED: u32 = 64;

/// Decides about waiting, from group to group.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    awaited: Option<Awaited>,
    /// How many groups go on at once, and how many did so after the last wait in vain.
    to_skip: u32,
    skipped: u32,
}

/// Whom a group waits for.
#[derive(Debug)]
struct Awaited {
    answered: usize,
    queued: usize,
    until: Instant,
}

impl Gathering {
    /// A group was answered: so many callers, while others were queued. It took so long.
    pub(super) fn answered(&mut self, answered: usize, queued: usize, took: Duration) {
        self.awaited = None;
        if self.to_skip > 0 {
            self.to_skip -= 1;
        } else {
            self.awaited = Some(Awaited { answered, queued, until: Instant::now() + took.min(LONGEST_WAIT) });
        }
    }

    /// How long to wait for one more request when so many are there; `None` to go on.
    pub(super) fn patience(&mut self, gathered: usize) -> Option<Duration> {
        let Awaited { answered, queued, until } = self.awaited.as_ref()?;
        if gathered < answered + queued {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Some(left);
            }
        }
        let came_back = gathered.saturating_sub(*queued);
        self.skipped = if 2 * came_back < *answered { (2 * self.skipped + 1).min(MOST_SKIPPED) } else { 0 };
        self.to_skip = self.skipped;
        self.awaited = None;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// A group that was answered, and how many were there when the next one went on.
    fn next_goes_on_at_once(gathering: &mut Gathering, gathered: usize) -> bool {
        gathering.patience(gathered).is_none()
    }

    #[test]
    fn a_group_waits_until_all_who_were_answered_are_back() {
        let mut gathering = Gathering::default();
        assert!(next_goes_on_at_once(&mut gathering, 1), "nobody was answered yet");
        gathering.answered(4, 3, LONG);
        assert!((3..7).all(|gathered| !next_goes_on_at_once(&mut gathering, gathered)));
        assert!(next_goes_on_at_once(&mut gathering, 7));
    }

    #[test]
    fn a_lone_caller_never_waits() {
        let mut gathering = Gathering::default();
        for _ in 0..3 {
            gathering.answered(1, 0, LONG);
            assert!(next_goes_on_at_once(&mut gathering, 1));
        }
    }

    #[test]
    fn a_wait_is_bounded_whatever_the_group_took() {
        let mut gathering = Gathering::default();
        gathering.answered(4, 0, LONG);
        assert!(gathering.patience(1).is_some_and(|patience| patience <= LONGEST_WAIT));
        gathering.answered(4, 0, Duration::ZERO);
        assert!(next_goes_on_at_once(&mut gathering, 1), "a group that took no time is not waited for");
    }

    #[test]
    fn those_who_do_not_come_back_are_waited_for_less_and_less() {
        let mut gathering = Gathering::default();
        let mut wait_in_vain = |gathered| {
            // A wait that is over before it begins is one that nobody came in.
            gathering.answered(8, 0, Duration::ZERO);
            assert!(next_goes_on_at_once(&mut gathering, gathered));
            let mut skipped = 0;
            loop {
                gathering.answered(8, 0, LONG);
                if !next_goes_on_at_once(&mut gathering, 0) {
                    gathering.awaited = None;
                    return skipped;
                }
                skipped += 1;
            }
        };
        assert_eq!([0; 8].map(&mut wait_in_vain), [1, 3, 7, 15, 31, 63, 64, 64]);
        assert_eq!(wait_in_vain(4), 0, "half of them came back");
        assert_eq!(wait_in_vain(0), 1);
    }
}
