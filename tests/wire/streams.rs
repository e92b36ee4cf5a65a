//! ImportProfiles and ExportProfiles.

use profilestore::pb::*;
use tokio_stream::StreamExt;
use tonic::codegen::tokio_stream;
use tonic::{Code, Streaming};

use crate::common::server::TestServer;
use crate::*;

fn chunk(policy: ImportConflictPolicy, profiles: Vec<Profile>) -> ImportProfilesRequest {
    ImportProfilesRequest { conflict_policy: policy as i32, profiles }
}

async fn import(client: &mut Client, chunks: Vec<ImportProfilesRequest>) -> Vec<ImportProfilesResponse> {
    let answer = client.import_profiles(tokio_stream::iter(chunks)).await.unwrap().into_inner();
    answer.collect::<Result<_, _>>().await.unwrap()
}

async fn export(client: &mut Client, domain: &str, cursor: &str) -> Streaming<ExportProfilesResponse> {
    let request = ExportProfilesRequest { domain: domain.into(), include_subdomains: true, cursor: cursor.into() };
    client.export_profiles(request).await.unwrap().into_inner()
}

async fn exported(client: &mut Client, domain: &str, cursor: &str) -> (Vec<String>, Vec<String>) {
    let chunks: Vec<_> = export(client, domain, cursor).await.collect::<Result<_, _>>().await.unwrap();
    let ids = chunks.iter().flat_map(|chunk| ids(&chunk.profiles)).collect();
    (ids, chunks.into_iter().map(|chunk| chunk.cursor).collect())
}

/// Enough for several chunks of an export.
fn many(count: usize) -> Vec<Profile> {
    (0..count).map(|number| profile(&format!("u{number:05}"), &format!("u@d{}.example", number % 7))).collect()
}

fn error(index: i32, code: Code, reason: &str) -> (i32, i32, String) {
    (index, code as i32, reason.to_owned())
}

fn errors(acknowledgement: &ImportProfilesResponse) -> Vec<(i32, i32, String)> {
    acknowledgement.errors.iter().map(|error| (error.index, error.code, error.reason.clone())).collect()
}

#[tokio::test]
async fn every_chunk_is_acknowledged_in_order_with_what_became_of_its_profiles() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let chunks =
        many(1050).chunks(350).map(|profiles| chunk(ImportConflictPolicy::Fail, profiles.to_vec())).collect();
    let acknowledgements = import(&mut client, chunks).await;
    let counts: Vec<_> = acknowledgements.iter().map(|each| (each.chunk, each.written_count)).collect();
    assert_eq!(counts, [(0, 350), (1, 350), (2, 350)]);
    assert!(acknowledgements.iter().all(|each| each.errors.is_empty() && each.skipped_count == 0));
    let count = client.count_profiles(CountProfilesRequest::default()).await.unwrap().into_inner().count;
    assert_eq!(count, 1050);
}

#[tokio::test]
async fn a_profile_that_cannot_be_written_is_reported_and_the_stream_goes_on() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, profile("taken", "")).await;
    let too_large = Profile { attributes: [("x".into(), "y".repeat(17_000))].into(), ..profile("large", "") };
    let profiles = vec![
        profile("taken", "new@a.example"),
        profile("a b", ""),
        profile("good", "ada@a.example"),
        too_large,
        profile("mail", "nobody"),
        profile("good", "other@a.example"),
    ];
    let chunks =
        vec![chunk(ImportConflictPolicy::Unspecified, profiles), chunk(ImportConflictPolicy::Fail, Vec::new())];
    let acknowledgements = import(&mut client, chunks).await;
    let expected = [
        error(0, Code::AlreadyExists, "PROFILE_EXISTS"),
        error(1, Code::InvalidArgument, "INVALID_FIELD"),
        error(3, Code::InvalidArgument, "INVALID_FIELD"),
        error(4, Code::InvalidArgument, "INVALID_FIELD"),
        error(5, Code::AlreadyExists, "PROFILE_EXISTS"),
    ];
    assert_eq!(errors(&acknowledgements[0]), expected);
    assert!(acknowledgements[0].errors[1].message.starts_with("profiles[1].id "), "{acknowledgements:?}");
    assert_eq!((acknowledgements[0].written_count, acknowledgements[1].chunk), (1, 1));
    assert_eq!(acknowledgements.len(), 2);
    assert_eq!(all_ids(&mut client).await, ["good", "taken"]);
}

#[tokio::test]
async fn a_taken_id_is_skipped_or_replaced_as_the_first_chunk_says() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, profile("taken", "old@a.example")).await;
    let profiles = || vec![profile("taken", "new@a.example"), profile("free", "")];
    let skipped = import(&mut client, vec![chunk(ImportConflictPolicy::Skip, profiles())]).await;
    assert_eq!((skipped[0].written_count, skipped[0].skipped_count), (1, 1));
    let email = async |client: &mut Client| {
        let request = GetProfileRequest { id: "taken".into(), read_mask: None };
        client.get_profile(request).await.unwrap().into_inner().email
    };
    assert_eq!(email(&mut client).await, "old@a.example");
    // What a later chunk says does not count.
    let chunks =
        vec![chunk(ImportConflictPolicy::Replace, Vec::new()), chunk(ImportConflictPolicy::Fail, profiles())];
    let replaced = import(&mut client, chunks).await;
    assert_eq!((replaced[1].written_count, replaced[1].skipped_count, errors(&replaced[1]).len()), (2, 0, 0));
    assert_eq!(email(&mut client).await, "new@a.example");

    let unknown = ImportProfilesRequest { conflict_policy: 9, profiles: profiles() };
    let mut answer = client.import_profiles(tokio_stream::once(unknown)).await.unwrap().into_inner();
    assert_invalid(answer.message().await, &["conflict_policy"]);
}

#[tokio::test]
async fn an_acknowledgement_comes_before_the_next_chunk_is_sent() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let (sender, chunks) = tokio::sync::mpsc::channel(1);
    let chunks = tokio_stream::wrappers::ReceiverStream::new(chunks);
    let mut answer = client.import_profiles(chunks).await.unwrap().into_inner();
    for number in 0..3 {
        let next = profile(&number.to_string(), "");
        sender.send(chunk(ImportConflictPolicy::Fail, vec![next])).await.unwrap();
        let acknowledgement = answer.message().await.unwrap().unwrap();
        assert_eq!((acknowledgement.chunk, acknowledgement.written_count), (number, 1));
        // Acknowledged means written.
        assert_eq!(all_ids(&mut client).await.len() as i64, number + 1);
    }
    drop(sender);
    assert_eq!(answer.message().await.unwrap(), None);
}

#[tokio::test]
async fn of_two_profiles_with_one_id_the_later_one_stays() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let named = |name: usize| Profile { display_name: name.to_string(), ..profile("same", "") };
    let chunks = (0..40).map(|chunk_number| {
        chunk(ImportConflictPolicy::Replace, (0..50).map(|place| named(chunk_number * 50 + place)).collect())
    });
    import(&mut client, chunks.collect()).await;
    let request = GetProfileRequest { id: "same".into(), read_mask: None };
    assert_eq!(client.get_profile(request).await.unwrap().into_inner().display_name, "1999");
}

#[tokio::test]
async fn an_export_has_everything_once_and_goes_on_after_any_chunk() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let profiles = many(2500);
    let all_of_them = ids(&profiles);
    import(&mut client, vec![chunk(ImportConflictPolicy::Fail, profiles)]).await;
    let (found, cursors) = exported(&mut client, "", "").await;
    assert_eq!(found, all_of_them);
    assert!(cursors.len() >= 3);
    let mut chunks = export(&mut client, "", "").await;
    let mut before = Vec::new();
    for cursor in &cursors {
        before.extend(ids(&chunks.message().await.unwrap().unwrap().profiles));
        let (rest, _) = exported(&mut client, "", cursor).await;
        assert_eq!([before.clone(), rest].concat(), all_of_them);
    }
    // The last chunk's cursor leads to the end.
    assert_eq!(before, all_of_them);
    let (of_domain, _) = exported(&mut client, "d3.example", "").await;
    assert_eq!(of_domain.len(), 2500 / 7 + usize::from(2500 % 7 > 3));
    assert_eq!(exported(&mut client, "none.example", "").await, (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_cursor_of_another_export_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    create(&mut client, profile("a", "ada@a.example")).await;
    let (_, cursors) = exported(&mut client, "a.example", "").await;
    for (domain, cursor) in [("", cursors[0].as_str()), ("a.example", "x"), ("b.example", &cursors[0])] {
        let request =
            ExportProfilesRequest { domain: domain.into(), include_subdomains: true, cursor: cursor.into() };
        let status =
            assert_refused(client.export_profiles(request).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
        assert_eq!(fields(&status), ["cursor"]);
    }
    let request = ExportProfilesRequest { domain: "no domain".into(), ..Default::default() };
    assert_invalid(client.export_profiles(request).await, &["domain"]);
}

#[tokio::test]
async fn a_chunk_has_at_most_10_000_profiles_and_what_came_before_it_is_acknowledged() {
    let server = TestServer::start().await;
    let mut client = server.profiles();
    let good = chunk(ImportConflictPolicy::Fail, many(250));
    let bad = chunk(ImportConflictPolicy::Fail, vec![Profile::default(); 10_001]);
    let answer = client.import_profiles(tokio_stream::iter(vec![good, bad])).await.unwrap().into_inner();
    let answers: Vec<_> = answer.collect().await;
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0].as_ref().unwrap().written_count, 250);
    let refused = answers[1].as_ref().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("at most 10000"), "{refused:?}");
    let count = client.count_profiles(CountProfilesRequest::default()).await.unwrap().into_inner().count;
    assert_eq!(count, 250);
}

#[tokio::test]
async fn the_acknowledgement_of_a_chunk_that_is_refused_as_a_whole_fits_a_message() {
    let server = TestServer::start().await;
    let mut client = Client::new(server.channel()).max_decoding_message_size(4 * 1024 * 1024);
    let wrong = Profile { id: " ".into(), email: "x".into(), ..Profile::default() };
    let [acknowledgement] =
        &import(&mut client, vec![chunk(ImportConflictPolicy::Fail, vec![wrong; 10_000])]).await[..]
    else {
        panic!("one acknowledgement");
    };
    assert_eq!((acknowledgement.errors.len(), acknowledgement.written_count), (10_000, 0));
    assert!(acknowledgement.errors.iter().all(|error| error.message.len() <= 256));
}
