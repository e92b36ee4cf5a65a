//! `profilestore config show` and `config check`.

use std::io::Write;

use anyhow::Context;
use clap::Subcommand;

use super::SettingsArgs;

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings that `serve` would run with, as a configuration file.
    Show(SettingsArgs),
    /// Check the settings; everything that is wrong is reported at once.
    Check(SettingsArgs),
}

pub fn run(command: &ConfigCommand) -> anyhow::Result<()> {
    let mut out = super::output::stdout();
    match command {
        ConfigCommand::Show(args) => {
            let settings = args.load(Vec::new())?;
            let toml = toml::to_string(&settings).context("the settings cannot be written as TOML")?;
            Ok(write!(out, "{toml}")?)
        }
        ConfigCommand::Check(args) => {
            args.load(Vec::new())?;
            Ok(writeln!(out, "the configuration can be used")?)
        }
    }
}
