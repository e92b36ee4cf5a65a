//! What the callers do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngExt;
use rand::rngs::StdRng;

use super::history::{Action, Recorder};
use super::lives::{Gone, Target};

/// How many profiles there are.
pub const PROFILES: usize = 4;
/// How many operations a caller makes in one life of the store, at most.
const OPERATIONS: usize = 7;
const MAX_PAGES: usize = 4;

/// Where the callers stand.
#[derive(Default)]
pub struct Standing {
    /// Those that wait for a write.
    pub writing: AtomicUsize,
    /// Those that have done all that they wanted, or have met the end.
    pub done: AtomicUsize,
}

pub struct Caller<T> {
    pub target: T,
    pub recorder: Arc<Recorder>,
    pub standing: Arc<Standing>,
    /// Where the values that are written come from.
    pub values: Arc<AtomicUsize>,
    pub rng: StdRng,
}

pub fn key(profile: usize) -> String {
    format!("profile-{profile}")
}

fn number(key: &str) -> usize {
    key.rsplit('-').next().unwrap().parse().unwrap()
}

impl<T: Target> Caller<T> {
    /// Makes some operations, until there is nobody to ask any more.
    pub async fn run(mut self) {
        for _ in 0..OPERATIONS {
            let profile = self.rng.random_range(0..PROFILES);
            let made = match self.rng.random_range(0..12) {
                0..3 => self.get(profile).await,
                3 => self.get_many().await,
                4..6 => self.pages().await,
                6 => self.page_of_domain().await,
                7..11 => {
                    let action = self.any_write();
                    self.commit(vec![(profile, action)]).await
                }
                _ => {
                    let actions = [self.put_or_delete(), self.put_or_delete()];
                    self.commit(vec![(profile, actions[0]), ((profile + 1) % PROFILES, actions[1])]).await
                }
            };
            if made.is_err() {
                break;
            }
        }
        self.standing.done.fetch_add(1, Ordering::SeqCst);
    }

    fn next_value(&self) -> u32 {
        self.values.fetch_add(1, Ordering::SeqCst) as u32
    }

    fn put_or_delete(&mut self) -> Action {
        if self.rng.random_ratio(2, 3) { Action::Put(self.next_value()) } else { Action::Delete }
    }

    fn any_write(&mut self) -> Action {
        match self.rng.random_range(0..4) {
            0 => Action::Create(self.next_value()),
            1 => Action::Replace(self.next_value()),
            _ => self.put_or_delete(),
        }
    }

    async fn commit(&mut self, writes: Vec<(usize, Action)>) -> Result<(), Gone> {
        let first = self.recorder.begin(&writes);
        let writes = writes.into_iter().map(|(profile, action)| (key(profile), action)).collect();
        self.standing.writing.fetch_add(1, Ordering::SeqCst);
        let outcomes = self.target.commit(writes).await;
        self.standing.writing.fetch_sub(1, Ordering::SeqCst);
        self.recorder.answered(first, &outcomes?);
        Ok(())
    }

    async fn get(&self, profile: usize) -> Result<(), Gone> {
        let begin = self.recorder.now();
        let value = self.target.get(key(profile)).await?;
        self.recorder.saw(profile, begin, value);
        Ok(())
    }

    async fn get_many(&self) -> Result<(), Gone> {
        let begin = self.recorder.now();
        let values = self.target.get_many((0..PROFILES).map(key).collect()).await?;
        for (profile, value) in values.into_iter().enumerate() {
            self.recorder.saw(profile, begin, value);
        }
        Ok(())
    }

    /// All profiles, two at a time: each page says of the ids between its ends which of them there are.
    pub async fn pages(&self) -> Result<(), Gone> {
        let (mut after, mut next_profile) = (None, 0);
        for _ in 0..MAX_PAGES {
            let begin = self.recorder.now();
            let (shown, next) = self.target.page(None, after, 2).await?;
            let end = match (&next, shown.last()) {
                (Some(_), Some((last, _))) => number(last) + 1,
                _ => PROFILES,
            };
            for profile in next_profile..end {
                let value = shown.iter().find(|(shown, _)| number(shown) == profile).map(|(_, value)| *value);
                self.recorder.saw(profile, begin, value);
            }
            (after, next_profile) = (next, end);
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// The profiles of a domain. Which are not there says nothing: a profile may move to where the page has been.
    async fn page_of_domain(&mut self) -> Result<(), Gone> {
        let domain = self.rng.random_range(0..3);
        let begin = self.recorder.now();
        let (shown, _) = self.target.page(Some(format!("d{domain}.example")), None, PROFILES).await?;
        for (shown, value) in shown {
            assert_eq!(value % 3, domain, "a profile of another domain");
            self.recorder.saw(number(&shown), begin, Some(value));
        }
        Ok(())
    }
}
