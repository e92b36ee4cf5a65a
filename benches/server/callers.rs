//! Calls by this program: the same client for each server, with a fixed number of calls in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::pb::{GetProfileRequest, Profile, UpdateProfileRequest};
use prost::Message;
use prost_types::FieldMask;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::SEED;
use super::etcd::{self, kv::kv_client::KvClient};
use super::load::Done;
use super::ours::channel;
use super::peer::Peer;

pub const CALLS_IN_FLIGHT: usize = 256;
const CONNECTIONS: usize = 8;

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A put of a whole profile that differs from the one before.
    UpdateProfile,
    /// The same as etcd has it.
    EtcdPut,
    GetProfile,
}

/// Calls about some profiles, at random.
#[derive(Clone)]
pub struct Callers {
    pub call: Call,
    pub profiles: Arc<Vec<Profile>>,
    pub time: Duration,
}

impl Callers {
    /// Calls for the time.
    pub async fn run(&self, peer: &Peer) -> anyhow::Result<Done> {
        let stop = Arc::new(AtomicBool::new(false));
        let started = Instant::now();
        let mut callers = self.start(peer, &stop).await?;
        tokio::time::sleep(self.time).await;
        stop.store(true, Ordering::Relaxed);
        let mut requests = 0;
        while let Some(ended) = callers.join_next().await {
            requests += ended??;
        }
        Ok(Done { requests, per_second: requests as f64 / started.elapsed().as_secs_f64() })
    }

    /// Starts the callers, which go on until `stop` and give the number of their calls.
    pub async fn start(&self, peer: &Peer, stop: &Arc<AtomicBool>) -> anyhow::Result<JoinSet<anyhow::Result<u64>>> {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(channel(peer).await?);
        }
        let mut callers = JoinSet::new();
        for number in 0..CALLS_IN_FLIGHT {
            let caller = Caller {
                call: self.call,
                profiles: self.profiles.clone(),
                channel: channels[number % CONNECTIONS].clone(),
                random: SmallRng::seed_from_u64(SEED + number as u64),
            };
            callers.spawn(caller.run(stop.clone()));
        }
        Ok(callers)
    }
}

struct Caller {
    call: Call,
    profiles: Arc<Vec<Profile>>,
    channel: Channel,
    random: SmallRng,
}

impl Caller {
    async fn run(mut self, stop: Arc<AtomicBool>) -> anyhow::Result<u64> {
        let mut ours = ProfileServiceClient::new(self.channel.clone());
        let mut etcd = KvClient::new(self.channel.clone());
        let mut calls = 0;
        while !stop.load(Ordering::Relaxed) {
            match self.call {
                Call::GetProfile => {
                    let id = self.any_profile().id.clone();
                    ours.get_profile(GetProfileRequest { id, read_mask: None }).await?;
                }
                Call::UpdateProfile => {
                    let request = UpdateProfileRequest {
                        profile: Some(self.changed_profile()),
                        update_mask: Some(FieldMask { paths: vec!["*".into()] }),
                        allow_missing: true,
                        ..UpdateProfileRequest::default()
                    };
                    ours.update_profile(request).await?;
                }
                Call::EtcdPut => {
                    let profile = self.changed_profile();
                    etcd::put(&mut etcd, &profile.id, profile.encode_to_vec()).await?;
                }
            }
            calls += 1;
        }
        Ok(calls)
    }

    fn any_profile(&mut self) -> &Profile {
        &self.profiles[self.random.random_range(0..self.profiles.len())]
    }

    /// One of the profiles with an attribute of its own: as large as before, and never the same.
    fn changed_profile(&mut self) -> Profile {
        let mut profile = self.any_profile().clone();
        let session = format!("{:064x}", self.random.random::<u128>());
        profile.attributes.insert("session".into(), session);
        // An etag would be a condition, and another writer may have been faster.
        profile.etag.clear();
        profile
    }
}
