//! What happened between two looks.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::look::Look;
use crate::client::{CacheStatus, GetStatusResponse, HotKey, MethodStatus};
use crate::figures::quantile;

/// What a server did in a time. The names are those of the API where it has them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When, in seconds since 1970.
    pub time: f64,
    pub version: String,
    pub uptime_seconds: i64,
    /// How long the rates are about.
    pub interval_seconds: f64,
    /// `None` when the server counts no calls.
    pub calls_per_second: Option<f64>,
    /// Calls that ended with a code that is the server's fault.
    pub server_errors_per_second: Option<f64>,
    /// Of calls that are no streams.
    pub p50_millis: Option<f64>,
    pub p99_millis: Option<f64>,
    /// The part of the reads that the cache answered; `None` without reads.
    pub hit_ratio: Option<f64>,
    pub profile_count: i64,
    pub domain_count: i64,
    pub live_bytes: i64,
    /// `None` when the disk does not answer.
    pub disk_bytes: Option<i64>,
    pub cache_bytes: i64,
    pub watcher_count: i64,
    /// The methods that were called in the time, the most called first.
    pub methods: Vec<MethodReport>,
    /// How far back the hot keys go.
    pub window_seconds: f64,
    pub ids: Vec<KeyReport>,
    pub domains: Vec<KeyReport>,
}

/// What became of the calls of a method.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodReport {
    pub method: String,
    pub calls_per_second: f64,
    pub errors_per_second: f64,
    pub server_errors_per_second: f64,
    pub p50_millis: Option<f64>,
    pub p99_millis: Option<f64>,
}

/// A hot key.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyReport {
    pub key: String,
    pub reads_per_second: f64,
    pub read_count: i64,
    pub error_bound: i64,
}

impl Report {
    /// What the server did from one look to the next.
    pub fn between(before: &Look, now: &Look) -> Self {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(1e-3);
        let status = &now.status;
        let bounds: Vec<u64> = status.latency_bounds.iter().map(|bound| nanos(Some(bound))).collect();
        let calls = calls_between(&before.status, status);
        let counted = !status.latency_bounds.is_empty();
        let rate =
            |count: fn(&MethodStatus) -> i64| counted.then(|| calls.iter().map(count).sum::<i64>() as f64 / seconds);
        let all = unary_latencies(&calls, bounds.len() + 1);
        let mut methods: Vec<_> =
            calls.iter().filter(|of| is_busy(of)).map(|of| method(of, &bounds, seconds)).collect();
        methods.sort_by(|a, b| b.calls_per_second.total_cmp(&a.calls_per_second));
        let window = nanos(now.hot.window.as_ref()) as f64 / 1e9;
        let keys = |keys: &[HotKey]| keys.iter().map(|key| hot_key(key, window)).collect();
        Self {
            time: now.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            version: status.version.clone(),
            uptime_seconds: status.uptime.as_ref().map_or(0, |uptime| uptime.seconds),
            interval_seconds: seconds,
            calls_per_second: rate(|of| of.latency_counts.iter().sum()),
            server_errors_per_second: rate(|of| of.server_error_count),
            p50_millis: millis(&bounds, &all, 0.5),
            p99_millis: millis(&bounds, &all, 0.99),
            hit_ratio: hit_ratio(before.status.cache.as_ref(), status.cache.as_ref()),
            profile_count: status.profile_count,
            domain_count: status.domain_count,
            live_bytes: status.live_bytes,
            disk_bytes: status.disk_bytes,
            cache_bytes: status.cache.as_ref().map_or(0, |cache| cache.size_bytes),
            watcher_count: status.feed.as_ref().map_or(0, |feed| feed.watcher_count),
            methods,
            window_seconds: window,
            ids: keys(&now.hot.ids),
            domains: keys(&now.hot.domains),
        }
    }

    /// When, for people.
    pub fn time_of_day(&self) -> String {
        let time = UNIX_EPOCH + Duration::from_secs_f64(self.time.max(0.0));
        prost_types::Timestamp::from(SystemTime::min(time, SystemTime::now())).to_string()
    }
}

fn nanos(duration: Option<&prost_types::Duration>) -> u64 {
    let duration = duration.and_then(|duration| Duration::try_from(*duration).ok()).unwrap_or_default();
    crate::figures::nanos(duration)
}

/// The counts of each method from one status to the next. A server that was started anew counts from nothing.
fn calls_between(before: &GetStatusResponse, now: &GetStatusResponse) -> Vec<MethodStatus> {
    let earlier: BTreeMap<_, _> = before.methods.iter().map(|of| (of.method.as_str(), of)).collect();
    let since = |of: &MethodStatus| match earlier.get(of.method.as_str()) {
        Some(earlier) if earlier.started_count <= of.started_count => MethodStatus {
            method: of.method.clone(),
            streaming: of.streaming,
            started_count: of.started_count - earlier.started_count,
            error_count: of.error_count - earlier.error_count,
            server_error_count: of.server_error_count - earlier.server_error_count,
            latency_counts: of
                .latency_counts
                .iter()
                .zip(&earlier.latency_counts)
                .map(|(now, then)| now - then)
                .collect(),
        },
        _ => of.clone(),
    };
    now.methods.iter().map(since).collect()
}

fn is_busy(of: &MethodStatus) -> bool {
    of.started_count > 0 || of.latency_counts.iter().any(|count| *count > 0)
}

/// The latencies of all calls that are no streams.
fn unary_latencies(calls: &[MethodStatus], buckets: usize) -> Vec<i64> {
    let mut all = vec![0; buckets];
    for of in calls.iter().filter(|of| !of.streaming) {
        all.iter_mut().zip(&of.latency_counts).for_each(|(sum, count)| *sum += count);
    }
    all
}

fn millis(bounds: &[u64], counts: &[i64], part: f64) -> Option<f64> {
    let counts: Vec<u64> = counts.iter().map(|count| u64::try_from(*count).unwrap_or(0)).collect();
    quantile(bounds, &counts, part).map(|nanos| nanos / 1e6)
}

fn method(of: &MethodStatus, bounds: &[u64], seconds: f64) -> MethodReport {
    MethodReport {
        method: of.method.clone(),
        calls_per_second: of.latency_counts.iter().sum::<i64>() as f64 / seconds,
        errors_per_second: of.error_count as f64 / seconds,
        server_errors_per_second: of.server_error_count as f64 / seconds,
        p50_millis: millis(bounds, &of.latency_counts, 0.5),
        p99_millis: millis(bounds, &of.latency_counts, 0.99),
    }
}

fn hit_ratio(before: Option<&CacheStatus>, now: Option<&CacheStatus>) -> Option<f64> {
    let reads = |of: &CacheStatus| (of.hit_count + of.negative_hit_count, of.miss_count);
    let (hits, misses) = reads(now?);
    let (hits, misses) = match before.map(reads) {
        Some((hits_then, misses_then)) if hits_then <= hits && misses_then <= misses => {
            (hits - hits_then, misses - misses_then)
        }
        _ => (hits, misses),
    };
    (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64)
}

fn hot_key(key: &HotKey, window: f64) -> KeyReport {
    KeyReport {
        key: key.key.clone(),
        // A server that has just begun has hardly a window.
        reads_per_second: key.read_count as f64 / window.max(1.0),
        read_count: key.read_count,
        error_bound: key.error_bound,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::client::GetHotKeysResponse;

    fn calls(method: &str, streaming: bool, counts: [i64; 3], errors: i64) -> MethodStatus {
        MethodStatus {
            method: method.to_owned(),
            streaming,
            started_count: counts.iter().sum(),
            error_count: errors,
            server_error_count: errors / 2,
            latency_counts: counts.to_vec(),
        }
    }

    fn look(at: Instant, methods: Vec<MethodStatus>, hits: i64, misses: i64) -> Look {
        let cache =
            CacheStatus { hit_count: hits, miss_count: misses, negative_hit_count: hits, ..Default::default() };
        let bound = |millis| prost_types::Duration::try_from(Duration::from_millis(millis)).unwrap();
        let status = GetStatusResponse {
            methods,
            latency_bounds: vec![bound(10), bound(20)],
            cache: Some(cache),
            ..Default::default()
        };
        let hot = GetHotKeysResponse {
            ids: vec![HotKey { key: "a".into(), read_count: 100, error_bound: 3 }],
            domains: Vec::new(),
            window: Some(bound(50_000)),
        };
        Look { at, time: UNIX_EPOCH + Duration::from_secs(3), status, hot }
    }

    #[test]
    fn a_report_is_about_the_time_between_two_looks() {
        let start = Instant::now();
        let before =
            look(start, vec![calls("Get", false, [100, 0, 0], 0), calls("Old", false, [5, 0, 0], 0)], 10, 20);
        let after = vec![
            calls("Get", false, [150, 49, 1], 4),
            calls("Old", false, [5, 0, 0], 0),
            calls("Watch", true, [0, 0, 300], 0),
        ];
        let report = Report::between(&before, &look(start + Duration::from_secs(2), after, 40, 40));
        assert_eq!(report.calls_per_second, Some(200.0));
        assert_eq!(report.server_errors_per_second, Some(1.0));
        assert_eq!((report.p50_millis, report.p99_millis), (Some(10.0), Some(20.0)), "without the stream");
        assert_eq!(report.hit_ratio, Some(0.75));
        let names: Vec<_> = report.methods.iter().map(|of| of.method.as_str()).collect();
        assert_eq!(names, ["Watch", "Get"], "the most called first, and none that was not called");
        assert_eq!((report.methods[1].calls_per_second, report.methods[1].errors_per_second), (50.0, 2.0));
        assert_eq!((report.ids[0].reads_per_second, report.ids[0].error_bound), (2.0, 3));
    }

    #[test]
    fn a_server_that_was_started_anew_counts_from_nothing() {
        let start = Instant::now();
        let before = look(start, vec![calls("Get", false, [100, 0, 0], 0)], 100, 100);
        let report = Report::between(
            &before,
            &look(start + Duration::from_secs(1), vec![calls("Get", false, [30, 0, 0], 0)], 1, 2),
        );
        assert_eq!((report.calls_per_second, report.hit_ratio), (Some(30.0), Some(0.5)));
    }

    #[test]
    fn a_server_that_counts_no_calls_has_no_rates() {
        let start = Instant::now();
        let mut silent = look(start, Vec::new(), 0, 0);
        silent.status.latency_bounds.clear();
        let report = Report::between(&silent, &Look { at: start + Duration::from_secs(1), ..silent.clone() });
        assert_eq!((report.calls_per_second, report.p50_millis, report.hit_ratio), (None, None, None));
        assert!(serde_json::to_string(&report).unwrap().contains("\"callsPerSecond\":null"));
    }
}
