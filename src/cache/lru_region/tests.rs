//! What stays and what goes, and the bounds of a region.

use super::*;

const TTL: Duration = Duration::from_secs(60);
const COST: usize = 2 + 100 + ENTRY_OVERHEAD_BYTES;

fn id(number: usize) -> ProfileId {
    ProfileId::parse(&format!("{number:02}"), "id").unwrap()
}

fn insert(region: &mut LruRegion<usize>, number: usize, bytes: usize, now: Instant) -> PushedOut {
    region.insert(&id(number), number, bytes, now, TTL)
}

fn held(region: &LruRegion<usize>) -> Vec<usize> {
    (0..20).filter(|number| region.peek(id(*number).as_str()).is_some()).collect()
}

#[test]
fn the_longest_unused_makes_room_when_bytes_run_out() {
    let mut region = LruRegion::new(3 * COST, 100);
    let start = Instant::now();
    (0..3).for_each(|number| assert_eq!(insert(&mut region, number, 100, start), PushedOut::default()));
    assert_eq!(region.bytes(), 3 * COST);
    let later = start + Duration::from_secs(2);
    assert_eq!(region.get("00", later), Found::Live(0, Duration::from_secs(2)));
    let pushed_out = insert(&mut region, 3, 100, later);
    assert_eq!(pushed_out, PushedOut { evicted: 1, evicted_age: Duration::from_secs(2), expired: 0 });
    assert_eq!(held(&region), [0, 2, 3]);
    assert_eq!(insert(&mut region, 4, 101, later).evicted, 2, "one byte more costs one more victim");
    assert_eq!(region.bytes(), 2 * COST + 1);
}

#[test]
fn the_number_of_entries_is_bounded_too() {
    let mut region = LruRegion::new(usize::MAX, 2);
    let now = Instant::now();
    for number in 0..9 {
        insert(&mut region, number, 0, now);
    }
    assert_eq!((held(&region), region.len()), (vec![7, 8], 2));
}

#[test]
fn replacing_and_removing_keep_the_account() {
    let mut region = LruRegion::new(10 * COST, 100);
    let now = Instant::now();
    insert(&mut region, 1, 500, now);
    insert(&mut region, 1, 100, now);
    assert_eq!((region.len(), region.bytes()), (1, COST));
    assert!(region.remove("01", now) && !region.remove("01", now));
    assert_eq!((region.len(), region.bytes()), (0, 0));
    insert(&mut region, 1, 100, now);
    region.clear();
    assert_eq!((region.len(), region.bytes()), (0, 0));
}

#[test]
fn what_is_larger_than_the_region_is_left_out_and_pushes_nothing_out() {
    let mut region = LruRegion::new(2 * COST, 100);
    let now = Instant::now();
    insert(&mut region, 1, 100, now);
    insert(&mut region, 2, 100, now);
    assert_eq!(insert(&mut region, 2, 10_000, now), PushedOut::default());
    assert_eq!(held(&region), [1], "and its former value is gone");
    let mut nothing = LruRegion::new(usize::MAX, 0);
    insert(&mut nothing, 1, 0, now);
    assert_eq!(nothing.len(), 0);
}

#[test]
fn an_entry_ends_with_its_time() {
    let mut region = LruRegion::new(10 * COST, 100);
    let start = Instant::now();
    insert(&mut region, 1, 100, start);
    let last = start + TTL - Duration::from_nanos(1);
    assert!(matches!(region.get("01", last), Found::Live(1, _)));
    assert_eq!(region.get("01", start + TTL), Found::Expired);
    assert_eq!(region.get("01", start + TTL), Found::Nothing);
    insert(&mut region, 2, 100, start);
    assert!(!region.remove("02", start + TTL), "an expired entry does not count as there");
    insert(&mut region, 3, 100, start);
    assert_eq!(insert(&mut region, 4, 100, start + TTL).expired, 1, "inserts clear away what expired");
    region.insert(&id(5), 5, 0, start, Duration::MAX);
    assert!(matches!(region.get("05", start + TTL), Found::Live(5, _)));
}

fn get(region: &mut LruRegion<usize>, number: usize, now: Instant) -> bool {
    matches!(region.get(id(number).as_str(), now), Found::Live(found, _) if found == number)
}

/// Fills a region of 20 entries: 0 to 9 are asked for again, and others have pushed 10 to 19 out.
fn with_hot_set(now: Instant) -> LruRegion<usize> {
    let mut region = LruRegion::new(usize::MAX, 20);
    (0..20).for_each(|number| _ = insert(&mut region, number, 100, now));
    assert!((0..10).all(|number| get(&mut region, number, now)));
    (100..120).for_each(|number| _ = insert(&mut region, number, 100, now));
    assert_eq!(held(&region), (0..10).collect::<Vec<_>>());
    region
}

#[test]
fn a_scan_of_one_off_ids_leaves_the_hot_set_in_place() {
    let now = Instant::now();
    let mut region = with_hot_set(now);
    (1000..9000).for_each(|number| assert_eq!(insert(&mut region, number, 100, now).evicted, 1));
    assert_eq!(held(&region), (0..10).collect::<Vec<_>>());
    assert_eq!(region.len(), 20);
}

#[test]
fn one_offs_take_no_more_than_their_share_of_bytes_and_of_entries() {
    let now = Instant::now();
    let hot_set_stays = |mut region: LruRegion<usize>, hot_bytes, one_off_bytes| {
        (0..60).for_each(|number| _ = insert(&mut region, number, hot_bytes, now));
        assert!((0..60).all(|number| get(&mut region, number, now)));
        (1000..9000).for_each(|number| _ = insert(&mut region, number, one_off_bytes, now));
        (0..60).all(|number| region.peek(id(number).as_str()).is_some())
    };
    assert!(hot_set_stays(LruRegion::new(100 * COST, 1000), 100, 35 * COST), "large ones");
    assert!(hot_set_stays(LruRegion::new(usize::MAX, 100), 35 * COST, 0), "small ones");
}

#[test]
fn an_id_that_is_asked_for_again_soon_after_it_went_is_protected() {
    let now = Instant::now();
    let mut region = with_hot_set(now);
    insert(&mut region, 50, 100, now);
    (1000..1010).for_each(|number| _ = insert(&mut region, number, 100, now));
    assert_eq!(region.peek("50"), None, "it had its time on probation");
    insert(&mut region, 50, 100, now);
    (2000..2100).for_each(|number| _ = insert(&mut region, number, 100, now));
    assert!(get(&mut region, 50, now), "and now it stays through a scan");
}

#[test]
fn a_hot_entry_that_is_written_or_whose_time_is_over_comes_back_protected() {
    let start = Instant::now();
    let mut region = with_hot_set(start);
    let later = start + TTL;
    assert_eq!(region.get("03", later), Found::Expired);
    insert(&mut region, 3, 100, later);
    assert!(get(&mut region, 3, later));
    assert!(region.remove("03", later), "a write takes it out");
    insert(&mut region, 3, 200, later);
    (1000..1100).for_each(|number| _ = insert(&mut region, number, 100, later));
    assert_eq!(held(&region), [3]);
}

#[test]
fn yesterdays_hot_set_makes_room_for_todays() {
    let now = Instant::now();
    let mut region = with_hot_set(now);
    for round in 0..40 {
        for number in 10..20 {
            if !get(&mut region, number, now) {
                insert(&mut region, number, 100, now);
            }
        }
        insert(&mut region, 1000 + round, 100, now);
    }
    assert!((10..20).all(|number| region.peek(id(number).as_str()).is_some()));
}

#[test]
fn an_insert_moves_a_bounded_number_of_entries() {
    let now = Instant::now();
    let mut region = LruRegion::new(usize::MAX, 1000);
    (0..1000).for_each(|number| _ = insert(&mut region, number, 100, now));
    assert!((0..1000).all(|number| get(&mut region, number, now)));
    assert_eq!(insert(&mut region, 1000, 100, now).evicted, 1);
    assert_eq!((region.len(), region.protected.entries.len()), (1000, MOVED_PER_VICTIM - 1));
}

proptest::proptest! {
    #[test]
    fn bounds_and_account_hold_whatever_happens(
        calls in proptest::collection::vec((0..4u8, 0..40usize, 0..2000usize, 0..90u64), 1..400),
    ) {
        let (max_bytes, max_entries) = (5000, 12);
        let mut region = LruRegion::new(max_bytes, max_entries);
        let mut now = Instant::now();
        let mut newest = std::collections::HashMap::new();
        for (serial, (call, number, bytes, seconds)) in calls.into_iter().enumerate() {
            let key = id(number);
            match call {
                0 => _ = region.remove(key.as_str(), now),
                1 => now += Duration::from_secs(seconds / 10),
                2 => if let Found::Live(found, age) = region.get(key.as_str(), now) {
                    proptest::prop_assert_eq!(Some(&found), newest.get(&number));
                    proptest::prop_assert!(age < TTL);
                },
                _ => {
                    newest.insert(number, serial);
                    _ = region.insert(&key, serial, bytes, now, TTL);
                }
            }
            let lists = [&region.probation, &region.protected];
            for list in lists {
                let sum: usize = list.entries.iter().map(|(_, entry)| entry.bytes).sum();
                proptest::prop_assert_eq!(sum, list.bytes);
            }
            proptest::prop_assert!(!lists[0].entries.iter().any(|(id, _)| lists[1].entries.contains(id)));
            proptest::prop_assert!(region.bytes() <= max_bytes && region.len() <= max_entries);
        }
    }
}
