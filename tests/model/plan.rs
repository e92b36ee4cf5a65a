//! What is written at random, and the small spaces it is drawn from.

use profilestore::model::{Canonicalization, Draft, Etag, Precondition, Profile, Write};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::common::profiles::*;

pub const IDS: usize = 24;
pub const LOCAL_PARTS: [&str; 4] = ["ada", "Ada", "bob", "ada.bob"];
pub const DOMAINS: [&str; 10] = [
    "example.com",
    "Example.COM",
    "a.example.com",
    "b.a.example.com",
    "a-b.example.com",
    "ab.example.com",
    "badexample.com",
    "com",
    "org",
    "deep.down.org",
];

/// One write, in a form that both sides can read.
#[derive(Debug, Clone)]
pub struct Planned {
    pub key: String,
    pub action: Action,
    pub condition: Condition,
}

#[derive(Debug, Clone)]
pub enum Action {
    Put {
        email: String,
        name: String,
    },
    /// An update of the name; the e-mail stays.
    Rename(String),
    /// An update of the e-mail; the name stays.
    Move(String),
    /// An update that refuses.
    Refuse,
    Delete,
}

#[derive(Debug, Clone)]
pub enum Condition {
    None,
    Absent,
    Exists,
    Etag(String),
}

pub fn any_key(rng: &mut StdRng) -> String {
    format!("user-{}", rng.random_range(0..IDS))
}

pub fn any_address(rng: &mut StdRng) -> String {
    let local = LOCAL_PARTS.choose(rng).unwrap();
    let domain = DOMAINS.choose(rng).unwrap();
    format!("{local}@{domain}")
}

fn any_email(rng: &mut StdRng) -> String {
    if rng.random_ratio(1, 8) { String::new() } else { any_address(rng) }
}

fn any_name(rng: &mut StdRng) -> String {
    // Few names, so that a write often leaves everything as it is; and sizes that matter to pages.
    "n".repeat([0, 1, 2, 50, 200][rng.random_range(0..5)])
}

impl Planned {
    /// Any write. `current` tells the etag that a profile has.
    pub fn any(rng: &mut StdRng, current: impl Fn(&str) -> Option<String>) -> Self {
        let key = any_key(rng);
        let action = match rng.random_range(0..20) {
            0..9 => Action::Put { email: any_email(rng), name: any_name(rng) },
            9..12 => Action::Rename(any_name(rng)),
            12..15 => Action::Move(any_email(rng)),
            15 => Action::Refuse,
            _ => Action::Delete,
        };
        let condition = match rng.random_range(0..20) {
            0..12 => Condition::None,
            12..14 => Condition::Absent,
            14..16 => Condition::Exists,
            16 => Condition::Etag("never made".into()),
            // Another profile's etag is as wrong as an old one.
            17 => Condition::Etag(current(&any_key(rng)).unwrap_or_default()),
            _ => Condition::Etag(current(&key).unwrap_or_default()),
        };
        Self { key, action, condition }
    }

    /// As the store takes it.
    pub fn write(&self) -> Write {
        let condition = match &self.condition {
            Condition::None => Precondition::None,
            Condition::Absent => Precondition::MustBeAbsent,
            Condition::Exists => Precondition::MustExist,
            Condition::Etag(etag) => Precondition::MustMatch(Etag::from_caller(etag.clone())),
        };
        match self.action.clone() {
            Action::Put { email, name } => put_if(&self.key, &email, &name, condition),
            Action::Rename(name) => self.update(condition, move |profile| profile.display_name = name),
            Action::Move(email) => self.update(condition, move |profile| profile.email = email),
            Action::Refuse => Write { precondition: condition, ..refuse(&self.key) },
            Action::Delete => delete_if(&self.key, condition),
        }
    }

    fn update(&self, condition: Precondition, change: impl FnOnce(&mut Profile) + Send + 'static) -> Write {
        let key = self.key.clone();
        let function = move |current: Option<Profile>| {
            let mut profile = current.unwrap_or_default();
            profile.id = key;
            change(&mut profile);
            Draft::from_profile(profile, Canonicalization::default(), "profile")
        };
        Write::update(id(&self.key), Box::new(function), condition, 64)
    }
}
