//! Pages and their tokens: ListProfiles, LookupProfilesByEmail, QueryProfilesByDomain, ListDomains.

use std::collections::BTreeSet;

use profilestore::pb::*;
use tonic::Code;

use crate::common::server::TestServer;
use crate::*;

async fn many(client: &mut Client, count: usize) {
    for number in 0..count {
        create(client, profile(&format!("user-{number:04}"), &format!("u{number:04}@a.example"))).await;
    }
}

fn query(domain: &str, include_subdomains: bool, page_size: i32, page_token: &str) -> QueryProfilesByDomainRequest {
    QueryProfilesByDomainRequest {
        domain: domain.into(),
        include_subdomains,
        page_size,
        page_token: page_token.into(),
        read_mask: None,
    }
}

/// All ids of a query, page by page.
async fn query_all(client: &mut Client, domain: &str, include_subdomains: bool, page_size: i32) -> Vec<String> {
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let request = query(domain, include_subdomains, page_size, &token);
        let page = client.query_profiles_by_domain(request).await.unwrap().into_inner();
        assert!(page.profiles.len() <= page_size as usize);
        found.extend(ids(&page.profiles));
        if page.next_page_token.is_empty() {
            return found;
        }
        token = page.next_page_token;
    }
}

#[tokio::test]
async fn page_sizes_have_a_default_and_a_bound() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    many(&mut client, 1001).await;
    for (page_size, expected) in [(0, 50), (7, 7), (1000, 1000), (1001, 1000), (i32::MAX, 1000)] {
        let request = ListProfilesRequest { page_size, ..Default::default() };
        let page = client.list_profiles(request).await.unwrap().into_inner();
        assert_eq!(page.profiles.len(), expected);
        assert!(!page.next_page_token.is_empty());
    }
}

#[tokio::test]
async fn pages_together_have_everything_once_and_in_order() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    many(&mut client, 25).await;
    let expected: Vec<_> = (0..25).map(|number| format!("user-{number:04}")).collect();
    for page_size in [1, 3, 5, 24, 25, 26] {
        assert_eq!(query_all(&mut client, "a.example", false, page_size).await, expected, "{page_size}");
    }
}

#[tokio::test]
async fn a_query_with_subdomains_is_ordered_label_by_label() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for (id, email) in [
        ("1", "x@a-b.example"),
        ("2", "x@b.a.example"),
        ("3", "x@a.example"),
        ("4", "x@example"),
        ("5", "x@badexample"),
        ("6", "b@a.example"),
        ("7", "x@c.b.a.example"),
    ] {
        create(&mut client, profile(id, email)).await;
    }
    for page_size in [1, 2, 10] {
        assert_eq!(query_all(&mut client, "example", true, page_size).await, ["4", "6", "3", "2", "7", "1"]);
        assert_eq!(query_all(&mut client, "a.example", true, page_size).await, ["6", "3", "2", "7"]);
        assert_eq!(query_all(&mut client, "a.example", false, page_size).await, ["6", "3"]);
    }
}

#[tokio::test]
async fn a_page_is_bounded_by_bytes_and_fits_a_message() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for number in 0..300 {
        let attributes = [("v".into(), "x".repeat(15_000))].into();
        let email = format!("u{number:04}@a.example");
        create(&mut client, Profile { attributes, ..profile(&format!("user-{number:04}"), &email) }).await;
    }
    // A client with gRPC's customary limit of 4 MiB.
    let mut usual = profile_service_client::ProfileServiceClient::new(server.channel());
    let page = usual.query_profiles_by_domain(query("a.example", false, 1000, "")).await.unwrap().into_inner();
    assert!((200..300).contains(&page.profiles.len()), "{}", page.profiles.len());
    let request = query("a.example", false, 1000, &page.next_page_token);
    let rest = usual.query_profiles_by_domain(request).await.unwrap().into_inner();
    assert_eq!(page.profiles.len() + rest.profiles.len(), 300);
    assert_eq!(rest.next_page_token, "");
}

#[tokio::test]
async fn a_token_survives_the_delete_of_what_it_points_at_and_another_page_size() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    many(&mut client, 6).await;
    let page = client.query_profiles_by_domain(query("a.example", false, 3, "")).await.unwrap().into_inner();
    for id in ["user-0002", "user-0003"] {
        client.delete_profile(DeleteProfileRequest { id: id.into(), ..Default::default() }).await.unwrap();
    }
    let request = query("A.example.", false, 1000, &page.next_page_token);
    let rest = client.query_profiles_by_domain(request).await.unwrap().into_inner();
    assert_eq!(ids(&rest.profiles), ["user-0004", "user-0005"]);
}

#[tokio::test]
async fn a_token_belongs_to_the_arguments_of_its_call() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    many(&mut client, 3).await;
    let first = query("a.example", true, 1, "");
    let token = client.query_profiles_by_domain(first.clone()).await.unwrap().into_inner().next_page_token;
    assert!(!token.is_empty());

    let with_token = QueryProfilesByDomainRequest { page_token: token.clone(), ..first };
    for foreign in [
        QueryProfilesByDomainRequest { domain: "example".into(), ..with_token.clone() },
        QueryProfilesByDomainRequest { include_subdomains: false, ..with_token.clone() },
        QueryProfilesByDomainRequest { read_mask: mask(&["id"]), ..with_token.clone() },
        QueryProfilesByDomainRequest { page_token: token.to_lowercase(), ..with_token.clone() },
        QueryProfilesByDomainRequest { page_token: format!("{token}A"), ..with_token.clone() },
        QueryProfilesByDomainRequest { page_token: token[1..].into(), ..with_token.clone() },
    ] {
        let answer = client.query_profiles_by_domain(foreign).await;
        let status = assert_refused(answer, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
        assert_eq!(fields(&status), ["page_token"]);
    }
    let request = ListProfilesRequest { page_token: token.clone(), ..Default::default() };
    assert_refused(client.list_profiles(request).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    let request = ListDomainsRequest { page_token: token.clone(), ..Default::default() };
    assert_refused(client.list_domains(request).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    let request =
        LookupProfilesByEmailRequest { email: "u0000@a.example".into(), page_token: token, ..Default::default() };
    assert_refused(client.lookup_profiles_by_email(request).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");

    let next = client.query_profiles_by_domain(with_token).await.unwrap().into_inner();
    assert_eq!(ids(&next.profiles), ["user-0001"]);
}

#[tokio::test]
async fn lists_and_lookups_go_on_by_token_too() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for id in ["c", "a", "b"] {
        create(&mut client, profile(id, "shared@a.example")).await;
    }
    let (mut token, mut listed) = (String::new(), Vec::new());
    loop {
        let request = ListProfilesRequest { page_size: 2, page_token: token, read_mask: None };
        let page = client.list_profiles(request).await.unwrap().into_inner();
        listed.extend(ids(&page.profiles));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ["a", "b", "c"]);

    let request =
        LookupProfilesByEmailRequest { email: "shared@a.example".into(), page_size: 2, ..Default::default() };
    let page = client.lookup_profiles_by_email(request.clone()).await.unwrap().into_inner();
    assert_eq!(ids(&page.profiles), ["a", "b"]);
    let request = LookupProfilesByEmailRequest { page_token: page.next_page_token, ..request };
    let page = client.lookup_profiles_by_email(request).await.unwrap().into_inner();
    assert_eq!((ids(&page.profiles), page.next_page_token), (vec!["c".to_owned()], String::new()));
}

async fn domains(client: &mut Client, request: ListDomainsRequest) -> (Vec<(String, i64)>, String) {
    let page = client.list_domains(request).await.unwrap().into_inner();
    let domains = page.domains.into_iter().map(|summary| (summary.domain, summary.profile_count)).collect();
    (domains, page.next_page_token)
}

#[tokio::test]
async fn domains_are_listed_with_their_counts() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for (number, domain) in
        ["b.example", "a.example", "b.example", "x.a.example", "other", "b.example", "a.example"].iter().enumerate()
    {
        create(&mut client, profile(&number.to_string(), &format!("u@{domain}"))).await;
    }
    let in_order = [("a.example", 2), ("x.a.example", 1), ("b.example", 3), ("other", 1)];
    let named =
        |rows: &[(&str, i64)]| rows.iter().map(|(name, count)| (name.to_string(), *count)).collect::<Vec<_>>();
    assert_eq!(domains(&mut client, ListDomainsRequest::default()).await, (named(&in_order), String::new()));

    let below = ListDomainsRequest { parent_domain: "A.example".into(), ..Default::default() };
    assert_eq!(domains(&mut client, below).await.0, named(&in_order[..2]));

    let (mut paged, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListDomainsRequest { page_size: 1, page_token: token, ..Default::default() };
        let (page, next) = domains(&mut client, request).await;
        assert_eq!(page.len(), 1);
        paged.extend(page);
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, named(&in_order));
}

#[tokio::test]
async fn the_largest_domains_come_in_one_page() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    for number in 0..1100 {
        create(&mut client, profile(&format!("a{number}"), &format!("u@d{number}.example"))).await;
    }
    create(&mut client, profile("b", "v@d7.example")).await;
    for (page_size, expected) in [(0, 50), (3, 3), (5000, 1000)] {
        let request = ListDomainsRequest { page_size, order_by: " profile_count  desc".into(), ..Default::default() };
        let (page, token) = domains(&mut client, request).await;
        assert_eq!((page.len(), token.as_str()), (expected, ""));
        assert_eq!(page[0], ("d7.example".into(), 2));
        assert_eq!(page.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), expected);
    }
    let order = |order_by: &str, page_token: &str| ListDomainsRequest {
        order_by: order_by.into(),
        page_token: page_token.into(),
        ..Default::default()
    };
    assert_invalid(client.list_domains(order("profile_count", "")).await, &["order_by"]);
    let first = ListDomainsRequest { page_size: 1, ..Default::default() };
    let token = domains(&mut client, first).await.1;
    assert_invalid(client.list_domains(order("profile_count desc", &token)).await, &["page_token"]);
}
