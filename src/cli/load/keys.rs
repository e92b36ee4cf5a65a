//! Which profiles a load reads and writes: all alike, or some far more often than others.
//!
//! Ranks follow Zipf's law; the numbers behind them are scattered, so that popular profiles are no neighbours.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Zipf};

/// What the popular part of the keys takes.
const POPULAR_TAKE: f64 = 0.8;
/// So many terms of a sum are added one by one; the rest is an integral.
const EXACT_TERMS: u64 = 1000;
const MAX_EXPONENT: f64 = 4.0;

/// How popular keys are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Popularity {
    /// All alike.
    Uniform,
    /// Zipf's law: the key of rank r in proportion to r to the power of minus this.
    Zipf(f64),
    /// Zipf's law with the exponent for which a fifth of the keys takes four fifths.
    TwentyEighty,
}

/// Draws the numbers of profiles below a count.
#[derive(Debug, Clone)]
pub struct Keys {
    count: u64,
    /// Coprime with the count: ranks times this, modulo the count, are all numbers.
    step: u64,
    /// `None` draws all alike.
    ranks: Option<Zipf<f64>>,
}

impl Keys {
    /// Numbers below `count`, which is at least 1.
    pub fn new(count: u64, popularity: Popularity) -> Self {
        let exponent = match popularity {
            Popularity::Uniform => None,
            Popularity::Zipf(exponent) => Some(exponent),
            Popularity::TwentyEighty => Some(twenty_eighty_exponent(count)),
        };
        // Zipf's law exists for every count from 1 and every exponent from 0.
        let ranks = exponent.and_then(|exponent| Zipf::new(count as f64, exponent).ok());
        Self { count, step: scattering_step(count), ranks }
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Draws the number of a profile.
    pub fn draw(&self, random: &mut impl Rng) -> u64 {
        match &self.ranks {
            None => random.random_range(0..self.count),
            Some(ranks) => self.number((ranks.sample(random) as u64).clamp(1, self.count) - 1),
        }
    }

    /// The number of the key with a rank, from 0.
    fn number(&self, rank: u64) -> u64 {
        (u128::from(rank) * u128::from(self.step) % u128::from(self.count)) as u64
    }
}

/// A step near the golden section of the count: successive ranks are far apart.
fn scattering_step(count: u64) -> u64 {
    let golden = ((count as f64 * 0.618) as u64).max(1);
    // 1 is coprime with everything.
    (1..=golden).rev().find(|step| gcd(*step, count) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The exponent for which a fifth of the keys takes four fifths; it depends on their number.
fn twenty_eighty_exponent(count: u64) -> f64 {
    let popular = (count / 5).max(1);
    let (mut low, mut high) = (0.0, MAX_EXPONENT);
    // The share grows with the exponent.
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        let share = sum_of_powers(popular, middle) / sum_of_powers(count, middle);
        if share < POPULAR_TAKE { low = middle } else { high = middle }
    }
    low
}

/// The sum of k to the power of minus `exponent` over k from 1 to `terms`.
fn sum_of_powers(terms: u64, exponent: f64) -> f64 {
    let exact: f64 = (1..=terms.min(EXACT_TERMS)).map(|k| (k as f64).powf(-exponent)).sum();
    if terms <= EXACT_TERMS {
        return exact;
    }
    // From half a term before the first to half a term after the last.
    let (from, to) = (EXACT_TERMS as f64 + 0.5, terms as f64 + 0.5);
    let power = 1.0 - exponent;
    exact + if power.abs() < 1e-9 { (to / from).ln() } else { (to.powf(power) - from.powf(power)) / power }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const DRAWS: usize = 200_000;

    /// The share of the draws that the most popular fifth of all keys takes.
    fn share_of_a_fifth(count: u64, popularity: Popularity) -> f64 {
        let (keys, mut random) = (Keys::new(count, popularity), SmallRng::seed_from_u64(7));
        let mut drawn = HashMap::new();
        for _ in 0..DRAWS {
            *drawn.entry(keys.draw(&mut random)).or_insert(0_u64) += 1;
        }
        assert!(drawn.keys().all(|number| *number < count));
        let popular = (0..count / 5).map(|rank| drawn.get(&keys.number(rank)).copied().unwrap_or(0)).sum::<u64>();
        popular as f64 / DRAWS as f64
    }

    #[test]
    fn by_default_a_fifth_of_the_keys_takes_four_fifths() {
        for count in [10, 1_000, 100_000, 10_000_000] {
            let share = share_of_a_fifth(count, Popularity::TwentyEighty);
            assert!((0.79..0.81).contains(&share), "of {count} keys a fifth takes {share}");
        }
    }

    #[test]
    fn uniform_keys_are_alike_and_so_are_those_of_exponent_0() {
        for popularity in [Popularity::Uniform, Popularity::Zipf(0.0)] {
            let (keys, mut random) = (Keys::new(10, popularity), SmallRng::seed_from_u64(7));
            let mut drawn = [0; 10];
            (0..100_000).for_each(|_| drawn[keys.draw(&mut random) as usize] += 1);
            assert!(drawn.iter().all(|times| (9_500..10_500).contains(times)), "{popularity:?}: {drawn:?}");
        }
    }

    #[test]
    fn every_rank_has_a_number_of_its_own_and_neighbours_are_apart() {
        for count in [1, 2, 3, 5, 12, 1_000, 9_973, 65_536] {
            let keys = Keys::new(count, Popularity::TwentyEighty);
            let numbers: HashSet<_> = (0..count).map(|rank| keys.number(rank)).collect();
            assert_eq!(numbers.len() as u64, count);
        }
        let keys = Keys::new(1_000_000, Popularity::Uniform);
        assert!((0..100).all(|rank| keys.number(rank).abs_diff(keys.number(rank + 1)) > 1_000));
    }
}
