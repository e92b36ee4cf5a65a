//! What is measured: one function for each kind of call, with the peers that have something like it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use profilestore::pb::{BatchGetProfilesRequest, GetProfileRequest, Profile, QueryProfilesByDomainRequest};
use profilestore::server::sample::Sampler;
use prost::Message;

use super::callers::{CALLS_IN_FLIGHT, Call, Callers};
use super::load::{BATCH_GET_PROFILES, ETCD_RANGE, GET_PROFILE, Load, QUERY_PROFILES_BY_DOMAIN};
use super::peer::Peer;
use super::postgres::{self, Postgres};

use super::report::{Bars, Contender, against, table};
use super::{etcd, ours};

/// By how many bytes two versions of a profile may differ: in its etag and its times.
const VERSIONS_DIFFER: usize = 32;
/// The bytes in front of a gRPC message.
const MESSAGE_PREFIX: usize = 5;
const ROUNDS: usize = 5;
const PUT_ROUNDS: usize = 3;
const PUT_TIME: Duration = Duration::from_secs(3);
/// Connections, and requests in flight on each.
pub const GET_SHAPES: [(usize, usize); 3] = [(8, 32), (16, 1), (1, 100)];
/// Requests of one round, about a second's.
const GETS: u64 = 150_000;
const GETS_OF_SLOWER: u64 = 60_000;
pub const BATCH: usize = 100;
const BATCHES: u64 = 15_000;
const BATCH_CONNECTIONS: usize = 16;
/// The most frequent domain of the sample.
const PAGE_DOMAIN_RANK: u64 = 1;
const PAGE: usize = 100;
const PAGES: u64 = 10_000;
const PAGE_CONNECTIONS: usize = 8;

/// The servers that run.
pub struct Peers {
    pub ours: Peer,
    pub plain: Peer,
    pub etcd: Option<Peer>,
    pub redis: Option<Peer>,
    pub postgres: Option<Postgres>,
    /// The profiles that each server has in memory.
    pub hot: Arc<Vec<Profile>>,
}

/// The load of hot gets on profilestore or the plain server.
pub fn hot_gets(dir: &Path, hot: &Profile, (connections, streams): (usize, usize)) -> anyhow::Result<Load> {
    let request = GetProfileRequest { id: hot.id.clone(), read_mask: None };
    Ok(Load::Grpc {
        path: GET_PROFILE,
        body: ours::body_file(dir, "get.bin", &request)?,
        answer_bytes: hot.encoded_len() + MESSAGE_PREFIX - VERSIONS_DIFFER,
        connections,
        streams,
        times: None,
    })
}

pub async fn gets(peers: &Peers, dir: &Path, bars: &mut Bars) -> anyhow::Result<()> {
    let hot = &peers.hot[0];
    for (connections, streams) in GET_SHAPES {
        let shape = (connections, streams);
        let alone = streams == 1;
        let requests = if alone { GETS_OF_SLOWER } else { GETS };
        let mut contenders = vec![
            Contender { peer: &peers.ours, load: hot_gets(dir, hot, shape)?, requests },
            Contender { peer: &peers.plain, load: hot_gets(dir, hot, shape)?, requests },
        ];
        if let Some(etcd) = &peers.etcd {
            let (request, value_bytes) = etcd::range(etcd, &hot.id).await?;
            let body = ours::body_file(dir, "range.bin", &request)?;
            let load = Load::Grpc {
                path: ETCD_RANGE,
                body,
                answer_bytes: value_bytes + MESSAGE_PREFIX,
                connections,
                streams,
                times: None,
            };
            contenders.push(Contender { peer: etcd, load, requests: GETS_OF_SLOWER });
        }
        if let Some(redis) = peers.redis.as_ref().filter(|_| alone) {
            let command = vec!["GET".into(), hot.id.clone()];
            contenders.push(Contender {
                peer: redis,
                load: Load::Redis { command, connections, pipelined: 1 },
                requests,
            });
        }
        let title = format!(
            "get of one hot profile of {} bytes, {connections} connections x {streams} in flight (etcd: serializable Range)",
            hot.encoded_len()
        );
        let findings = table(&title, "get", 1, ROUNDS, &contenders).await?;
        let cpu_against = |name| against(&findings, name).map(|finding| finding.cpu_ratio);
        match (connections, streams) {
            (8, 32) => {
                bars.at_most("hot gets, 8 x 32: CPU against plain tonic", 0.33, cpu_against("plain tonic"));
                bars.at_most("hot gets, 8 x 32: CPU against etcd", 0.15, cpu_against("etcd"));
            }
            (16, 1) => bars.at_most("hot gets, 16 x 1: CPU against plain tonic", 0.6, cpu_against("plain tonic")),
            _ => {}
        }
    }
    Ok(())
}

/// The load of batches of these profiles.
pub fn batch_load(dir: &Path, batch: &[Profile]) -> anyhow::Result<Load> {
    let ids = batch.iter().map(|profile| profile.id.clone()).collect();
    Ok(Load::Grpc {
        path: BATCH_GET_PROFILES,
        body: ours::body_file(dir, "batch.bin", &BatchGetProfilesRequest { ids, read_mask: None })?,
        answer_bytes: batch.iter().map(Message::encoded_len).sum::<usize>() + MESSAGE_PREFIX
            - VERSIONS_DIFFER * batch.len(),
        connections: BATCH_CONNECTIONS,
        streams: 1,
        times: None,
    })
}

/// The load of one page by domain, and the profiles on it.
pub async fn page_load(dir: &Path, ours: &Peer) -> anyhow::Result<(Load, Vec<Profile>)> {
    let request = QueryProfilesByDomainRequest {
        domain: Sampler::domain(PAGE_DOMAIN_RANK),
        page_size: PAGE as i32,
        ..QueryProfilesByDomainRequest::default()
    };
    let (profiles, length) = ours::page(ours, request.clone()).await?;
    anyhow::ensure!(profiles.len() == PAGE, "the domain is too small");
    let load = Load::Grpc {
        path: QUERY_PROFILES_BY_DOMAIN,
        body: ours::body_file(dir, "page.bin", &request)?,
        answer_bytes: length + MESSAGE_PREFIX - VERSIONS_DIFFER * PAGE,
        connections: PAGE_CONNECTIONS,
        streams: 1,
        times: None,
    };
    Ok((load, profiles))
}

pub async fn batches(peers: &Peers, dir: &Path, bars: &mut Bars) -> anyhow::Result<()> {
    let batch = &peers.hot[..BATCH];
    let load = batch_load(dir, batch)?;
    let mut contenders = vec![Contender { peer: &peers.ours, load, requests: BATCHES }];
    if let Some(redis) = &peers.redis {
        let ids = batch.iter().map(|profile| profile.id.clone());
        let command = std::iter::once("MGET".to_owned()).chain(ids).collect();
        let load = Load::Redis { command, connections: BATCH_CONNECTIONS, pipelined: 1 };
        contenders.push(Contender { peer: redis, load, requests: BATCHES });
    }
    let title = format!("BatchGetProfiles and MGET of {BATCH}, {BATCH_CONNECTIONS} connections x 1 in flight");
    let findings = table(&title, "profile", BATCH as u64, ROUNDS, &contenders).await?;
    let redis = against(&findings, "Redis").map(|finding| finding.cpu_ratio);
    bars.at_most("BatchGetProfiles of 100: CPU per profile against Redis MGET", 1.0, redis);
    Ok(())
}

pub async fn pages(peers: &Peers, dir: &Path, bars: &mut Bars) -> anyhow::Result<()> {
    let domain = Sampler::domain(PAGE_DOMAIN_RANK);
    let (load, profiles) = page_load(dir, &peers.ours).await?;
    let mut contenders = vec![Contender { peer: &peers.ours, load, requests: PAGES }];
    if let Some(postgres) = &peers.postgres {
        let statement = postgres::page_statement(&domain, PAGE);
        let rows = postgres.query(&statement)?;
        let same = rows.lines().map(serde_json::from_str::<serde_json::Value>).zip(&profiles);
        for (row, profile) in same {
            anyhow::ensure!(row?["id"] == profile.id, "PostgreSQL's page has other rows");
        }
        anyhow::ensure!(rows.lines().count() == PAGE, "PostgreSQL's page has another length");
        let script = dir.join("page.sql");
        std::fs::write(&script, statement)?;
        let load = Load::Postgres { pgbench: postgres.pgbench.clone(), script, connections: PAGE_CONNECTIONS };
        contenders.push(Contender { peer: &postgres.peer, load, requests: PAGES });
    }
    let title = format!("page of {PAGE} by domain, {PAGE_CONNECTIONS} connections x 1 in flight");
    let findings = table(&title, "page", 1, ROUNDS, &contenders).await?;
    let postgres = against(&findings, "PostgreSQL").map(|finding| finding.cpu_ratio);
    bars.at_most("page of 100 by domain: CPU against PostgreSQL", 0.25, postgres);
    Ok(())
}

pub async fn puts(peers: &Peers, bars: &mut Bars) -> anyhow::Result<()> {
    let puts = |call| Load::Calls(Callers { call, profiles: peers.hot.clone(), time: PUT_TIME });
    let mut contenders = vec![Contender { peer: &peers.ours, load: puts(Call::UpdateProfile), requests: 0 }];
    if let Some(etcd) = &peers.etcd {
        contenders.push(Contender { peer: etcd, load: puts(Call::EtcdPut), requests: 0 });
    }
    let title = format!("durable puts (synced before the answer), {CALLS_IN_FLIGHT} in flight");
    let findings = table(&title, "put", 1, PUT_ROUNDS, &contenders).await?;
    let etcd = against(&findings, "etcd");
    bars.at_least("durable puts: puts/s against etcd", 1.3, etcd.map(|finding| finding.rate_ratio));
    bars.at_most("durable puts: CPU per put against etcd", 0.5, etcd.map(|finding| finding.cpu_ratio));
    Ok(())
}
