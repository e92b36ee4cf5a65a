//! `profilestore config show` and `config check`.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::SettingsArgs;
use super::output::OutputArgs;

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings that `serve` would run with, as a configuration file.
    Show(ConfigArgs),
    /// Check the settings; everything that is wrong is reported at once.
    Check(ConfigArgs),
}

pub fn run(command: &ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Show(args) => {
            let settings = args.settings.load(Vec::new())?;
            let toml = toml::to_string(&settings).context("the settings cannot be written as TOML")?;
            Ok(args.output.done(toml.trim_end(), &settings)?)
        }
        ConfigCommand::Check(args) => {
            args.settings.load(Vec::new())?;
            Ok(args.output.done("the configuration can be used", &json!({ "canBeUsed": true }))?)
        }
    }
}
