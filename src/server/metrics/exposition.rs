//! Prometheus' text format, by the helpers of `metrics-exporter-prometheus`.

use std::fmt::Display;

use metrics::{Key, Label};
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::formatting::{write_help_line, write_metric_line, write_type_line};

use crate::figures::Distribution;

/// Nanoseconds in a second, by which latencies are shown.
pub const NANOSECONDS: f64 = 1e9;

/// Labels of one series: names and values from the code.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// A page in the making.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Begins a family of counters. The name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        debug_assert!(name.ends_with("_total"));
        self.family(name, "counter", help)
    }

    /// Begins a family of gauges.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// Begins a family of histograms.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    /// Adds what is in the format already.
    pub fn append(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The whole page.
    pub fn into_text(self) -> String {
        self.text
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        write_help_line(&mut self.text, name, None, None, help);
        write_type_line(&mut self.text, name, None, None, kind);
        Family { page: self, name }
    }
}

/// A family to which series are added.
pub struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Family<'_> {
    /// Adds a series.
    pub fn labelled(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.line(None, &label_set(self.name, labels), None, value);
        self
    }

    /// Adds a histogram; bounds and sum are divided by `scale`.
    pub fn distribution(&mut self, labels: Labels<'_>, seen: &Distribution, scale: f64) -> &mut Self {
        let labels = label_set(self.name, labels);
        let mut below = 0;
        for (count, bound) in seen.counts.iter().zip(seen.bounds) {
            below += count;
            self.line(Some("bucket"), &labels, Some(("le", (*bound as f64 / scale).to_string())), below);
        }
        let count = seen.count();
        self.line(Some("bucket"), &labels, Some(("le", "+Inf".to_owned())), count);
        self.line(Some("sum"), &labels, None, seen.sum as f64 / scale);
        self.line(Some("count"), &labels, None, count);
        self
    }

    fn line(
        &mut self,
        suffix: Option<&'static str>,
        labels: &LabelSet,
        more: Option<(&'static str, String)>,
        value: impl Display,
    ) {
        write_metric_line(&mut self.page.text, self.name, suffix, labels, more, value, None);
    }
}

fn label_set(name: &'static str, labels: Labels<'_>) -> LabelSet {
    let labels: Vec<Label> = labels.iter().map(|(key, value)| Label::new(*key, (*value).to_owned())).collect();
    LabelSet::from_key_and_global(&Key::from_parts(name, labels), &Default::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Histogram, SIZE_BOUNDS};

    #[test]
    fn a_page_has_help_type_and_cumulated_buckets() {
        let sizes = Histogram::new(&SIZE_BOUNDS);
        [1, 3, 3, 500].into_iter().for_each(|size| sizes.add(size));
        let mut page = Page::default();
        page.counter("a_total", "Things.").labelled(&[("kind", "x"), ("of", "\"y\"")], 7);
        page.histogram("b", "Sizes.").distribution(&[("kind", "x")], &sizes.distribution(), 1.0);
        let text = page.into_text();
        assert!(text.starts_with("# HELP a_total Things.\n# TYPE a_total counter\n"), "{text}");
        for line in [
            "a_total{kind=\"x\",of=\"\\\"y\\\"\"} 7",
            "b_bucket{kind=\"x\",le=\"1\"} 1",
            "b_bucket{kind=\"x\",le=\"4\"} 3",
            "b_bucket{kind=\"x\",le=\"128\"} 3",
            "b_bucket{kind=\"x\",le=\"+Inf\"} 4",
            "b_sum{kind=\"x\"} 507",
            "b_count{kind=\"x\"} 4",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        }
    }
}
