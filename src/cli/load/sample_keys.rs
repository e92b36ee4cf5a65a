//! How many of the sample's profiles a server has: others may be there too, so its count of all does not tell.

use std::ops::Range;

use crate::cli::connection::ConnectionArgs;
use crate::client::Client;
use crate::server::sample::Sampler;

/// So many ids are asked for at once; a hole that is shorter, where profiles were deleted, is no end.
const STEP: u64 = 100;

/// The number behind the last id of the sample on a server with `stored` profiles in all; 0 when it has none.
pub async fn count(client: &Client, connection: &ConnectionArgs, stored: u64) -> anyhow::Result<u64> {
    end_below(stored, async |numbers| {
        let ids = numbers.clone().map(Sampler::id).collect();
        let found = client.batch_get(ids, vec!["id".to_owned()]).await.map_err(|error| connection.explain(error))?;
        let is_there = |number: &u64| found.profiles.iter().any(|profile| profile.id == Sampler::id(*number));
        Ok(numbers.rev().find(is_there))
    })
    .await
}

/// The number behind the last one below `bound` that is there. `last_in` finds the last one of some.
async fn end_below(
    bound: u64,
    last_in: impl AsyncFn(Range<u64>) -> anyhow::Result<Option<u64>>,
) -> anyhow::Result<u64> {
    let mut end = 0;
    // The end is in none of the steps before the first of these, and from the second one on there is nothing.
    let (mut from, mut to) = (0, bound.div_ceil(STEP));
    // Mostly nothing but the sample is there, and all of it.
    let mut step = to.saturating_sub(1);
    while from < to {
        match last_in(step * STEP..bound.min((step + 1) * STEP)).await? {
            Some(last) => (end, from) = (last + 1, step + 1),
            None => to = step,
        }
        step = from + (to - from) / 2;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn the_end_of_the_sample_is_found_among_others_with_few_questions() {
        for bound in [0, 1, 99, 100, 101, 2_002, 1_000_000] {
            for end in [0, 1, 50, 99, 100, 101, 199, 2_000, 999_999, 1_000_000] {
                let asked = Cell::new(0);
                let found = end_below(bound, async |numbers: Range<u64>| {
                    asked.set(asked.get() + 1);
                    assert!(numbers.start < numbers.end && numbers.end <= bound, "{numbers:?} of {bound}");
                    Ok(numbers.rev().find(|number| *number < end))
                });
                assert_eq!(found.await.unwrap(), end.min(bound), "{end} of {bound}");
                assert!(asked.get() <= 16, "{} questions for {end} of {bound}", asked.get());
                assert!(bound == 0 || end < bound || asked.get() == 1, "nothing but the sample is there");
            }
        }
    }

    #[tokio::test]
    async fn a_few_that_were_deleted_are_no_end() {
        let found =
            end_below(5_000, async |numbers: Range<u64>| Ok(numbers.rev().find(|n| *n < 4_321 && n % 50 == 20)));
        assert_eq!(found.await.unwrap(), 4_321);
    }
}
