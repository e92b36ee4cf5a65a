//! Generated profiles for a load, as `serve --sample` makes them, through the client's import.

use std::time::Instant;

use futures_util::{StreamExt, stream};

use super::progress;
use crate::cli::connection::ConnectionArgs;
use crate::client::{Client, ImportOptions, OnConflict};
use crate::server::sample::Sampler;

/// Loads the first `count` profiles of the sample whose ids are free.
pub async fn prepare(client: &Client, connection: &ConnectionArgs, count: u64) -> anyhow::Result<()> {
    let profiles = stream::iter(Sampler::new(count)).take(usize::try_from(count).unwrap_or(usize::MAX));
    let options = ImportOptions { on_conflict: OnConflict::Skip, ..ImportOptions::default() };
    let mut import = client.import(profiles, options);
    let (begun, mut shown) = (Instant::now(), Instant::now());
    let (mut written, mut skipped) = (0, 0);
    while let Some(report) = import.next().await {
        let report = report.map_err(|error| connection.explain(error))?;
        if let Some(refused) = report.refused.first() {
            anyhow::bail!("a generated profile was refused: {}", refused.message);
        }
        (written, skipped) = (report.written, report.skipped);
        if progress::is_watched() && shown.elapsed() >= progress::INTERVAL {
            shown = Instant::now();
            eprintln!("{:>5} s  {} of {count} profiles are loaded", begun.elapsed().as_secs(), report.position);
        }
    }
    eprintln!("profilestore: {written} profiles were loaded, {skipped} were there");
    Ok(())
}
