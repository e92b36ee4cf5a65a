//! Any bytes as the body of any call, through the whole stack of services: no panic, no hang, and never an error
//! that says the server is to blame.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use profilestore::cache::{CacheOptions, CachedStore, HotCache};
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::model::{Canonicalization, Draft, Precondition, Profile, Write};
use profilestore::rpc::{self, Services};
use profilestore::store::{Commit, Store};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::Input;

/// After so many calls the store is made anew: some of them write.
const CALLS_OF_A_STORE: u32 = 2000;

const PATHS: [&str; 18] = [
    "profilestore.v1.ProfileService/GetProfile",
    "profilestore.v1.ProfileService/BatchGetProfiles",
    "profilestore.v1.ProfileService/CreateProfile",
    "profilestore.v1.ProfileService/UpdateProfile",
    "profilestore.v1.ProfileService/DeleteProfile",
    "profilestore.v1.ProfileService/BatchWriteProfiles",
    "profilestore.v1.ProfileService/ListProfiles",
    "profilestore.v1.ProfileService/QueryProfilesByDomain",
    "profilestore.v1.ProfileService/LookupProfilesByEmail",
    "profilestore.v1.ProfileService/CountProfiles",
    "profilestore.v1.ProfileService/ListDomains",
    "profilestore.v1.ProfileService/ImportProfiles",
    "profilestore.v1.ProfileService/ExportProfiles",
    "profilestore.v1.ProfileService/WatchProfiles",
    "profilestore.v1.AdminService/GetStatus",
    "profilestore.v1.AdminService/Verify",
    "profilestore.v1.AdminService/Backup",
    "profilestore.v1.AdminService/GetHotKeys",
];

struct Served {
    runtime: Runtime,
    services: Services,
    left: u32,
}

thread_local! {
    static SERVED: RefCell<Option<Served>> = const { RefCell::new(None) };
}

fn serve() -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let services = runtime.block_on(async {
        let cache = Arc::new(HotCache::new(CacheOptions { max_bytes: 1 << 20, ..CacheOptions::default() }));
        let store = CachedStore::new(MemoryStore::new(EngineRules::default(), cache.clone()), cache.clone());
        let profile = Profile { id: "a".into(), email: "a@b.example".into(), ..Profile::default() };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").expect("a good profile");
        store.commit(Commit::all(vec![Write::put(draft, Precondition::None)])).await.expect("a good commit");
        rpc::services(Arc::new(store), Some(cache), Canonicalization::default()).await
    });
    Served { runtime, services: services.expect("the descriptors are good"), left: CALLS_OF_A_STORE }
}

/// One call.
pub fn calls(data: &[u8]) {
    let mut input = Input(data);
    let path = PATHS[usize::from(input.byte()) % PATHS.len()];
    let mode = input.byte();
    let is_framed = mode & 1 == 0;
    let body = if is_framed {
        let mut body = Vec::new();
        loop {
            // More than one message only for calls that take a stream.
            let message = if path.ends_with("ImportProfiles") { input.chunk() } else { std::mem::take(&mut input.0) };
            body.push(0);
            body.extend_from_slice(&(message.len() as u32).to_be_bytes());
            body.extend_from_slice(message);
            if input.is_empty() {
                break;
            }
        }
        body
    } else {
        input.0.to_vec()
    };
    let mut request = Request::post(format!("http://localhost/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if mode & 2 != 0 {
        request = request.header("grpc-timeout", "5S");
    }
    let request = request.body(Full::new(Bytes::from(body))).expect("a good request");
    SERVED.with_borrow_mut(|served| {
        if served.as_ref().is_none_or(|served| served.left == 0) {
            *served = Some(serve());
        }
        let Some(Served { runtime, services, left }) = served else { return };
        *left -= 1;
        let one_answer = path.ends_with("WatchProfiles");
        let code = runtime.block_on(async {
            let answered = answer(services, request, one_answer);
            tokio::time::timeout(Duration::from_secs(20), answered).await.expect("a call ends")
        });
        // UNKNOWN, INTERNAL and DATA_LOSS would page somebody.
        let blames_the_server = matches!(code, Some(2 | 13 | 15));
        assert!(!blames_the_server || !is_framed, "{path} answered {code:?}");
    });
}

/// The code of a call's answer; `None` when only its beginning was wanted, and that was good.
async fn answer(services: &Services, request: Request<Full<Bytes>>, only_beginning: bool) -> Option<u8> {
    let response = services.stack().oneshot(request).await.expect("an answer, good or bad");
    let code = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    if let Some(code) = code(response.headers()) {
        return Some(code);
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.ok()?;
        if let Some(trailers) = frame.trailers_ref() {
            return code(trailers);
        }
        if only_beginning {
            return None;
        }
    }
    panic!("an answer without a status")
}
