//! `profilestore export`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use futures_util::StreamExt;

use super::Format;
use super::csv_row::{self, Column};
use super::meter::Meter;
use super::output_file::Output;
use super::profile_json;
use crate::cli::connection::ConnectionArgs;
use crate::cli::output::stdout;
use crate::client::{Client, ExportOptions, Profile};

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Only the profiles of this domain.
    #[arg(long, value_name = "DOMAIN", value_parser = NonEmptyStringValueParser::new())]
    domain: Option<String>,
    /// Those of all its subdomains too.
    #[arg(long, requires = "domain")]
    subdomains: bool,
    /// The form; without this the ending of the output tells it, or else it is JSON lines.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write to this file, which gets its name when it is complete.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also what the server decides: domain, etag and times.
    #[arg(long)]
    all_fields: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let mut output = Output::open(args.output.as_deref())?;
    match args.connection.run_bulk(async |client| args.transfer(client, &mut output).await) {
        Ok(profiles) => {
            let file = args.output.as_ref().filter(|_| output.is_file());
            output.finish()?;
            // Where the profiles themselves may come out on standard output nothing is said among them.
            match file {
                Some(file) => Ok(writeln!(stdout(), "exported {profiles} profiles to {}", file.display())?),
                None => Ok(()),
            }
        }
        Err(error) => {
            output.give_up();
            Err(error)
        }
    }
}

impl ExportArgs {
    fn format(&self) -> Format {
        let by_ending = || Format::of(self.output.as_deref()?);
        self.format.or_else(by_ending).unwrap_or(Format::Jsonl)
    }

    /// Returns how many profiles there were.
    async fn transfer(&self, client: Client, output: &mut Output) -> anyhow::Result<u64> {
        let meter = self.meter(&client).await?;
        let domain = self.domain.clone().unwrap_or_default();
        let mut export =
            client.export(ExportOptions { domain, include_subdomains: self.subdomains, ..ExportOptions::default() });
        let columns = Column::written(self.all_fields);
        let (mut text, mut count) = (Vec::new(), 0);
        if self.format() == Format::Csv {
            text = csv_row::write_header(columns, text)?;
        }
        while let Some(chunk) = export.next().await {
            let chunk = chunk.map_err(|error| self.connection.explain(error))?;
            text = self.write(&chunk.profiles, columns, text)?;
            output.write(&text)?;
            text.clear();
            count += chunk.profiles.len() as u64;
            meter.show(count, count);
        }
        // The header of no profiles.
        output.write(&text)?;
        Ok(count)
    }

    fn write(&self, profiles: &[Profile], columns: &[Column], mut text: Vec<u8>) -> std::io::Result<Vec<u8>> {
        match self.format() {
            Format::Csv => csv_row::write(profiles, columns, text),
            Format::Jsonl => {
                for profile in profiles {
                    profile_json::write(profile, self.all_fields, &mut text);
                    text.push(b'\n');
                }
                Ok(text)
            }
        }
    }

    /// Profiles on the same terminal would tear the line.
    async fn meter(&self, client: &Client) -> anyhow::Result<Meter> {
        if !Meter::is_shown() || self.output.is_none() && std::io::stdout().is_terminal() {
            return Ok(Meter::hidden());
        }
        let total = client.count(self.domain.as_deref().unwrap_or_default(), self.subdomains).await;
        let total = total.map_err(|error| self.connection.explain(error))?;
        Ok(Meter::new(Some(total), 0))
    }
}
