//! One build of profilestore against another, for whoever changes something and wants to know what it brings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::callers::{CALLS_IN_FLIGHT, Call, Callers};
use super::load::Load;
use super::report::{Contender, table};
use super::tables::{BATCH, GET_SHAPES, batch_load, hot_gets, page_load};
use super::{HOT_PROFILES, PROFILES, ours};

const ROUNDS: usize = 5;
const GETS: u64 = 60_000;
const BATCHES: u64 = 15_000;
const PAGES: u64 = 15_000;
const PUT_TIME: Duration = Duration::from_secs(2);

/// Measures the build of this bench as "ours" and the program `other` as the other one; `chosen` says which tables.
pub async fn run(dir: &Path, other: &Path, chosen: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let ours = ours::start("this build", dir, PROFILES).await?;
    let other = ours::start_program("the other", other, dir, PROFILES).await?;
    let hot = Arc::new(ours::hot_profiles(&ours, HOT_PROFILES).await?);
    ours::hot_profiles(&other, HOT_PROFILES).await?;
    let (peers, mut loads) =
        ([&ours, &other], Vec::<(String, &str, u64, u64, Box<dyn Fn() -> anyhow::Result<Load>>)>::new());
    if chosen("gets") {
        for shape in GET_SHAPES {
            let title = format!("get of one hot profile, {} connections x {} in flight", shape.0, shape.1);
            let hot = hot.clone();
            loads.push((title, "get", 1, GETS, Box::new(move || hot_gets(dir, &hot[0], shape))));
        }
    }
    if chosen("batches") {
        let hot = hot.clone();
        let load = move || batch_load(dir, &hot[..BATCH]);
        loads.push((format!("BatchGetProfiles of {BATCH}"), "profile", BATCH as u64, BATCHES, Box::new(load)));
    }
    if chosen("pages") {
        let (load, _) = page_load(dir, &ours).await?;
        loads.push(("page by domain".into(), "page", 1, PAGES, Box::new(move || Ok(load.clone()))));
    }
    if chosen("puts") {
        let load =
            move || Ok(Load::Calls(Callers { call: Call::UpdateProfile, profiles: hot.clone(), time: PUT_TIME }));
        loads.push((format!("durable puts, {CALLS_IN_FLIGHT} in flight"), "put", 1, 0, Box::new(load)));
    }
    for (title, item, items, requests, load) in loads {
        let contender = |peer| Ok(Contender { peer, load: load()?, requests });
        let contenders = peers.into_iter().map(contender).collect::<anyhow::Result<Vec<_>>>()?;
        table(&title, item, items, ROUNDS, &contenders).await?;
    }
    Ok(())
}
