//! What the page is told, as JSON.
//!
//! Invariant: nothing here is personal data. Ids may be such, so they are shortened unless the operator has asked for
//! them whole.

use std::hash::{BuildHasher, RandomState};

use serde::Serialize;

use super::figures::{Figures, MethodRates, rounded};
use super::history::Columns;
use crate::observe::hot_keys::{HotKey, Hottest};
use crate::observe::slowest_calls::SlowCall;

/// All that the page shows.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    #[serde(flatten)]
    pub head: &'a Head,
    /// The number of the first of the points.
    pub first: u64,
    pub points: Columns,
}

/// All but the points; the same for everybody who asks within a second.
#[derive(Debug, Serialize)]
pub struct Head {
    pub server: ServerState,
    /// The last ten seconds.
    pub now: Figures,
    pub totals: Totals,
    /// Whether calls are counted at all.
    pub counts_calls: bool,
    pub methods: Vec<MethodRates>,
    pub hot: Hot,
    pub slow: Vec<Slow>,
}

#[derive(Debug, Serialize)]
pub struct ServerState {
    pub version: &'static str,
    pub engine: &'static str,
    /// `serving`, `draining` or `failed`.
    pub state: &'static str,
    pub uptime_seconds: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Totals {
    pub profiles: u64,
    pub domains: u64,
    pub live_bytes: u64,
    /// As of some seconds ago at most; `None` when it is not known.
    pub disk_bytes: Option<u64>,
    pub cache_entries: u64,
    pub cache_bytes: u64,
    pub cache_capacity_bytes: u64,
    pub cache_evictions: u64,
    pub watchers: u64,
}

#[derive(Debug, Serialize)]
pub struct Hot {
    /// How far back it goes.
    pub seconds: f64,
    /// Whether ids are shortened.
    pub masked: bool,
    pub ids: Vec<HotRow>,
    pub domains: Vec<HotRow>,
}

#[derive(Debug, Serialize)]
pub struct HotRow {
    pub key: String,
    pub reads: u64,
    pub per_second: f64,
    /// `reads` is too high by at most this.
    pub error: u64,
}

#[derive(Debug, Serialize)]
pub struct Slow {
    pub method: &'static str,
    pub code: &'static str,
    pub server_error: bool,
    pub ms: f64,
    pub source: Option<&'static str>,
    pub seconds_ago: u64,
}

/// How ids are shown.
#[derive(Debug)]
pub enum Ids {
    Whole,
    /// The first letter and a tag. The tag is made with a secret of this process, so that nobody finds the id by trying.
    Shortened(RandomState),
}

impl Ids {
    pub fn new(whole: bool) -> Self {
        if whole { Self::Whole } else { Self::Shortened(RandomState::new()) }
    }

    fn show(&self, id: String) -> String {
        match self {
            Self::Whole => id,
            Self::Shortened(secret) => {
                let first = id.chars().next().unwrap_or_default();
                format!("{first}… #{:06x}", secret.hash_one(&id) & 0xff_ffff)
            }
        }
    }
}

impl Hot {
    /// Hot keys as they may be shown.
    pub fn new(hottest: Hottest, ids: &Ids) -> Self {
        // A server that has just begun has hardly a window.
        let seconds = hottest.window.as_secs_f64().max(1.0);
        let row = |HotKey { key, reads, error }: HotKey| HotRow {
            key,
            reads,
            per_second: rounded(reads as f64 / seconds),
            error,
        };
        Self {
            seconds: rounded(seconds),
            masked: matches!(ids, Ids::Shortened(_)),
            ids: hottest.ids.into_iter().map(|hot| row(HotKey { key: ids.show(hot.key.clone()), ..hot })).collect(),
            domains: hottest.domains.into_iter().map(row).collect(),
        }
    }
}

impl Slow {
    /// A slow call as it is shown.
    pub fn new(call: &SlowCall, now: std::time::Instant) -> Self {
        Self {
            method: call.method.name(),
            code: call.code.name(),
            server_error: call.code.is_server_error(),
            ms: rounded(call.elapsed.as_secs_f64() * 1e3),
            source: call.source.map(crate::store::AnswerSource::name),
            seconds_ago: now.saturating_duration_since(call.ended).as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_id_tells_its_first_letter_and_can_be_told_from_others() {
        let ids = Ids::new(false);
        let shown = ids.show("ada@example.com".into());
        assert!(shown.starts_with("a… #") && shown.chars().count() == 10, "{shown}");
        assert_eq!(ids.show("ada@example.com".into()), shown, "it is the same every time");
        assert_ne!(ids.show("ada@example.org".into()), shown);
        assert_ne!(Ids::new(false).show("ada@example.com".into()), shown, "another process has another secret");
        assert_eq!(Ids::new(true).show("ada".into()), "ada");
    }
}
