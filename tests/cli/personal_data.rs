//! What a server tells about itself (its log at every level, its traces, its metrics, its pages) never tells about
//! a profile.

use std::collections::BTreeSet;

use profilestore::pb::admin_service_client::AdminServiceClient;
use profilestore::pb::*;
use tonic::Request;

use crate::otlp_receiver::{Manner, Observed, Receiver};

/// Parts of e-mails, names and attributes that occur nowhere else.
const SECRETS: [&str; 8] = [
    "zyxmail-local",
    "zyxdomain",
    "Zyx Q. Displayname",
    "zyxattributekey",
    "zyxattributevalue",
    "zyxbadmail",
    "zyxlookup",
    "zyxbroken",
];

const CONTEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn secret_profile(number: usize) -> Profile {
    Profile {
        id: format!("subject-{number}"),
        email: format!("zyxmail-local.{number}@zyxdomain-{number}.example"),
        display_name: format!("Zyx Q. Displayname {number}"),
        attributes: [(format!("zyxattributekey{number}"), format!("zyxattributevalue{number}"))].into(),
        ..Default::default()
    }
}

/// Calls of every kind (a test holds this to the server's figures), good and bad, with what must not be told in every place that takes it.
async fn broad_run(server: &Observed) {
    let mut profiles = server.profiles();
    for number in 0..20 {
        let request = CreateProfileRequest { profile: Some(secret_profile(number)), ..Default::default() };
        profiles.create_profile(request.clone()).await.unwrap();
        profiles.create_profile(request).await.unwrap_err();
    }
    let start = Some(watch_profiles_request::Start::StartAt(WatchStart::Oldest as i32));
    let mut watch = profiles
        .watch_profiles(WatchProfilesRequest { start, domain: "zyxdomain-3.example".into(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    while watch.message().await.unwrap().unwrap().events.is_empty() {}
    let bad = Profile { id: "zyxbroken id@@".into(), email: "zyxbadmail@@zyxdomain".into(), ..secret_profile(1) };
    for profile in [bad.clone(), Profile { id: "ok".into(), ..bad }] {
        let request = CreateProfileRequest { profile: Some(profile), ..Default::default() };
        profiles.create_profile(request).await.unwrap_err();
    }
    let mut profile = secret_profile(2);
    profile.display_name = "Zyx Q. Displayname changed".into();
    profile.etag = "zyxbroken-etag".into();
    let update = UpdateProfileRequest { profile: Some(profile.clone()), ..Default::default() };
    profiles.update_profile(update).await.unwrap_err();
    profile.etag.clear();
    let update_mask =
        Some(prost_types::FieldMask { paths: vec!["attributes.zyxattributekey9".into(), "zyxbroken".into()] });
    let update = UpdateProfileRequest { profile: Some(profile.clone()), update_mask, ..Default::default() };
    profiles.update_profile(update).await.unwrap_err();
    profiles.update_profile(UpdateProfileRequest { profile: Some(profile), ..Default::default() }).await.unwrap();
    for email in ["zyxmail-local.4@zyxdomain-4.example", "zyxlookup@zyxdomain.example", "zyxbadmail@@x"] {
        let mut request = Request::new(LookupProfilesByEmailRequest { email: email.into(), ..Default::default() });
        // A state is looked at only beside a context.
        request.metadata_mut().insert("traceparent", CONTEXT.parse().unwrap());
        for header in ["x-request-id", "tracestate", "user-agent", "zyxbroken-header"] {
            request.metadata_mut().insert(header, "zyxlookup@zyxdomain=1".parse().unwrap());
        }
        let _ = profiles.lookup_profiles_by_email(request).await;
    }
    for domain in ["zyxdomain-5.example", "zyxdomain..", "example"] {
        let query =
            QueryProfilesByDomainRequest { domain: domain.into(), include_subdomains: true, ..Default::default() };
        let _ = profiles.query_profiles_by_domain(query).await;
        let _ =
            profiles.count_profiles(CountProfilesRequest { domain: domain.into(), include_subdomains: true }).await;
    }
    let _ = profiles.list_domains(ListDomainsRequest::default()).await.unwrap();
    profiles
        .list_profiles(ListProfilesRequest { page_token: "zyxbroken".into(), ..Default::default() })
        .await
        .unwrap_err();
    for ids in [vec!["subject-1".to_owned(), "nobody".into()], vec!["zyxbroken id".into()]] {
        let _ = profiles.batch_get_profiles(BatchGetProfilesRequest { ids, ..Default::default() }).await;
    }
    let chunk = ImportProfilesRequest {
        profiles: (20..40).map(secret_profile).chain([secret_profile(1)]).collect(),
        ..Default::default()
    };
    let mut import = profiles.import_profiles(futures_util::stream::iter([chunk])).await.unwrap().into_inner();
    while import.message().await.unwrap().is_some() {}
    let mut export = profiles.export_profiles(ExportProfilesRequest::default()).await.unwrap().into_inner();
    while export.message().await.unwrap().is_some() {}
    let delete = DeleteProfileRequest { id: "subject-7".into(), ..Default::default() };
    profiles.delete_profile(delete).await.unwrap();
    for id in ["subject-8", "zyxbroken id", "nobody"] {
        let _ = profiles.get_profile(GetProfileRequest { id: id.into(), ..Default::default() }).await;
    }
    let write = |profile| ProfileWrite {
        write: Some(profile_write::Write::Create(CreateProfileRequest {
            profile: Some(profile),
            ..Default::default()
        })),
    };
    for writes in [vec![write(secret_profile(50)), write(secret_profile(51))], vec![write(secret_profile(50))]] {
        let _ = profiles.batch_write_profiles(BatchWriteProfilesRequest { writes, ..Default::default() }).await;
    }
    let start = Some(watch_profiles_request::Start::ResumeToken("zyxbroken".into()));
    profiles.watch_profiles(WatchProfilesRequest { start, ..Default::default() }).await.unwrap_err();
    let mut admin = AdminServiceClient::new(server.channel());
    let mut backup = admin.backup(BackupRequest::default()).await.unwrap().into_inner();
    while backup.message().await.unwrap().is_some() {}
    admin.get_status(GetStatusRequest::default()).await.unwrap();
    let _ = admin.get_hot_keys(GetHotKeysRequest::default()).await;
    let mut verify = admin.verify(VerifyRequest::default()).await.unwrap().into_inner();
    while verify.message().await.unwrap().is_some() {}
    let no_such = "/zyxbroken.Service/zyxlookup".parse().unwrap();
    let mut grpc = tonic::client::Grpc::new(server.channel());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<GetProfileRequest, GetProfileRequest>::default();
    grpc.unary(Request::new(GetProfileRequest::default()), no_such, codec).await.unwrap_err();
}

#[test]
fn nothing_that_a_server_tells_about_itself_names_what_is_in_a_profile() {
    let receiver = Receiver::start(Manner::Prompt);
    let endpoint = receiver.endpoint();
    let mut server = Observed::start(&[
        ("PROFILESTORE__OBSERVE__OTLP_ENDPOINT", &endpoint),
        ("PROFILESTORE__OBSERVE__TRACE_RATIO", "1"),
        ("PROFILESTORE__OBSERVE__SLOW_REQUEST", "1ns"),
        // Headers that a client sends are shown by the HTTP/2 library at lower levels than info: none of ours is there.
        ("PROFILESTORE__LOG__FILTER", "debug,profilestore=trace"),
        // A publisher whose broker is not there, and that would send whole profiles.
        ("PROFILESTORE__PUBLISH__URL", "nats://zyxbroken:zyxlookup@127.0.0.1:1"),
        ("PROFILESTORE__PUBLISH__INCLUDE_PROFILE", "true"),
    ]);
    server.block_on(broad_run(&server));
    // The status page shows domains, which are not persons, and ids as tags.
    let mut status = String::new();
    crate::wait_until("the status page has what is read", || {
        status = server.admin("GET", "/status.json", "").1;
        status.contains("zyxdomain-")
    });
    assert!(!status.contains("subject-"), "{status}");
    for secret in SECRETS.into_iter().filter(|secret| *secret != "zyxdomain") {
        assert!(!status.contains(secret), "{secret} is on the status page: {status}");
    }
    let pages: Vec<_> = ["/metrics", "/livez", "/readyz", "/log/filter", "/", "/zyxbroken"]
        .iter()
        .map(|path| server.admin("GET", path, "").1)
        .collect();
    server.wait_for_line("publishing is delayed", |_| true);
    server.stop();
    let (log, traces) = (server.log_text(), receiver.text());
    // They say a lot, so that there is something to find.
    assert!(
        server.log().len() > 50 && receiver.spans().len() > 100,
        "{} {}",
        server.log().len(),
        receiver.spans().len()
    );
    for (service, calls) in [("ProfileService", 14), ("AdminService", 4)] {
        let made: BTreeSet<_> = pages[0]
            .lines()
            .filter(|line| line.starts_with("grpc_server_started_total{") && line.contains(service))
            .filter(|line| !line.ends_with(" 0"))
            .map(|line| line.split("grpc_method=").nth(1).unwrap().split('"').nth(1).unwrap())
            .collect();
        assert_eq!(made.len(), calls, "calls of every kind were made: {made:?}");
    }
    let look_ups = receiver.spans().into_iter().filter(|span| span.name.ends_with("/LookupProfilesByEmail"));
    assert!(look_ups.count() >= 3, "those with a state are among the spans");
    for secret in SECRETS {
        // What leaves this process encoded in hexadecimal or as bytes is looked for as well.
        let bytes = format!("{:?}", secret.as_bytes());
        for form in [secret, bytes.trim_matches(['[', ']'])] {
            for (what, text) in [("the log", &log), ("the traces", &traces)]
                .into_iter()
                .chain(pages.iter().map(|page| ("a page", page)))
            {
                let found = text.lines().find(|line| line.contains(form));
                assert!(found.is_none(), "{secret} is in {what}: {}", found.unwrap_or_default());
            }
        }
    }
}
