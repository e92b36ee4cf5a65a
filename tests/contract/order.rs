//! What is in a scope, and in which order.

use profilestore::model::Domain;
use profilestore::store::{DomainCount, DomainOrder, Scope, Store};

use crate::common::profiles::*;
use crate::common::stacks::Stack;

pub async fn all_profiles_come_in_the_order_of_their_ids<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let in_order = ["!", "10", "9", "A", "Z", "a", "a!", "aa", "ab", "b", "~"];
    let mut writes: Vec<_> = in_order.iter().map(|key| put(key, "", "")).collect();
    writes.reverse();
    writes.swap(2, 7);
    commit(store, writes).await;
    assert_eq!(listed(store, &Scope::All).await, in_order);
}

pub async fn labels_are_compared_whole<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let domains = ["example.com", "badexample.com", "example.com.evil.net", "example.co", "a.example.com", "com"];
    commit(store, domains.iter().map(|domain| put(domain, &format!("x@{domain}"), "")).collect()).await;
    assert_eq!(listed(store, &subtree("example.com")).await, ["example.com", "a.example.com"]);
    assert_eq!(listed(store, &scope("example.com")).await, ["example.com"]);
    assert_eq!(listed(store, &subtree("com")).await, ["com", "badexample.com", "example.com", "a.example.com"]);
    assert_eq!(listed(store, &subtree("xample.com")).await, [""; 0]);
    assert_eq!(listed(store, &subtree("co")).await, ["example.co"]);
    for (name, profiles) in [("example.com", 2), ("com", 4), ("xample.com", 0), ("le.com", 0), ("net", 1)] {
        assert_eq!(store.count(&subtree(name)).await.unwrap(), profiles, "{name}");
    }
}

/// Domains in the order of the index: label by label from the right, each before what is below it.
const IN_ORDER: [&str; 7] =
    ["badexample", "example", "a.example", "b.a.example", "a-b.example", "x.a-b.example", "ab.example"];

pub async fn order_is_label_by_label<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    commit(store, IN_ORDER.iter().rev().map(|domain| put(domain, &format!("x@{domain}"), "")).collect()).await;
    assert_eq!(listed(store, &subtree("example")).await, IN_ORDER[1..]);
    assert_eq!(listed(store, &subtree("a.example")).await, IN_ORDER[2..4]);
    assert_eq!(listed(store, &subtree("a-b.example")).await, IN_ORDER[4..6]);
}

pub async fn a_domain_excludes_its_subdomains<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    commit(store, IN_ORDER.iter().map(|domain| put(domain, &format!("x@{domain}"), "")).collect()).await;
    for domain in IN_ORDER {
        assert_eq!(listed(store, &scope(domain)).await, [domain]);
        assert_eq!(store.count(&scope(domain)).await.unwrap(), 1);
    }
}

pub async fn within_a_domain_order_is_local_part_then_id<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let writes = [("4", "b"), ("1", "b"), ("9", "a"), ("0", "c"), ("2", "B"), ("3", "ab"), ("8", "a+x")];
    commit(store, writes.iter().map(|(id, local)| put(id, &format!("{local}@x.example"), "")).collect()).await;
    let in_order = ["9", "8", "3", "1", "2", "4", "0"];
    assert_eq!(listed(store, &scope("x.example")).await, in_order);
    assert_eq!(listed(store, &subtree("x.example")).await, in_order);
}

pub async fn an_email_finds_exactly_its_profiles_in_the_order_of_ids<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let writes = [
        ("c", "ada@x.example"),
        ("a", "Ada@X.example"),
        ("b", "ada@x.example."),
        ("longer", "adam@x.example"),
        ("shorter", "ad@x.example"),
        ("below", "ada@y.x.example"),
        ("quoted", "\"ada@x\"@x.example"),
    ];
    commit(store, writes.iter().map(|(id, address)| put(id, address, "")).collect()).await;
    assert_eq!(listed(store, &email("ADA@x.example")).await, ["a", "b", "c"]);
    assert_eq!(listed(store, &email("\"ada@x\"@x.example")).await, ["quoted"]);
    assert_eq!(listed(store, &email("a@x.example")).await, [""; 0]);
}

pub async fn a_profile_without_an_email_is_found_by_id_only<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    commit(store, vec![put("with", "x@y.example", ""), put("without", "", "")]).await;
    assert_eq!(listed(store, &Scope::All).await, ["with", "without"]);
    assert_eq!(listed(store, &subtree("example")).await, ["with"]);
    assert_eq!(store.list_domains(None, DomainOrder::Index, None, 10).await.unwrap().domains.len(), 1);
}

pub async fn a_changed_email_moves_the_profile<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let scopes =
        [scope("x.example"), scope("y.example"), email("a@x.example"), email("a@y.example"), subtree("example")];
    for (address, found) in [
        ("a@x.example", [1, 0, 1, 0, 1]),
        ("a@y.example", [0, 1, 0, 1, 1]),
        ("b@y.example", [0, 1, 0, 0, 1]),
        ("", [0, 0, 0, 0, 0]),
        ("a@x.example", [1, 0, 1, 0, 1]),
    ] {
        store_one(store, put("a", address, "")).await;
        for (scope, found) in scopes.iter().zip(found) {
            assert_eq!(listed(store, scope).await.len(), found, "{address:?} in {scope:?}");
            assert_eq!(store.count(scope).await.unwrap(), found as u64, "{address:?} in {scope:?}");
        }
    }
}

fn names(domains: &[DomainCount]) -> Vec<(&str, u64)> {
    domains.iter().map(|count| (count.domain.as_str(), count.profiles)).collect()
}

pub async fn domains_come_label_by_label<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    // Without profiles of its own, `deep.org` is not listed, only what is below it.
    let with_deep: Vec<_> = IN_ORDER.iter().copied().chain(["very.deep.org"]).collect();
    commit(store, with_deep.iter().rev().map(|domain| put(domain, &format!("x@{domain}"), "")).collect()).await;
    let list = |parent: Option<Domain>| async move {
        let page = store.list_domains(parent.as_ref(), DomainOrder::Index, None, 100).await.unwrap();
        assert_eq!(page.next, None);
        page.domains.into_iter().map(|count| count.domain.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list(None).await, with_deep);
    assert_eq!(list(Some(domain("a.example"))).await, ["a.example", "b.a.example"]);
    assert_eq!(list(Some(domain("org"))).await, ["very.deep.org"]);
    assert_eq!(list(Some(domain("xample"))).await, [""; 0]);
    commit(store, vec![delete("a.example")]).await;
    assert_eq!(list(Some(domain("a.example"))).await, ["b.a.example"]);
}

pub async fn the_largest_domains_come_first_and_ties_in_index_order<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    let sizes = [("a.example", 2), ("example", 1), ("b.a.example", 3), ("zzz", 2), ("ab.example", 2), ("aaa", 1)];
    for (domain, size) in sizes {
        commit(store, (0..size).map(|n| put(&format!("{domain}{n}"), &format!("{n}@{domain}"), "")).collect()).await;
    }
    let page = store.list_domains(None, DomainOrder::LargestFirst, None, 5).await.unwrap();
    let largest = [("b.a.example", 3), ("a.example", 2), ("ab.example", 2), ("zzz", 2), ("aaa", 1)];
    assert_eq!(names(&page.domains), largest);
    assert_eq!(page.next, None, "there is no next page of the largest");
    let below = store.list_domains(Some(&domain("example")), DomainOrder::LargestFirst, None, 2).await.unwrap();
    assert_eq!(names(&below.domains), [("b.a.example", 3), ("a.example", 2)]);
}

pub async fn a_page_of_domains_goes_on_after_its_cursor<K: Stack>() {
    let stack = K::open(Default::default()).await;
    let store = stack.store();
    commit(store, IN_ORDER.iter().map(|domain| put(domain, &format!("x@{domain}"), "")).collect()).await;
    for (parent, expected) in [(None, &IN_ORDER[..]), (Some(domain("example")), &IN_ORDER[1..])] {
        for size in 1..=8 {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let order = DomainOrder::Index;
                let page = store.list_domains(parent.as_ref(), order, after.as_ref(), size).await.unwrap();
                assert!(page.domains.len() <= size);
                found.extend(page.domains.into_iter().map(|count| count.domain.to_string()));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "by {size}");
        }
    }
}
