//! The same for writes and queries by domain, which take the call lane.

use http_body_util::Full;
use profilestore::pb::{
    CreateProfileRequest, DeleteProfileRequest, Profile, QueryProfilesByDomainRequest, QueryProfilesByDomainResponse,
    UpdateProfileRequest,
};

use super::*;

const CREATE: &str = "/profilestore.v1.ProfileService/CreateProfile";
const UPDATE: &str = "/profilestore.v1.ProfileService/UpdateProfile";
const DELETE: &str = "/profilestore.v1.ProfileService/DeleteProfile";
const QUERY: &str = "/profilestore.v1.ProfileService/QueryProfilesByDomain";
const REQUEST_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn profile() -> impl Strategy<Value = Option<Profile>> {
    let id = proptest::sample::select(vec!["hot-1", "hot-2", "new-1", "new-2", "", "no spaces"]);
    let email = proptest::sample::select(vec!["", "ada@a.example", "bob@b.a.example", "nobody"]);
    let name = prop_oneof![
        6 => proptest::sample::select(vec!["Ada", "Bob"]).prop_map(str::to_owned),
        1 => Just("x".repeat(40_000)),
    ];
    let etag = prop_oneof![6 => Just(""), 1 => Just("wrong")];
    let profile = (id, email, name, etag).prop_map(|(id, email, display_name, etag)| {
        Some(Profile { id: id.into(), email: email.into(), display_name, etag: etag.into(), ..Profile::default() })
    });
    prop_oneof![12 => profile, 1 => Just(None)]
}

fn paths() -> impl Strategy<Value = Option<FieldMask>> {
    let mask = |paths: &[&str]| Some(FieldMask { paths: paths.iter().map(|path| path.to_string()).collect() });
    proptest::sample::select(vec![None, mask(&["*"]), mask(&["display_name"]), mask(&["email"]), mask(&["nothing"])])
}

fn write() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let request_id = || prop_oneof![6 => Just(""), 1 => Just(REQUEST_ID), 1 => Just("x")].prop_map(str::to_owned);
    let create = (profile(), request_id())
        .prop_map(|(profile, request_id)| (CREATE, CreateProfileRequest { profile, request_id }.encode_to_vec()));
    let update = (profile(), paths(), any::<bool>(), request_id()).prop_map(
        |(profile, update_mask, allow_missing, request_id)| {
            (UPDATE, UpdateProfileRequest { profile, update_mask, allow_missing, request_id }.encode_to_vec())
        },
    );
    let delete = (profile(), any::<bool>(), request_id()).prop_map(|(profile, allow_missing, request_id)| {
        let Profile { id, etag, .. } = profile.unwrap_or_default();
        (DELETE, DeleteProfileRequest { id, etag, allow_missing, request_id }.encode_to_vec())
    });
    prop_oneof![create, update, delete]
}

pub fn query() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let domain = proptest::sample::select(vec!["a.example", "A.EXAMPLE.", "example", "b.a.example", "", "no domain"]);
    let token = prop_oneof![6 => Just(""), 1 => Just("x")];
    (domain, any::<bool>(), -1..4, token, paths()).prop_map(
        |(domain, include_subdomains, page_size, page_token, read_mask)| {
            let (domain, page_token) = (domain.into(), page_token.into());
            let request =
                QueryProfilesByDomainRequest { domain, include_subdomains, page_size, page_token, read_mask };
            (QUERY, request.encode_to_vec())
        },
    )
}

/// The cases of reads by id, with other calls in them.
pub fn case_of(call: impl Strategy<Value = (&'static str, Vec<u8>)>) -> impl Strategy<Value = Case> {
    (case(), call).prop_map(|(mut case, call)| {
        case.question.other = Some(call);
        case
    })
}

/// An answer to a write without what differs between two stores: etags, times, and ids that they made.
fn comparable(mut answer: Answer) -> Answer {
    let succeeded = answer.trailers.as_ref().is_some_and(|trailers| trailers["grpc-status"] == "0");
    if succeeded && answer.body.len() > 5 {
        let profile = Profile::decode(&answer.body[5..]).unwrap();
        let id = if profile.id.len() == REQUEST_ID.len() { "made".into() } else { profile.id };
        let profile = Profile { id, etag: String::new(), create_time: None, update_time: None, ..profile };
        answer.body = profile.encode_to_vec().into();
    }
    if answer.headers.get("grpc-status").is_some_and(|status| status == "10") {
        // The details name the current etag.
        answer.headers.remove("grpc-status-details-bin").unwrap();
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn writes_are_answered_the_same_both_ways(cases in proptest::collection::vec(case_of(write()), 1..5)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let ((lane, lane_store), (generated, generated_store)) = (services().await, services().await);
            for case in &cases {
                let lane = comparable(answer(lane.stack(), case.request()).await);
                let generated = comparable(answer(generated.generated(), case.request()).await);
                prop_assert_eq!(lane, generated);
            }
            // And the same was written.
            prop_assert_eq!(contents(&lane_store).await, contents(&generated_store).await);
            Ok(())
        })?;
    }

    #[test]
    fn queries_are_answered_the_same_both_ways_the_first_time_and_again(
        cases in proptest::collection::vec((case_of(query()), 0..3usize), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (services, store) = services().await;
            for (number, (case, touched)) in cases.iter().enumerate() {
                for _ in 0..4 {
                    let lane = answer(services.stack(), case.request()).await;
                    let generated = answer(services.generated(), case.request()).await;
                    prop_assert_eq!(&lane, &generated);
                    prop_assert_eq!(served(&services, case.request()).await, generated);
                }
                // What is kept by now must not be the answer any more.
                let id = ["hot-1", "hot-2", "cold-1"][*touched];
                commit(&*store, vec![put(id, "ada@b.a.example", &number.to_string())]).await;
            }
            Ok(())
        })?;
    }
}

/// All profiles, without what differs between two stores.
async fn contents(store: &CachedStore<MemoryStore>) -> Vec<(usize, String, String)> {
    let page = store.list(&profilestore::store::Scope::All, None, common::profiles::UNBOUNDED).await.unwrap();
    let profile = |record| {
        let profile: Profile = common::profiles::profile(record);
        (profile.id.len(), profile.email, profile.display_name)
    };
    let mut profiles: Vec<_> = page.records.iter().map(profile).collect();
    profiles.sort();
    profiles
}

fn call(path: &'static str, message: Vec<u8>) -> Request<Full<Bytes>> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    let request = Request::post(path).header("content-type", "application/grpc");
    request.body(Full::new(body.freeze())).unwrap()
}

#[tokio::test]
async fn single_writes_and_queries_take_the_call_lane() {
    let (services, _) = services().await;
    let profile = Profile { id: "new".into(), email: "ada@a.example".into(), ..Profile::default() };
    let create = CreateProfileRequest { profile: Some(profile.clone()), ..CreateProfileRequest::default() };
    let update = UpdateProfileRequest { profile: Some(profile), ..UpdateProfileRequest::default() };
    let query =
        QueryProfilesByDomainRequest { domain: "a.example".into(), ..QueryProfilesByDomainRequest::default() };
    let delete = DeleteProfileRequest { id: "new".into(), ..DeleteProfileRequest::default() };
    for (path, message) in [
        (CREATE, create.encode_to_vec()),
        (UPDATE, update.encode_to_vec()),
        (QUERY, query.encode_to_vec()),
        (DELETE, delete.encode_to_vec()),
    ] {
        let response = services.stack().oneshot(call(path, message)).await.unwrap();
        let in_call_lane = response.body().inner().map(|body| body.inner().is_from_the_lane());
        assert_eq!(in_call_lane, Some(true), "{path}");
    }
}

#[tokio::test]
async fn a_page_that_is_asked_for_again_comes_from_the_cache_until_a_profile_of_its_domain_changes() {
    let (services, store) = services().await;
    let query =
        QueryProfilesByDomainRequest { domain: "a.example".into(), ..QueryProfilesByDomainRequest::default() };
    let ask = async || {
        let response = services.stack().oneshot(call(QUERY, query.encode_to_vec())).await.unwrap();
        let from_the_cache = response.body().is_from_the_lane();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (from_the_cache, QueryProfilesByDomainResponse::decode(&body[5..]).unwrap().profiles.len())
    };
    assert_eq!([ask().await, ask().await, ask().await], [(false, 4), (false, 4), (true, 4)]);
    let body = Bytes::from([&[0, 0, 0, 0, query.encoded_len() as u8], &query.encode_to_vec()[..]].concat());
    let at_once = services.stack().at_once(&call(QUERY, query.encode_to_vec()), &body);
    assert!(at_once.is_some(), "a kept page is known at once");
    // Domains share what ends their pages with one in thousands, by chance; not three in a row.
    let mut stayed = 0;
    for other in ["other.example", "another.example", "third.example"] {
        commit(&*store, vec![put("elsewhere", &format!("eve@{other}"), "Eve")]).await;
        let (from_the_cache, profiles) = ask().await;
        assert_eq!(profiles, 4);
        stayed += usize::from(from_the_cache);
        ask().await;
    }
    assert!(stayed > 0, "changes elsewhere leave the page");
    commit(&*store, vec![put("fifth", "eve@a.example", "Eve")]).await;
    assert_eq!([ask().await, ask().await], [(false, 5), (true, 5)]);
    store.close().await.unwrap();
    assert!(!services.stack().oneshot(call(QUERY, query.encode_to_vec())).await.unwrap().body().is_from_the_lane());
}
