//! Generated profiles, for trying the server out and for benches.
//!
//! The same number and seed always give the same profiles. Domains follow Zipf's law, as real ones do: a few
//! hold most profiles. An encoded profile has about 400 bytes.

use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

use crate::model::{Canonicalization, Draft, Precondition, Profile, Write};
use crate::store::{Commit, Store, StoreError};

const SEED: u64 = 0x70726f66;
const ZIPF_EXPONENT: f64 = 1.05;
/// How many profiles one commit holds.
const PROFILES_PER_COMMIT: usize = 100;
/// How many commits are under way at a time.
const COMMITS_IN_FLIGHT: usize = 4;

const GIVEN_NAMES: [&str; 24] = [
    "Ada", "Ben", "Chiara", "Dmitri", "Elif", "Femi", "Grace", "Hana", "Ivo", "Jun", "Kofi", "Lena", "Mateo", "Nia",
    "Omar", "Priya", "Quinn", "Rosa", "Sven", "Tomás", "Uma", "Vera", "Wen", "Zoë",
];
const FAMILY_NAMES: [&str; 16] = [
    "Adeyemi", "Bauer", "Chen", "Dubois", "Eriksen", "Fischer", "García", "Haddad", "Ito", "Jansen", "Kowalski",
    "Lopez", "Müller", "Nowak", "Okafor", "Patel",
];
const TIERS: [&str; 3] = ["free", "team", "enterprise"];
const LANGUAGES: [&str; 6] = ["de", "en", "es", "fr", "ja", "pt"];

/// Makes generated profiles.
pub struct Sampler {
    domains: Zipf<f64>,
    random: SmallRng,
    next: u64,
}

impl Sampler {
    /// Profiles of a set of `count`: the number of domains grows with it.
    pub fn new(count: u64) -> Self {
        Self { domains: Self::domain_ranks(count), random: SmallRng::seed_from_u64(SEED), next: 0 }
    }

    /// The ranks of the domains in a set of `count` profiles, each as often as profiles have it.
    pub fn domain_ranks(count: u64) -> Zipf<f64> {
        let domains = (count / 50).clamp(20, 100_000) as f64;
        // Both arguments are positive constants or clamped, so the distribution exists.
        Zipf::new(domains, ZIPF_EXPONENT).unwrap_or_else(|_| unreachable!("the parameters are positive"))
    }

    /// The id of the profile with a number.
    pub fn id(number: u64) -> String {
        format!("user-{number:08}")
    }

    /// The domain of a rank, from 1; every third one is a subdomain.
    pub fn domain(rank: u64) -> String {
        match rank % 3 {
            0 => format!("mail.company-{}.example", rank / 3),
            _ => format!("company-{rank}.example"),
        }
    }
}

impl Iterator for Sampler {
    type Item = Profile;

    fn next(&mut self) -> Option<Profile> {
        let number = self.next;
        self.next += 1;
        let random = &mut self.random;
        let given = GIVEN_NAMES[random.random_range(0..GIVEN_NAMES.len())];
        let family = FAMILY_NAMES[random.random_range(0..FAMILY_NAMES.len())];
        let domain = Self::domain(self.domains.sample(random) as u64);
        let attributes = [
            ("tier", TIERS[random.random_range(0..TIERS.len())].to_owned()),
            ("language", LANGUAGES[random.random_range(0..LANGUAGES.len())].to_owned()),
            ("last_seen_version", format!("{}.{}.0", random.random_range(1..9), random.random_range(0..30))),
            ("avatar", format!("https://img.example/{:032x}.png", random.random::<u128>())),
            ("session", format!("{:064x}", random.random::<u128>())),
            ("device", format!("{:032x}", random.random::<u128>())),
            ("team", format!("team-{}", random.random_range(1..500))),
        ];
        Some(Profile {
            id: Self::id(number),
            email: format!("{}.{number}@{domain}", given.to_lowercase()),
            display_name: format!("{given} {family}"),
            attributes: attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            ..Profile::default()
        })
    }
}

/// Loads `count` generated profiles, several commits at a time.
pub async fn load<S: Store>(store: &Arc<S>, settings: Canonicalization, count: u64) -> Result<(), StoreError> {
    let mut profiles = Sampler::new(count).take(usize::try_from(count).unwrap_or(usize::MAX)).peekable();
    let mut commits = tokio::task::JoinSet::new();
    while profiles.peek().is_some() || !commits.is_empty() {
        while commits.len() < COMMITS_IN_FLIGHT && profiles.peek().is_some() {
            let drafts = profiles.by_ref().take(PROFILES_PER_COMMIT).map(|profile| {
                // The generator makes valid profiles only; an invalid one would be a bug in it.
                Draft::from_profile(profile, settings, "profile")
                    .map(|draft| Write::put(draft, Precondition::MustBeAbsent))
            });
            let writes: Vec<_> = drafts.filter_map(Result::ok).collect();
            let store = store.clone();
            commits.spawn(async move { store.commit(Commit::each(writes)).await });
        }
        if let Some(commit) = commits.join_next().await {
            commit.unwrap_or_else(|error| Err(StoreError::Failed { cause: error.to_string() }))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_profiles_are_valid_about_400_bytes_and_always_the_same() {
        let drafts = |count| {
            Sampler::new(10_000)
                .take(count)
                .map(|profile| Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(drafts(1000), drafts(1000));
        let bytes: usize = drafts(1000).iter().map(|draft| draft.encoded().len()).sum();
        assert!((320..400).contains(&(bytes / 1000)), "{} bytes without the output-only fields", bytes / 1000);
    }

    #[test]
    fn a_few_domains_hold_most_profiles() {
        let mut counts = std::collections::HashMap::new();
        for profile in Sampler::new(10_000).take(10_000) {
            *counts.entry(profile.email.rsplit_once('@').unwrap().1.to_owned()).or_insert(0) += 1;
        }
        let mut counts: Vec<u32> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top_fifth: u32 = counts.iter().take(counts.len() / 5).sum();
        assert!(top_fifth > 6_000, "{top_fifth} of 10000 profiles are in the largest fifth of the domains");
    }
}
