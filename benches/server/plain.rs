//! What one would write first: tonic's own server on the multi-thread runtime, over an LRU cache of profiles.
//!
//! It runs as a process of its own: this bench again, with [`PLAIN_SERVER`] as its first argument.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;

use lru::LruCache;
use parking_lot::Mutex;
use profilestore::pb::{BatchGetProfilesResponse, GetProfileRequest, Profile};
use prost::Message;
use tonic::{Request, Response, Status};

/// The argument that makes this program the plain server; the port and the profiles' file follow it.
pub const PLAIN_SERVER: &str = "--plain-server";
const CACHED_PROFILES: NonZeroUsize = NonZeroUsize::new(1_000_000).unwrap();

#[allow(clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/bench/profilestore.v1.rs"));
}
use generated::profile_service_server::{ProfileService, ProfileServiceServer};

struct Plain {
    cache: Mutex<LruCache<String, Profile>>,
}

#[tonic::async_trait]
impl ProfileService for Plain {
    async fn get_profile(&self, request: Request<GetProfileRequest>) -> Result<Response<Profile>, Status> {
        match self.cache.lock().get(&request.into_inner().id) {
            Some(profile) => Ok(Response::new(profile.clone())),
            None => Err(Status::not_found("there is no such profile")),
        }
    }
}

/// Serves the profiles of an encoded `BatchGetProfilesResponse`.
pub fn serve(port: &str, profiles: &Path) -> anyhow::Result<()> {
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, port.parse()?).into();
    let profiles = BatchGetProfilesResponse::decode(&std::fs::read(profiles)?[..])?.profiles;
    let mut cache = LruCache::new(CACHED_PROFILES);
    for profile in profiles {
        cache.put(profile.id.clone(), profile);
    }
    let service = ProfileServiceServer::new(Plain { cache: Mutex::new(cache) });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(tonic::transport::Server::builder().add_service(service).serve(address))?;
    Ok(())
}
