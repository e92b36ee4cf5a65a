//! `profilestore top`: what a server does now, again and again.
//!
//! Two looks at a server ([`look`]) make a report of the time between them ([`report`]), which is shown as a screen,
//! as lines or as JSON ([`show`]).

mod look;
mod report;
mod show;

use std::io::Write;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use clap::Args;

use self::look::Look;
use self::report::Report;
use self::show::Display;
use super::connection::ConnectionArgs;
use super::output::OutputArgs;

const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// After so many looks in a row without an answer it ends, if it has a number of reports to make; else it goes on, for
/// whoever looks wants to see when the server is back.
const MOST_MISSED: u32 = 5;

#[derive(Debug, Args)]
pub struct TopArgs {
    /// How often to look, from 100ms to 1h.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// End after so many reports; 0 goes on for ever.
    #[arg(long, value_name = "N", default_value = "0")]
    count: u64,
    /// Report once: the same as --count 1.
    #[arg(long, conflicts_with = "count")]
    once: bool,
    /// How many ids and domains to show.
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if INTERVALS.contains(&time) { Ok(time) } else { Err("must be 100ms to 1h".to_owned()) }
}

pub fn run(args: &TopArgs) -> anyhow::Result<()> {
    let count = if args.once { 1 } else { args.count };
    args.connection.run(async |client| {
        let mut display = Display::new(args.output.json(), args.connection.addr());
        let mut due = Instant::now();
        let mut before = Look::at(&client, args.limit).await.map_err(|error| args.connection.explain(error))?;
        let (mut reports, mut missed) = (0, 0);
        loop {
            due += args.interval;
            tokio::time::sleep_until(due.into()).await;
            // After an answer that took longer than the interval the next one is not hurried.
            due = due.max(Instant::now());
            let now = match Look::at(&client, args.limit).await {
                Ok(now) => now,
                Err(error) => {
                    missed += 1;
                    let error = args.connection.explain(error);
                    if count > 0 && missed == MOST_MISSED {
                        return Err(error);
                    }
                    // Nobody may read it; the next look tells more.
                    let _ = writeln!(std::io::stderr(), "profilestore: no answer: {error:#}");
                    continue;
                }
            };
            missed = 0;
            display.show(&Report::between(&before, &now))?;
            before = now;
            reports += 1;
            if reports == count {
                return Ok(());
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_bounded() {
        assert_eq!(interval("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "5", "99ms", "2h", "-1s"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
