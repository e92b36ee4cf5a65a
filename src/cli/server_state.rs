//! `profilestore status` and `health`.

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::connection::ConnectionArgs;
use super::output::{OutputArgs, size, to_json};
use crate::client::{FeedHold, GetStatusResponse, Health};

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Args)]
pub struct HealthArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let status = args
        .connection
        .run(async |client| client.status().await.map_err(|error| args.connection.explain(error)))
        .map(Status::from)?;
    let mut rows = args.output.rows(&["what", "value"])?;
    if args.output.json() {
        rows.row(&[], to_json(&status))?;
    } else {
        for (name, value) in status.rows() {
            rows.row(&[name.to_owned(), value], |_| {})?;
        }
    }
    Ok(rows.finish()?)
}

pub fn health(args: &HealthArgs) -> anyhow::Result<()> {
    let health =
        args.connection.run(async |client| client.health().await.map_err(|error| args.connection.explain(error)))?;
    let is_serving = matches!(health, Health::Serving);
    if is_serving || args.output.json() {
        let answer = if is_serving { "SERVING" } else { "NOT_SERVING" };
        args.output.done(answer, &json!({ "status": answer }))?;
    }
    match health {
        Health::Serving => Ok(()),
        Health::NotServing => bail!("the server answers that it does not serve: it drains or its store has failed"),
    }
}

/// A server's status as it is printed; the names are those of the API.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    version: String,
    engine: String,
    uptime_seconds: i64,
    profile_count: i64,
    domain_count: i64,
    live_bytes: i64,
    disk_bytes: Option<i64>,
    cache: CacheStatus,
    holds: Vec<HoldStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HoldStatus {
    name: String,
    token: String,
    lag_count: i64,
    lost_count: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CacheStatus {
    hit_count: i64,
    miss_count: i64,
    negative_hit_count: i64,
    eviction_count: i64,
    entry_count: i64,
    size_bytes: i64,
    capacity_bytes: i64,
}

impl From<GetStatusResponse> for Status {
    fn from(status: GetStatusResponse) -> Self {
        let cache = status.cache.unwrap_or_default();
        Self {
            version: status.version,
            engine: status.engine,
            uptime_seconds: status.uptime.map_or(0, |uptime| uptime.seconds),
            profile_count: status.profile_count,
            domain_count: status.domain_count,
            live_bytes: status.live_bytes,
            disk_bytes: status.disk_bytes,
            cache: CacheStatus {
                hit_count: cache.hit_count,
                miss_count: cache.miss_count,
                negative_hit_count: cache.negative_hit_count,
                eviction_count: cache.eviction_count,
                entry_count: cache.entry_count,
                size_bytes: cache.size_bytes,
                capacity_bytes: cache.capacity_bytes,
            },
            holds: status.feed.unwrap_or_default().holds.into_iter().map(HoldStatus::from).collect(),
        }
    }
}

impl From<FeedHold> for HoldStatus {
    fn from(hold: FeedHold) -> Self {
        let FeedHold { name, token, lag_count, lost_count } = hold;
        Self { name, token, lag_count, lost_count }
    }
}

impl Status {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let Self { cache, .. } = self;
        let held = |hold: &HoldStatus| {
            let lost =
                if hold.lost_count > 0 { format!(", {} of them lost", hold.lost_count) } else { String::new() };
            ("held for", format!("{}: {} changes behind{lost}", hold.name, hold.lag_count))
        };
        let reads = cache.hit_count + cache.negative_hit_count + cache.miss_count;
        let hits = (cache.hit_count + cache.negative_hit_count) * 100;
        let ratio = if reads == 0 { "no reads yet".to_owned() } else { format!("{}%", hits / reads) };
        let mut rows = vec![
            ("version", self.version.clone()),
            ("engine", self.engine.clone()),
            ("uptime", format!("{} s", self.uptime_seconds)),
            ("profiles", self.profile_count.to_string()),
            ("domains", self.domain_count.to_string()),
            ("live", size(self.live_bytes)),
            ("disk", self.disk_bytes.map_or_else(|| "does not answer".to_owned(), size)),
            ("cache hit ratio", ratio),
            ("cache hits", cache.hit_count.to_string()),
            ("cache hits of absent ids", cache.negative_hit_count.to_string()),
            ("cache misses", cache.miss_count.to_string()),
            ("cache evictions", cache.eviction_count.to_string()),
            ("cache entries", cache.entry_count.to_string()),
            ("cache size", format!("{} of {}", size(cache.size_bytes), size(cache.capacity_bytes))),
        ];
        rows.extend(self.holds.iter().map(held));
        rows
    }
}
