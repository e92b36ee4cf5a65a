//! Which calls a load is made of, and in which shares.

use std::str::FromStr;

use rand::Rng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;

const MAX_WEIGHT: u32 = 1_000_000;

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Get one profile.
    Get,
    /// Get a batch of profiles.
    Batch,
    /// Read a page of a domain.
    Query,
    /// Change one attribute of a profile.
    Put,
}

impl Operation {
    pub const ALL: [Self; 4] = [Self::Get, Self::Batch, Self::Query, Self::Put];

    /// Its name in a mix and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Batch => "batch",
            Self::Query => "query",
            Self::Put => "put",
        }
    }
}

/// The weight of each kind of call, for example `get=90,put=5,query=4,batch=1`.
#[derive(Debug, Clone)]
pub struct Mix {
    weights: [u32; Operation::ALL.len()],
    choice: WeightedIndex<u32>,
}

impl Mix {
    /// Whether there are such calls in it.
    pub fn has(&self, operation: Operation) -> bool {
        self.weights[operation as usize] > 0
    }

    /// Draws a kind of call.
    pub fn draw(&self, random: &mut impl Rng) -> Operation {
        Operation::ALL[self.choice.sample(random)]
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let mut weights = [0; Operation::ALL.len()];
        for part in given.split(',') {
            let (name, weight) =
                part.split_once('=').ok_or_else(|| format!("{part:?} must be CALL=WEIGHT, for example get=90"))?;
            let operation = Operation::ALL
                .into_iter()
                .find(|operation| operation.name() == name)
                .ok_or_else(|| format!("there is no call {name:?}; get, batch, query and put are known"))?;
            let weight = weight.parse().ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight));
            let weight = weight.ok_or_else(|| format!("the weight of {name} must be 1 to {MAX_WEIGHT}"))?;
            if std::mem::replace(&mut weights[operation as usize], weight) != 0 {
                return Err(format!("{name} is given twice"));
            }
        }
        let choice = WeightedIndex::new(weights).map_err(|error| error.to_string())?;
        Ok(Self { weights, choice })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn calls_are_drawn_by_their_weights() {
        let mix: Mix = "get=90,put=5,query=4,batch=1".parse().unwrap();
        let mut random = SmallRng::seed_from_u64(1);
        let mut drawn = [0; 4];
        for _ in 0..100_000 {
            drawn[mix.draw(&mut random) as usize] += 1;
        }
        for (operation, expected) in
            [(Operation::Get, 90_000), (Operation::Put, 5_000), (Operation::Query, 4_000), (Operation::Batch, 1_000)]
        {
            let drawn: i32 = drawn[operation as usize];
            assert!((drawn - expected).abs() < 300, "{operation:?} was drawn {drawn} times");
        }
    }

    #[test]
    fn what_is_not_in_the_mix_is_never_drawn() {
        let mix: Mix = "query=1,get=3".parse().unwrap();
        let has: Vec<_> = Operation::ALL.into_iter().filter(|operation| mix.has(*operation)).collect();
        assert_eq!(has, [Operation::Get, Operation::Query]);
        let mut random = SmallRng::seed_from_u64(1);
        assert!((0..10_000).all(|_| has.contains(&mix.draw(&mut random))));
    }

    #[test]
    fn a_wrong_mix_is_refused_with_the_part_that_is_wrong() {
        for (wrong, says) in [
            ("", "CALL=WEIGHT"),
            ("get", "\"get\""),
            ("get=1,", "\"\""),
            ("delete=1", "\"delete\""),
            ("get=0", "weight of get"),
            ("get=-1", "weight of get"),
            ("put=1000001", "1 to 1000000"),
            ("get=1,get=2", "get is given twice"),
        ] {
            let error = wrong.parse::<Mix>().unwrap_err();
            assert!(error.contains(says), "{wrong:?}: {error}");
        }
    }
}
