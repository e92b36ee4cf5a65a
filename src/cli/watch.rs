//! `profilestore watch`: changes as lines of JSON.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::bulk::profile_json;
use super::connection::ConnectionArgs;
use super::token_file::TokenFile;
use crate::client::{EventType, ProfileEvent, WatchFrom, WatchOptions, Watched};

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only the profiles of this domain.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    domain: Option<String>,
    /// Those of all its subdomains too.
    #[arg(long, requires = "domain")]
    subdomains: bool,
    /// Where to start: `now`, `oldest`, or after the line that had this token.
    #[arg(long, value_name = "PLACE", default_value = "now", value_parser = parse_place)]
    from: WatchFrom,
    /// Print all current profiles first, then a line `{"type":"CURRENT",...}`.
    #[arg(long)]
    snapshot: bool,
    /// End after so many events; 0 follows without an end. With a token file the last message is printed to its end.
    #[arg(long, value_name = "N", default_value = "0")]
    limit: usize,
    /// Keep the place in this file, and go on from there, whatever `--from` and `--snapshot` say. A watch that was killed
    /// prints the lines of its last second again.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

fn parse_place(place: &str) -> Result<WatchFrom, String> {
    match place {
        "" => Err("must be now, oldest or a token".to_owned()),
        "now" => Ok(WatchFrom::Now),
        "oldest" => Ok(WatchFrom::Oldest),
        token => Ok(WatchFrom::Token(token.to_owned())),
    }
}

pub fn run(args: &WatchArgs) -> anyhow::Result<()> {
    args.connection.run(async |client| {
        let (mut file, token) = TokenFile::open(args.token_file.as_deref())?;
        let mut watch = client.watch(WatchOptions {
            include_snapshot: args.snapshot && token.is_none(),
            from: token.map_or_else(|| args.from.clone(), WatchFrom::Token),
            domain: args.domain.clone().unwrap_or_default(),
            include_subdomains: args.subdomains,
            ..WatchOptions::default()
        });
        let mut printed = 0;
        while let Some(message) = watch.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    file.write()?;
                    return Err(args.connection.explain(error));
                }
            };
            // A token stands behind whole messages only.
            let whole = args.limit == 0 || args.token_file.is_some();
            printed += print(&message, if whole { usize::MAX } else { args.limit - printed })?;
            file.keep(message.token)?;
            if args.limit != 0 && printed >= args.limit {
                break;
            }
        }
        file.write()
    })
}

/// Prints a message's events, at most so many, and returns how many. A token stands on the last line of the message,
/// because it is behind all of them.
fn print(message: &Watched, room: usize) -> io::Result<usize> {
    let mut out = super::output::stdout();
    let count = message.events.len().min(room);
    for (index, event) in message.events[..count].iter().enumerate() {
        let last = index + 1 == message.events.len();
        writeln!(out, "{}", line(event, last.then_some(&message.token)))?;
    }
    if message.current {
        writeln!(out, "{}", json!({ "type": "CURRENT", "resumeToken": message.token }))?;
    }
    out.flush()?;
    Ok(count)
}

fn line(event: &ProfileEvent, token: Option<&String>) -> Value {
    let name = match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
        EventType::Left => "LEFT",
        EventType::Unspecified => "UNSPECIFIED",
    };
    let mut line = json!({ "type": name, "id": event.id, "position": event.position });
    if let Some(time) = &event.commit_time {
        line["commitTime"] = time.to_string().into();
    }
    if let Some(profile) = &event.profile {
        let mut bytes = Vec::new();
        profile_json::write(profile, true, &mut bytes);
        // What was just written is JSON.
        line["profile"] = serde_json::from_slice(&bytes).unwrap_or_default();
    }
    if !event.traceparent.is_empty() {
        line["traceparent"] = event.traceparent.as_str().into();
    }
    if let Some(token) = token {
        line["resumeToken"] = token.clone().into();
    }
    line
}
