//! `profilestore get`, `put` and `delete`.

use std::io::Read;

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::bulk::profile_json;
use super::connection::ConnectionArgs;
use super::output::{OutputArgs, printable};
use crate::client::{DeleteOptions, Profile, UpdateOptions};

/// The most bytes of a profile's JSON on standard input.
const MAX_INPUT_BYTES: u64 = 1024 * 1024;
pub const HEADERS: [&str; 4] = ["id", "email", "display_name", "attributes"];

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The profile's id.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    /// Only these fields, for example `email,attributes.team`.
    #[arg(long, value_delimiter = ',', value_name = "FIELDS")]
    fields: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Args)]
pub struct PutArgs {
    /// The profile's id, or `-` to read the whole profile as JSON from standard input; an etag in it is ignored (see --etag).
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    /// The e-mail address.
    #[arg(long)]
    email: Option<String>,
    /// The display name.
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// An attribute; may be given several times.
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = key_and_value)]
    attributes: Vec<(String, String)>,
    /// Fail unless the profile has this etag.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    etag: Option<String>,
    /// Fail if there is such a profile.
    #[arg(long, conflicts_with_all = ["merge", "etag"])]
    create: bool,
    /// Change only what is given, and keep the rest of the profile; one that is missing is created (not with --etag). Without it the profile is replaced.
    #[arg(long)]
    merge: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The profile's id.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    /// Fail unless the profile has this etag.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    etag: Option<String>,
    /// Succeed when there is no such profile.
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub fn get(args: &GetArgs) -> anyhow::Result<()> {
    let found = args.connection.run(async |client| {
        client.get_masked(&args.id, args.fields.clone()).await.map_err(|error| args.connection.explain(error))
    })?;
    match found {
        Some(profile) => print(&profile, args.output),
        None => bail!("there is no profile with the id {}", args.id),
    }
}

pub fn put(args: &PutArgs) -> anyhow::Result<()> {
    let profile = args.profile()?;
    let stored = args.connection.run(async |client| {
        let stored = if args.create {
            client.create(profile).await
        } else {
            let mask = if args.merge { args.merge_mask(&profile) } else { vec!["*".to_owned()] };
            // With an etag the profile must be there.
            let allow_missing = profile.etag.is_empty();
            client.update(profile, UpdateOptions { mask, allow_missing }).await
        };
        stored.map_err(|error| args.connection.explain(error))
    })?;
    print(&stored, args.output)
}

pub fn delete(args: &DeleteArgs) -> anyhow::Result<()> {
    let options = DeleteOptions { etag: args.etag.clone().unwrap_or_default(), allow_missing: args.allow_missing };
    args.connection
        .run(async |client| client.delete(&args.id, options).await.map_err(|error| args.connection.explain(error)))?;
    // With --allow-missing the server does not tell the two cases apart.
    let sentence = if args.allow_missing {
        format!("deleted {}, or there was no such profile", printable(&args.id))
    } else {
        format!("deleted {}", printable(&args.id))
    };
    Ok(args.output.done(&sentence, &serde_json::json!({ "id": args.id }))?)
}

impl PutArgs {
    fn profile(&self) -> anyhow::Result<Profile> {
        let mut profile = if self.id == "-" {
            let mut json = Vec::new();
            std::io::stdin().take(MAX_INPUT_BYTES).read_to_end(&mut json).context("standard input cannot be read")?;
            let mut profile = profile_json::parse(&json)
                .map_err(|reason| anyhow::anyhow!("standard input is not a profile: {reason}"))?;
            // An etag in the input is that of the version that was read once, and not a condition.
            profile.etag.clear();
            profile
        } else {
            Profile { id: self.id.clone(), ..Profile::default() }
        };
        if let Some(email) = &self.email {
            profile.email.clone_from(email);
        }
        if let Some(name) = &self.display_name {
            profile.display_name.clone_from(name);
        }
        profile.attributes.extend(self.attributes.iter().cloned());
        if let Some(etag) = &self.etag {
            profile.etag.clone_from(etag);
        }
        Ok(profile)
    }

    /// The fields that are given by options, also as empty, or that standard input has; each attribute by itself.
    fn merge_mask(&self, profile: &Profile) -> Vec<String> {
        let mut mask: Vec<_> = profile.attributes.keys().map(|key| format!("attributes.{key}")).collect();
        let mut add = |name: &str, is_given: bool| mask.extend(is_given.then(|| name.to_owned()));
        add("email", self.email.is_some() || !profile.email.is_empty());
        add("display_name", self.display_name.is_some() || !profile.display_name.is_empty());
        mask
    }
}

fn key_and_value(given: &str) -> Result<(String, String), String> {
    match given.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// The cells of a profile, under [`HEADERS`].
pub fn cells(profile: &Profile) -> [String; 4] {
    let attributes: Vec<_> = profile.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    [profile.id.clone(), profile.email.clone(), profile.display_name.clone(), attributes.join(", ")]
}

/// Prints one profile, a field in each row.
fn print(profile: &Profile, output: OutputArgs) -> anyhow::Result<()> {
    let mut rows = output.rows(&["field", "value"])?;
    if output.json() {
        rows.row(&[], |line| profile_json::write(profile, true, line))?;
        return Ok(rows.finish()?);
    }
    let time = |time: Option<prost_types::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let mut fields = vec![
        ("id".to_owned(), profile.id.clone()),
        ("email".to_owned(), profile.email.clone()),
        ("display_name".to_owned(), profile.display_name.clone()),
    ];
    fields.extend(profile.attributes.iter().map(|(key, value)| (format!("attributes.{key}"), value.clone())));
    fields.extend([
        ("domain".to_owned(), profile.domain.clone()),
        ("etag".to_owned(), profile.etag.clone()),
        ("create_time".to_owned(), time(profile.create_time)),
        ("update_time".to_owned(), time(profile.update_time)),
    ]);
    for (name, value) in fields {
        if !value.is_empty() {
            rows.row(&[name, value], |_| {})?;
        }
    }
    Ok(rows.finish()?)
}
