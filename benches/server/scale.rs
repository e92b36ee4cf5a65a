//! What a hot get costs with more profiles, and with more connections.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::callers::{Call, Callers};
use super::load::Load;
use super::ours;
use super::peer::Peer;
use super::report::{Contender, median, table};
use super::tables::hot_gets;
use super::{HOT_PROFILES, SEED};

const SMALL: u64 = 10_000;
const LARGE: u64 = 1_000_000;
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(2);
const CONNECTIONS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const CONNECTION_ROUNDS: usize = 3;
/// Gets of a short load and of a long one. What a get costs is the difference, so that the connections' own
/// beginning does not count.
const SHORT: u64 = 50_000;
const LONG: u64 = 250_000;

pub async fn run(dir: &Path) -> anyhow::Result<()> {
    println!("seed {SEED}, gets at random of {HOT_PROFILES} hot profiles; {LARGE} profiles in the store, or {SMALL}");
    let large = ours::start("large", dir, LARGE).await?;
    let small = ours::start("small", dir, SMALL).await?;
    let hot = Arc::new(ours::hot_profiles(&small, HOT_PROFILES).await?);
    // Also warms the large one's cache.
    ours::hot_profiles(&large, HOT_PROFILES).await?;
    let gets = || Load::Calls(Callers { call: Call::GetProfile, profiles: hot.clone(), time: TIME });
    let contenders = [
        Contender { peer: &large, load: gets(), requests: 0 },
        Contender { peer: &small, load: gets(), requests: 0 },
    ];
    table("the large store is ours, the small one the other", "get", 1, ROUNDS, &contenders).await?;
    drop(contenders);
    drop(large);

    println!("\nhot gets by the number of connections, one in flight on each");
    println!("  {:>12} {:>12} {:>12}", "connections", "CPU us", "against 10");
    let mut found = Vec::new();
    for connections in CONNECTIONS {
        let load = hot_gets(dir, &hot[0], (connections, 1))?;
        let mut costs = Vec::new();
        for _ in 0..CONNECTION_ROUNDS {
            costs.push(cost(&load, &small).await?);
        }
        found.push(median(costs));
    }
    for (connections, cost) in CONNECTIONS.iter().zip(&found) {
        println!("  {connections:>12} {cost:>12.2} {:>12.2}", cost / found[1]);
    }
    Ok(())
}

async fn cost(load: &Load, peer: &Peer) -> anyhow::Result<f64> {
    let short = load.measure(peer, SHORT).await?.cpu_micros * SHORT as f64;
    let long = load.measure(peer, LONG).await?.cpu_micros * LONG as f64;
    Ok((long - short) / (LONG - SHORT) as f64)
}
