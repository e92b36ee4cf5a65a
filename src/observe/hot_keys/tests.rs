//! How near the estimates are to exact counts, on traces that are the same in every run.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

use super::*;

const SEED: u64 = 11;
const KEYS: u32 = 100_000;

/// What is true and what is said of it.
struct Outcome {
    /// Of the truly hottest twenty keys those that are among the reported twenty.
    recalled: usize,
    /// The relative errors of the reported twenty.
    errors: Vec<f64>,
    /// Reported keys whose truth is not within the bound of their error.
    out_of_bounds: usize,
    reported: Vec<HotKey>,
}

/// Key of a rank; ids of the usual length.
fn key(rank: u32) -> String {
    format!("user-{rank:08}")
}

/// Two threads read ids by Zipf's law, so many a slice, over a whole window.
fn zipf(exponent: f64, reads_a_slice: u32) -> Outcome {
    zipf_in(IDS, KEYS, exponent, reads_a_slice)
}

/// The same of other keys, which are counted in so many places.
fn zipf_in(places: usize, keys: u32, exponent: f64, reads_a_slice: u32) -> Outcome {
    let stream = Stream::new(2, places, SEED);
    let mut random = SmallRng::seed_from_u64(SEED);
    let law = Zipf::new(f64::from(keys), exponent).unwrap();
    let mut truth: HashMap<String, u64> = HashMap::new();
    for slice in 0..SLICES {
        for number in 0..reads_a_slice {
            let key = key(law.sample(&mut random) as u32);
            stream.cells[number as usize % 2].note(&key, || slice);
            *truth.entry(key).or_default() += 1;
        }
    }
    compare(&truth, stream.hottest(SLICES - 1, 20))
}

fn compare(truth: &HashMap<String, u64>, reported: Vec<HotKey>) -> Outcome {
    let mut ranked: Vec<_> = truth.iter().map(|(key, count)| (*count, key.as_str())).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    let hottest: Vec<_> = ranked.iter().take(20).map(|(_, key)| *key).collect();
    let true_count = |each: &HotKey| truth.get(&each.key).copied().unwrap_or(0);
    Outcome {
        recalled: reported.iter().filter(|each| hottest.contains(&each.key.as_str())).count(),
        errors: reported.iter().map(|each| (each.reads as f64 / true_count(each) as f64 - 1.0).abs()).collect(),
        out_of_bounds: reported
            .iter()
            .filter(|each| each.reads.saturating_sub(each.error) > true_count(each))
            .count(),
        reported,
    }
}

impl Outcome {
    fn mean_error(&self) -> f64 {
        self.errors.iter().sum::<f64>() / self.errors.len() as f64
    }

    fn largest_error(&self) -> f64 {
        self.errors.iter().copied().fold(0.0, f64::max)
    }
}

#[test]
fn the_hottest_twenty_are_found_and_their_reads_are_nearly_right() {
    // The reads of a slice: a server that is hardly busy, and one that gives all it has. A fifth of the keys takes four
    // fifths of the reads at 0.92.
    for (exponent, reads) in [(0.92, 3_000), (0.92, 100_000), (0.92, 400_000), (1.1, 20_000), (1.1, 400_000)] {
        let outcome = zipf(exponent, reads);
        let (mean, largest) = (outcome.mean_error(), outcome.largest_error());
        println!(
            "Zipf {exponent}, {reads} reads a slice: {} of 20 found, off by {:.1} % on average, {:.1} % at most",
            outcome.recalled,
            mean * 100.0,
            largest * 100.0
        );
        assert_eq!(outcome.reported.len(), 20);
        assert!(outcome.recalled >= 17, "{} of 20 with {exponent} and {reads}", outcome.recalled);
        assert!(mean < 0.06 && largest < 0.20, "{mean} and {largest} with {exponent} and {reads}");
        assert_eq!(outcome.out_of_bounds, 0, "an estimate is too high by more than its bound");
    }
}

#[test]
fn the_hottest_domains_are_found_in_the_fewer_places_that_they_have() {
    for (domains, exponent, reads) in [(10_000, 1.0, 3_000), (10_000, 1.0, 100_000), (1_000, 0.92, 100_000)] {
        let outcome = zipf_in(DOMAINS, domains, exponent, reads);
        let (mean, largest) = (outcome.mean_error(), outcome.largest_error());
        let found = outcome.recalled;
        println!("{domains} domains, Zipf {exponent}, {reads} reads a slice: {found} of 20, {mean:.3} {largest:.3}");
        assert_eq!((outcome.reported.len(), outcome.out_of_bounds), (20, 0));
        assert!(found >= 17, "{found} of 20 of {domains} with {exponent} and {reads}");
        assert!(mean < 0.06 && largest < 0.25, "{mean} and {largest} of {domains} with {exponent} and {reads}");
    }
}

#[test]
fn what_is_read_now_and_then_is_counted_exactly() {
    let keys = HotKeys::with_seed(2, SEED);
    for _ in 0..3 {
        keys.note_id("often");
    }
    keys.note_ids(["once", "often"].into_iter());
    keys.note_domain("example.com");
    let exact = |key: &str, reads| HotKey { key: key.into(), reads, error: 0 };
    let Hottest { ids, domains, window } = keys.hottest(20);
    assert_eq!(ids, [exact("often", 4), exact("once", 1)]);
    assert_eq!(domains, [exact("example.com", 1)]);
    assert!(window <= SLICE);
    assert_eq!(keys.hottest(1).ids, [exact("often", 4)]);
    assert!(keys.hottest(0).ids.is_empty());
}

#[test]
fn a_key_that_nobody_reads_any_more_leaves_with_its_slice() {
    let stream = Stream::new(1, IDS, SEED);
    stream.cells[0].note("old", || 3);
    for slice in 4..3 + SLICES {
        stream.cells[0].note("new", || slice);
    }
    let keys = |slice| stream.hottest(slice, 20).into_iter().map(|each| (each.key, each.reads)).collect::<Vec<_>>();
    assert_eq!(keys(3 + SLICES - 1), [("new".to_owned(), SLICES - 1), ("old".to_owned(), 1)]);
    assert_eq!(keys(3 + SLICES), [("new".to_owned(), SLICES - 1)], "without a read in between");
    assert_eq!(keys(100), []);
    // An idle thread counts every key again, also those that come one by one.
    stream.cells[0].note("lone", || 101);
    assert_eq!(keys(101), [("lone".to_owned(), 1)]);
}

#[test]
fn a_thread_that_was_busy_counts_every_key_again_when_it_is_idle() {
    let stream = Stream::new(1, IDS, SEED);
    for number in 0..200_000_u32 {
        stream.cells[0].note(&key(number % 100), || 0);
    }
    assert!(!stream.cells[0].window.lock().counts_all(), "keys are left out under load");
    assert_eq!(stream.hottest(10, 20), []);
    stream.cells[0].note("lone", || 10);
    assert_eq!(stream.hottest(10, 20), [HotKey { key: "lone".into(), reads: 1, error: 0 }]);
}

#[test]
fn a_batch_counts_like_its_members_one_by_one() {
    let (one_by_one, batches) = (Stream::new(1, IDS, SEED), Stream::new(1, IDS, SEED));
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut left = 200_000_usize;
    while left > 0 {
        let size = random.random_range(1..=1000.min(left));
        let keys: Vec<_> = (0..size).map(|_| key(random.random_range(0..200))).collect();
        keys.iter().for_each(|key| one_by_one.cells[0].note(key, || 0));
        batches.cells[0].note_all(keys.iter().map(String::as_str), || 0);
        left -= size;
    }
    let hottest = one_by_one.hottest(0, 100);
    assert!(!hottest.is_empty());
    assert_eq!(hottest, batches.hottest(0, 100));
}

#[test]
fn memory_stays_bounded_however_many_keys_are_read_once() {
    let stream = Stream::new(1, IDS, SEED);
    for slice in 0..2 * SLICES {
        for number in 0..50_000_u32 {
            stream.cells[0].note(&format!("{slice}-{number}"), || slice);
        }
    }
    let parts = stream.cells[0].parts(2 * SLICES - 1);
    assert_eq!(parts.len(), SLICES as usize);
    assert!(parts.iter().all(|part| part.leaders.keys.len() <= 256));
}
