//! Every alert has a unit test in which it fires and a section in the runbook, and every recorded series is used.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn text_of(folder: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// What follows a key, on each line that begins with it.
fn values<'a>(text: &'a str, key: &str) -> BTreeSet<&'a str> {
    text.lines()
        .filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(key))
        .map(str::trim)
        .collect()
}

#[test]
fn every_alert_is_seen_to_fire_and_has_a_section_in_the_runbook() {
    let (rules, tests) = (text_of("prometheus/rules"), text_of("prometheus/tests"));
    let runbook = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/RUNBOOK.md")).unwrap();
    let alerts = values(&rules, "alert:");
    assert!(alerts.len() > 30, "the alerts were not found");
    // An expectation that is not empty stands on lines of its own.
    let fires = |alert: &&str| tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n"));
    let silent: Vec<_> = alerts.iter().copied().filter(|alert| !fires(alert)).collect();
    assert!(silent.is_empty(), "alerts without a unit test in which they fire: {silent:?}");
    let sections = values(&runbook, "## ");
    let without: Vec<_> = alerts.difference(&sections).collect();
    assert!(without.is_empty(), "alerts without a section in the runbook: {without:?}");
}

#[test]
fn every_recorded_series_is_used() {
    let rules = text_of("prometheus/rules");
    let used = rules.clone() + &text_of("grafana");
    let unused: Vec<_> = values(&rules, "record:")
        .into_iter()
        // Once where it is recorded.
        .filter(|series| used.matches(*series).count() < 2)
        .collect();
    assert!(unused.is_empty(), "recorded and in no alert, rule or panel: {unused:?}");
}
