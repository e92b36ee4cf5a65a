//! The command line.

mod backups;
// Open to the fuzz targets only (tests/fuzz).
#[doc(hidden)]
pub mod bulk;
mod config;
mod connection;
mod interrupt;
mod lists;
mod load;
mod log;
mod manual;
mod output;
mod profiles;
mod reindex;
mod serve;
mod server_state;
mod table;
mod token_file;
mod top;
mod verify;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueHint};

use self::interrupt::Interrupted;
use crate::observe::standard_error;
use crate::server::{Settings, SettingsError};

/// The exit code for a bad configuration (EX_CONFIG of sysexits.h).
const BAD_CONFIGURATION: u8 = 78;

/// The exit code for arguments that do not fit together; the parser's own is the same.
const WRONG_USAGE: u8 = 2;
/// The exit code of an import that has ended and could not use all of its input.
const SOME_REJECTED: u8 = 3;

/// Arguments that do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("{0}; see --help")]
struct WrongUsage(String);

/// An import has ended, and some of its lines were rejected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SomeRejected(String);

/// An embedded key-value store for user profiles with a gRPC interface.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a store over gRPC.
    Serve(ServeArgs),
    /// Rebuild the index of a store that nobody serves, after email.fold_local_part was changed.
    Reindex(ReindexArgs),
    /// Show or check the settings of `serve`.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a profile.
    Get(profiles::GetArgs),
    /// Store a profile: create it, or replace it.
    Put(profiles::PutArgs),
    /// Delete a profile.
    Delete(profiles::DeleteArgs),
    /// Print the profiles of a domain.
    Query(lists::QueryArgs),
    /// Print the profiles with an e-mail address.
    Lookup(lists::LookupArgs),
    /// Print the domains and how many profiles they have.
    Domains(lists::DomainsArgs),
    /// Count profiles.
    Count(lists::CountArgs),
    /// Print profiles in the order of their ids.
    List(lists::ListArgs),
    /// Write the profiles of a file: JSON lines, or CSV with a header.
    ///
    /// Lines that cannot be imported do not stop an import: they are written to a file with their numbers and reasons, and
    /// the exit code is 3. When an import of a file breaks off, the same command goes on where it stopped; what came
    /// through a pipe cannot be read again. A line without an id makes a new profile each time it is imported. Ctrl-C breaks
    /// an import off in this way, and the exit code is 130.
    Import(bulk::import::ImportArgs),
    /// Print all profiles, or write them to a file: JSON lines, or CSV.
    ///
    /// Without --domain the profiles come in the order of their ids; with it, in the order of their domains, addresses
    /// and ids. Equal stores give equal bytes, unless --all-fields adds what each server decides by itself.
    Export(bulk::export::ExportArgs),
    /// Put load on a server, and print rates and latencies.
    Load(load::LoadArgs),
    /// Follow changes, one JSON object a line.
    Watch(watch::WatchArgs),
    /// Print what a server says about itself.
    Status(server_state::StatusArgs),
    /// Show again and again what a server does and which ids and domains are read most.
    ///
    /// On a terminal the report stays in its place; elsewhere each report is some tab-separated lines, or with --json one
    /// line. Rates are about the time since the report before, those of ids and domains about the last minute.
    Top(top::TopArgs),
    /// Ask a server whether it serves; the exit code is the answer.
    Health(server_state::HealthArgs),
    /// Check everything that a store holds against everything else; the exit code is 1 when something is wrong.
    Verify(verify::VerifyArgs),
    /// Build the state of a store that nobody serves anew, from its newest snapshot and its commit log.
    ///
    /// If these do not give a whole state, it is built from the records that pass their checksums, and the exit code is 1.
    /// The old state is set aside.
    Repair(backups::RepairArgs),
    /// Write a consistent copy of a server's store to a file while it serves.
    Backup(backups::BackupArgs),
    /// Build a data directory from a backup, or from a backup and the commit log that was kept.
    ///
    /// With --log the store is as of a later point than the backup: the log's changes are replayed, up to --until. The log must
    /// be of the same store and lead on from the backup without a gap. The new store is checked in full before it is
    /// called restored, and a restore that fails or is interrupted leaves nothing that opens.
    Restore(backups::RestoreArgs),
    /// Print a script that completes this command line in a shell.
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write one for every command.
    Man(manual::ManArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Where to serve gRPC [default: 127.0.0.1:50051].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where to answer health probes over HTTP [default: 127.0.0.1:9464].
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Serve without encryption on addresses that other machines can reach.
    #[arg(long)]
    insecure: bool,
    /// Publish every change to NATS JetStream, at nats://HOST:PORT (several with commas). Credentials are better set in the
    /// environment: PROFILESTORE__PUBLISH__URL.
    #[arg(long, value_name = "URL")]
    publish: Option<String>,
    /// What the subjects of published changes begin with [default: profiles].
    #[arg(long, value_name = "PREFIX")]
    publish_subject: Option<String>,
    /// Publish to this stream and make it if it is missing [default: whichever stream takes the subjects].
    #[arg(long, value_name = "NAME")]
    publish_stream: Option<String>,
    /// Give up the place of an earlier publisher, for which the change log is held.
    #[arg(long)]
    forget_publisher: bool,
    /// Load this many generated profiles if the store is empty.
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
}

#[derive(Debug, Args)]
struct ReindexArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: output::OutputArgs,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// A configuration file (TOML). Settings can also come from the environment:
    /// PROFILESTORE__SECTION__KEY.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory [default: ./profilestore-data].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    // A setting is a text: a name that is none is refused and not changed.
    data_dir: Option<String>,
}

impl SettingsArgs {
    fn load(&self, mut overrides: Vec<(&'static str, String)>) -> Result<Settings, SettingsError> {
        overrides.extend(self.data_dir.clone().map(|dir| ("store.data_dir", dir)));
        Settings::load(self.config.as_deref(), &overrides)
    }
}

/// Runs the command and says how it ended.
pub fn run(cli: Cli) -> ExitCode {
    // Also when this thread panics.
    let _said_to_the_end = FlushOnDrop;
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Reindex(args) => reindex::run(&args),
        Command::Config(command) => config::run(&command),
        Command::Get(args) => profiles::get(&args),
        Command::Put(args) => profiles::put(&args),
        Command::Delete(args) => profiles::delete(&args),
        Command::Query(args) => lists::query(&args),
        Command::Lookup(args) => lists::lookup(&args),
        Command::Domains(args) => lists::domains(&args),
        Command::Count(args) => lists::count(&args),
        Command::List(args) => lists::list(&args),
        Command::Import(args) => bulk::import::run(&args),
        Command::Export(args) => bulk::export::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Status(args) => server_state::status(&args),
        Command::Top(args) => top::run(&args),
        Command::Health(args) => server_state::health(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Repair(args) => backups::run_repair(&args),
        Command::Backup(args) => backups::run_backup(&args),
        Command::Restore(args) => backups::run_restore(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has read enough.
        Err(error) if output::is_stdout_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<clap::Error>() {
                usage.exit();
            }
            standard_error::say_last(&format!("profilestore: {}", text(&error)));
            ExitCode::from(code(&error))
        }
    }
}

/// Waits until what was said on standard error is out, however the program ends.
struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        standard_error::flush();
    }
}

/// The error with its causes, but for those whose text the error before them has said already.
fn text(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<SettingsError>() {
        BAD_CONFIGURATION
    } else if error.is::<WrongUsage>() {
        WRONG_USAGE
    } else if error.is::<SomeRejected>() {
        SOME_REJECTED
    } else if let Some(Interrupted { code }) = error.downcast_ref() {
        *code
    } else {
        1
    }
}
