//! `profilestore reindex`.

use std::sync::Arc;

use anyhow::Context;

use super::{ReindexArgs, log};
use crate::engine::EngineRules;
use crate::engine::sled::{SledOptions, SledStore};
use crate::server::stack;
use crate::store::{NoObserver, Store};

pub fn run(args: &ReindexArgs) -> anyhow::Result<()> {
    let settings = args.settings.load(Vec::new())?;
    log::init(&settings.log)?;
    let data_dir = &settings.store.data_dir;
    anyhow::ensure!(data_dir.is_dir(), "there is no store in {}: there is no such directory", data_dir.display());
    let options = SledOptions {
        reindex: true,
        // Addresses that become the same must not stop the rebuild.
        rules: EngineRules::default(),
        ..stack::sled_options(&settings)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    runtime.block_on(async {
        let store = SledStore::open(options, Arc::new(NoObserver)).await?;
        let changed = store.reindex(settings.email.canonicalization()).await?;
        let profiles = store.status().totals.profiles;
        store.close().await?;
        let sentence = format!("rebuilt the index of {profiles} profiles; {changed} of them have a new key");
        let object = serde_json::json!({ "profileCount": profiles, "changedCount": changed });
        Ok(args.output.done(&sentence, &object)?)
    })
}
