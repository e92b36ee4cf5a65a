//! `profilestore query`, `lookup`, `list`, `domains` and `count`.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use futures_util::{Stream, StreamExt};
use serde::Serialize;

use super::bulk::profile_json;
use super::connection::ConnectionArgs;
use super::output::{OutputArgs, Rows, stdout, to_json};
use super::profiles::{HEADERS, cells};
use crate::client::{ClientError, DomainSummary, PageOptions, Profile};

#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The domain.
    domain: String,
    /// The profiles of all its subdomains too.
    #[arg(long)]
    subdomains: bool,
    #[command(flatten)]
    listing: ListingArgs,
}

#[derive(Debug, Args)]
pub struct LookupArgs {
    /// The e-mail address, in any spelling.
    email: String,
    #[command(flatten)]
    listing: ListingArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    listing: ListingArgs,
}

#[derive(Debug, Args)]
pub struct DomainsArgs {
    /// Only this domain and its subdomains.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    domain: Option<String>,
    /// The domains with the most profiles first; at most 1000 of them.
    #[arg(long)]
    largest: bool,
    #[command(flatten)]
    listing: ListingArgs,
}

#[derive(Debug, Args)]
pub struct CountArgs {
    /// Only the profiles of this domain.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    domain: Option<String>,
    /// Those of all its subdomains too.
    #[arg(long, requires = "domain")]
    subdomains: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Args)]
struct ListingArgs {
    /// How many to print at most; 0 prints all.
    #[arg(long, value_name = "N", default_value = "100")]
    limit: usize,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub fn query(args: &QueryArgs) -> anyhow::Result<()> {
    args.listing.profiles(|client, options| client.query(&args.domain, args.subdomains, options))
}

pub fn lookup(args: &LookupArgs) -> anyhow::Result<()> {
    args.listing.profiles(|client, options| client.lookup(&args.email, options))
}

pub fn list(args: &ListArgs) -> anyhow::Result<()> {
    args.listing.profiles(|client, options| client.list(options))
}

pub fn domains(args: &DomainsArgs) -> anyhow::Result<()> {
    let listing = &args.listing;
    let domain = args.domain.as_deref().unwrap_or_default();
    listing.connection.run(async |client| {
        let print = |rows: &mut Rows, each: &DomainSummary| {
            let json = to_json(&DomainRow { domain: &each.domain, profile_count: each.profile_count });
            rows.row(&[each.domain.clone(), each.profile_count.to_string()], json)
        };
        let headers = &["domain", "profile_count"];
        if args.largest {
            let largest = client.largest_domains(domain, listing.page_size()).await;
            let largest = largest.map_err(|error| listing.connection.explain(error))?;
            listing.print(futures_util::stream::iter(largest.into_iter().map(Ok)), headers, print).await
        } else {
            listing.print(client.domains(domain, listing.page_size()), headers, print).await
        }
    })
}

pub fn count(args: &CountArgs) -> anyhow::Result<()> {
    let domain = args.domain.as_deref().unwrap_or_default();
    let count = args.connection.run(async |client| {
        client.count(domain, args.subdomains).await.map_err(|error| args.connection.explain(error))
    })?;
    if args.output.json() {
        let mut rows = args.output.rows(&[])?;
        rows.row(&[], to_json(&serde_json::json!({ "count": count })))?;
        return Ok(rows.finish()?);
    }
    use std::io::Write;
    Ok(writeln!(stdout(), "{count}")?)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DomainRow<'a> {
    domain: &'a str,
    profile_count: i64,
}

impl ListingArgs {
    /// Pages as large as they may be, unless fewer are wanted; 0 is the server's own choice and would be small.
    fn page_size(&self) -> i32 {
        if self.limit == 0 { 1000 } else { self.limit.min(1000) as i32 }
    }

    fn profiles<P>(&self, pages: impl FnOnce(&crate::client::Client, PageOptions) -> P) -> anyhow::Result<()>
    where
        P: Stream<Item = Result<Profile, ClientError>> + Unpin,
    {
        self.connection.run(async |client| {
            let options = PageOptions { page_size: self.page_size(), ..PageOptions::default() };
            let print = |rows: &mut Rows, profile: &Profile| {
                rows.row(&cells(profile), |line| profile_json::write(profile, true, line))
            };
            self.print(pages(&client, options), &HEADERS, print).await
        })
    }

    async fn print<T>(
        &self,
        mut found: impl Stream<Item = Result<T, ClientError>> + Unpin,
        headers: &'static [&'static str],
        print: impl Fn(&mut Rows, &T) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut rows = self.output.rows(headers)?;
        let mut printed = 0;
        while let Some(each) = found.next().await {
            let each = each.map_err(|error| self.connection.explain(error))?;
            if self.limit != 0 && printed == self.limit {
                rows.finish()?;
                eprintln!("profilestore: there are more; --limit 0 prints all");
                return Ok(());
            }
            print(&mut rows, &each)?;
            printed += 1;
        }
        Ok(rows.finish()?)
    }
}
