//! `profilestore verify`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::TryStreamExt;
use serde::Serialize;

use super::connection::ConnectionArgs;
use super::log;
use super::output::{OutputArgs, to_json};
use crate::engine::sled::{SledOptions, verify_offline};
use crate::server::Settings;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Check this data directory, which no server may hold, instead of asking a server. Nothing is healed or replayed.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Default)]
struct Checked {
    profiles: i64,
    unsettled: i64,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    description: String,
    remedy: String,
}

pub fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let Checked { profiles, unsettled, problems } = match &args.data_dir {
        Some(dir) => here(dir.clone())?,
        None => args.connection.run(async |client| {
            let mut checked = Checked::default();
            let mut answers = client.verify();
            while let Some(answer) = answers.try_next().await.map_err(|error| args.connection.explain(error))? {
                (checked.profiles, checked.unsettled) = (answer.checked_count, answer.unsettled_count);
                let problems = answer.problems.into_iter();
                checked
                    .problems
                    .extend(problems.map(|each| Problem { description: each.description, remedy: each.remedy }));
                if answer.done {
                    return Ok(checked);
                }
            }
            bail!("the server ended the check early");
        })?,
    };
    let found = problems.len();
    let mut rows = args.output.rows(&["problem", "remedy"])?;
    for problem in problems {
        rows.row(&[problem.description.clone(), problem.remedy.clone()], to_json(&problem))?;
    }
    rows.finish()?;
    eprintln!("checked {profiles} profiles");
    if unsettled > 0 {
        eprintln!("{unsettled} sums changed too fast to be compared; check again while nothing writes");
    }
    if found > 0 {
        bail!("{found} problems were found");
    }
    Ok(())
}

fn here(dir: PathBuf) -> anyhow::Result<Checked> {
    // sled's panics quote keys: this log does not.
    log::init(&Settings::load(None, &[])?.log)?;
    let report =
        verify_offline(&SledOptions::new(&dir)).with_context(|| format!("{} was not checked", dir.display()))?;
    let problems = report.problems.into_iter();
    Ok(Checked {
        profiles: i64::try_from(report.profiles)?,
        unsettled: i64::try_from(report.unsettled)?,
        problems: problems.map(|each| Problem { description: each.description, remedy: each.remedy }).collect(),
    })
}
