use std::collections::HashSet;

use super::*;
use crate::model::{
    Canonicalization, CommitTime, Domain, Draft, Etag, Incarnation, Profile, ProfileId, Record, Revision,
};

fn change(before: &str, after: Option<&str>) -> Change {
    let record = |email: &str| {
        let profile = Profile { id: "a".into(), email: email.into(), ..Profile::default() };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
        let time = CommitTime::default();
        let etag = Etag::new(Incarnation(0), Revision(1));
        Record::from_draft(&draft, &etag, time.to_timestamp(), time, Revision(1))
    };
    Change {
        revision: Revision(1),
        id: ProfileId::parse("a", "id").unwrap(),
        record: after.map(record),
        previous_bytes: Some(1),
        previous_revision: Some(Revision(0)),
        previous_index_key: record(before).index_key(),
        trace: None,
    }
}

fn scope(domain: &str, include_subdomains: bool) -> Scope {
    Scope::domain(&Domain::parse(domain, "domain").unwrap(), include_subdomains)
}

fn answer_of(cache: &PageCache, request: &[u8]) -> Option<Bytes> {
    cache.get(request).map(|page| page.answer)
}

/// What a page says about its domain; the cache takes it as it is.
fn anywhere() -> Domain {
    Domain::parse("anywhere.example", "domain").unwrap()
}

/// Asks twice, so that the page is kept.
fn keep(cache: &PageCache, request: &[u8], scope: &Scope, answer: &Bytes) {
    for _ in 0..2 {
        cache.fill(request, cache.ticket(scope).unwrap(), &anywhere(), answer);
    }
}

const ANSWER: Bytes = Bytes::from_static(b"page");

#[test]
fn a_page_that_is_asked_for_again_is_kept() {
    let cache = PageCache::new(1 << 20);
    let scope = scope("a.example", false);
    cache.fill(b"a", cache.ticket(&scope).unwrap(), &anywhere(), &ANSWER);
    assert_eq!(answer_of(&cache, b"a"), None, "asked for once");
    cache.fill(b"a", cache.ticket(&scope).unwrap(), &anywhere(), &ANSWER);
    assert_eq!((answer_of(&cache, b"a"), answer_of(&cache, b"b")), (Some(ANSWER), None));
    let figures = cache.figures();
    assert_eq!((figures.pages, figures.hits, figures.misses), (1, 1, 2));
    assert_eq!(figures.bytes, cache.sizes().1 as u64);
    cache.close();
    keep(&cache, b"a", &scope, &ANSWER);
    assert_eq!((answer_of(&cache, b"a"), cache.sizes()), (None, (0, 0)));
}

/// A cache whose hashes give slots of their own to these scopes and to all that the change is about: scopes that share one
/// by chance would lose each other's pages.
fn without_shared_slots(scopes: &[(&str, bool)], change: &Change) -> PageCache {
    let prefixes: HashSet<_> = [change.previous_index_key.as_ref().map(IndexKey::as_bytes), {
        change.record.as_ref().map(Record::index_key_bytes)
    }]
    .into_iter()
    .flatten()
    .flat_map(IndexKey::domain_prefixes)
    .map(<[u8]>::to_vec)
    .chain(scopes.iter().map(|(domain, below)| scope(domain, *below).key_prefix()))
    .collect();
    let caches = std::iter::repeat_with(|| PageCache::new(1 << 20));
    let has_own = |cache: &PageCache| {
        prefixes.iter().map(|prefix| cache.slot(prefix)).collect::<HashSet<_>>().len() == prefixes.len()
    };
    caches.take(1000).find(has_own).unwrap()
}

/// For each change, the scopes of which pages may no longer be answered; of the others they stay.
#[test]
fn a_change_ends_the_pages_of_all_scopes_that_it_is_about() {
    let scopes =
        [("a.example", false), ("a.example", true), ("example", true), ("x.a.example", false), ("b.example", true)];
    for (before, after, ended) in [
        ("u@a.example", Some("u@a.example"), [true, true, true, false, false]),
        ("u@a.example", None, [true, true, true, false, false]),
        ("u@x.a.example", Some("v@x.a.example"), [false, true, true, true, false]),
        ("u@a.example", Some("u@b.example"), [true, true, true, false, true]),
        ("", Some("u@b.example"), [false, false, true, false, true]),
        ("", None, [false; 5]),
    ] {
        let changes = [change(before, after)];
        let cache = without_shared_slots(&scopes, &changes[0]);
        let request = |place: usize| [place as u8];
        for (place, (domain, below)) in scopes.iter().enumerate() {
            keep(&cache, &request(place), &scope(domain, *below), &ANSWER);
        }
        let left: Vec<_> = (0..scopes.len()).map(|place| answer_of(&cache, &request(place)).is_none()).collect();
        assert_eq!(left, [false; 5]);
        let tickets: Vec<_> = scopes.iter().map(|(domain, below)| cache.ticket(&scope(domain, *below))).collect();
        cache.announce(&changes);
        for (place, ended) in ended.into_iter().enumerate() {
            let (domain, below) = scopes[place];
            if ended {
                assert_eq!(answer_of(&cache, &request(place)), None, "{before} {after:?} {domain}");
                assert_eq!(cache.ticket(&scope(domain, below)), None, "while it is under way");
            }
        }
        cache.settle(&changes);
        for place in (0..scopes.len()).filter(|place| !ended[*place]) {
            assert_eq!(answer_of(&cache, &request(place)), Some(ANSWER), "{before} {after:?} {}", scopes[place].0);
        }
        for (place, ended) in ended.into_iter().enumerate().filter(|(_, ended)| *ended) {
            let (domain, below) = scopes[place];
            cache.fill(&request(place), tickets[place].unwrap(), &anywhere(), &ANSWER);
            assert_eq!(answer_of(&cache, &request(place)), None, "read before the change: {domain} {ended}");
            keep(&cache, &request(place), &scope(domain, below), &ANSWER);
            assert_eq!(answer_of(&cache, &request(place)), Some(ANSWER));
        }
    }
}

#[test]
fn pages_are_bounded_and_the_one_used_longest_ago_goes() {
    let cache = PageCache::new(SHARDS * 8192);
    let scope = scope("a.example", false);
    let answer = Bytes::from(vec![0; 1000]);
    keep(&cache, b"often", &scope, &answer);
    for number in 0..2000_u32 {
        keep(&cache, &number.to_be_bytes(), &scope, &answer);
        assert!(answer_of(&cache, b"often").is_some());
        assert!(cache.sizes().1 <= SHARDS * 8192);
    }
    assert!(cache.sizes().0 > SHARDS, "{:?}", cache.sizes());
    keep(&cache, b"large", &scope, &Bytes::from(vec![0; 8192 / LARGEST_SHARE]));
    assert_eq!(answer_of(&cache, b"large"), None);
    let long = [0; MAX_REQUEST_BYTES + 1];
    keep(&cache, &long, &scope, &answer);
    assert_eq!(answer_of(&cache, &long), None);
    let nothing = PageCache::new(0);
    keep(&nothing, b"a", &scope, &ANSWER);
    assert_eq!(nothing.sizes(), (0, 0));
}
