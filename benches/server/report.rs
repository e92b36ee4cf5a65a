//! Interleaved rounds, their medians, and the bars.

use super::load::{Load, Sample};
use super::peer::Peer;

/// A server under a load.
pub struct Contender<'a> {
    pub peer: &'a Peer,
    pub load: Load,
    /// Requests of one round.
    pub requests: u64,
}

/// What a table found for one contender.
pub struct Finding {
    pub name: &'static str,
    /// The CPU of the first contender against this one's, the median of the rounds' ratios.
    pub cpu_ratio: f64,
    /// The rate of the first contender against this one's.
    pub rate_ratio: f64,
}

/// Loads the contenders in turn, once to warm up and `rounds` times for the record, and prints a row for each.
/// A figure is per item, of which a request has `items`.
pub async fn table(
    title: &str,
    item: &str,
    items: u64,
    rounds: usize,
    contenders: &[Contender<'_>],
) -> anyhow::Result<Vec<Finding>> {
    println!("\n{title}");
    println!(
        "  {:<24} {:>12} {:>22} {:>20} {:>20}",
        "server",
        format!("{item}s/s"),
        format!("CPU us per {item}"),
        "CPU, ours/this",
        "rate, ours/this"
    );
    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            let requests = if round == 0 { contender.requests / 4 } else { contender.requests };
            let sample = contender.load.measure(contender.peer, requests).await?;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    let mut findings = Vec::new();
    for (contender, of_this) in contenders.iter().zip(&samples) {
        let against = |figure: fn(&Sample) -> f64| {
            median(samples[0].iter().zip(of_this).map(|(ours, this)| figure(ours) / figure(this)).collect())
        };
        let finding = Finding {
            name: contender.peer.name,
            cpu_ratio: against(|sample| sample.cpu_micros),
            rate_ratio: against(|sample| sample.per_second),
        };
        println!(
            "  {:<24} {:>12.0} {:>22.2} {:>20.2} {:>20.2}",
            finding.name,
            median(of_this.iter().map(|sample| sample.per_second).collect()) * items as f64,
            median(of_this.iter().map(|sample| sample.cpu_micros).collect()) / items as f64,
            finding.cpu_ratio,
            finding.rate_ratio,
        );
        findings.push(finding);
    }
    Ok(findings)
}

/// The findings against one peer.
pub fn against<'a>(findings: &'a [Finding], name: &str) -> Option<&'a Finding> {
    findings.iter().find(|finding| finding.name == name)
}

/// The bars and what was measured for them.
#[derive(Default)]
pub struct Bars(Vec<(String, String)>);

impl Bars {
    /// A ratio that should not be above a limit.
    pub fn at_most(&mut self, what: &str, limit: f64, measured: Option<f64>) {
        self.add(what, &format!("<= {limit}"), measured, |measured| measured <= limit);
    }

    /// A ratio that should not be below a limit.
    pub fn at_least(&mut self, what: &str, limit: f64, measured: Option<f64>) {
        self.add(what, &format!(">= {limit}"), measured, |measured| measured >= limit);
    }

    fn add(&mut self, what: &str, limit: &str, measured: Option<f64>, met: impl Fn(f64) -> bool) {
        let verdict = match measured {
            Some(measured) => format!("{limit:>8} {measured:>8.2}  {}", if met(measured) { "met" } else { "MISSED" }),
            None => format!("{limit:>8} {:>8}  not measured", "-"),
        };
        self.0.push((what.to_owned(), verdict));
    }

    /// Prints them.
    pub fn print(&self) {
        println!("\nbars (ours against the other)");
        for (what, verdict) in &self.0 {
            println!("  {what:<76} {verdict}");
        }
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
