//! The standard variables of OpenTelemetry that stand for settings of ours: `OTEL_EXPORTER_OTLP_ENDPOINT` and
//! `OTEL_TRACES_SAMPLER`, with what belongs to them. They go before our defaults and behind everything else.
//!
//! The other variables (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_*`, `OTEL_EXPORTER_OTLP_HEADERS` and
//! so on) are read by OpenTelemetry itself.

use super::observe_settings::is_endpoint;

/// What variables stand for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Standard {
    /// Settings: a dotted key and a value each.
    pub settings: Vec<(&'static str, String)>,
    /// Variables with a value that we have no use for. They may well be meant for other programs, so they are no error.
    pub unusable: Vec<&'static str>,
}

/// What the process's variables stand for.
pub fn standard() -> Standard {
    standard_of(|name| std::env::var(name).ok())
}

fn standard_of(variable: impl Fn(&str) -> Option<String>) -> Standard {
    let variable = |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let is = |name, value: &str| variable(name).is_some_and(|is| is.eq_ignore_ascii_case(value));
    let mut standard = Standard::default();
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return standard;
    }
    let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    if let Some((name, endpoint)) = endpoints.into_iter().find_map(|name| Some((name, variable(name)?))) {
        match is_endpoint(&endpoint) {
            true => standard.settings.push(("observe.otlp_endpoint", endpoint)),
            false => standard.unusable.push(name),
        }
    }
    let sampler = variable("OTEL_TRACES_SAMPLER").unwrap_or_default();
    let argument = || variable("OTEL_TRACES_SAMPLER_ARG").unwrap_or_else(|| "1".to_owned());
    // Parents decide in any case.
    let ratio = match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
        "" => return standard,
        "always_on" => "1".to_owned(),
        "always_off" => "0".to_owned(),
        "traceidratio" => argument(),
        _ => String::new(),
    };
    match ratio.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio)) {
        true => standard.settings.push(("observe.trace_ratio", ratio)),
        false => standard.unusable.push("OTEL_TRACES_SAMPLER"),
    }
    standard
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Standard {
        standard_of(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    #[track_caller]
    fn assert_settings(variables: &[(&str, &str)], settings: &[(&'static str, &str)]) {
        let settings = settings.iter().map(|(key, value)| (*key, value.to_string())).collect();
        assert_eq!(of(variables), Standard { settings, unusable: Vec::new() });
    }

    #[test]
    fn the_standard_variables_stand_for_settings() {
        let (endpoint, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        assert_settings(&[], &[]);
        assert_settings(&[(endpoint, "http://a:1")], &[("observe.otlp_endpoint", "http://a:1")]);
        let both = [(endpoint, "http://a:1"), (traces, "http://b:1")];
        assert_settings(&both, &[("observe.otlp_endpoint", "http://b:1")]);
        let one_empty = [(endpoint, "http://a:1"), (traces, " ")];
        assert_settings(&one_empty, &[("observe.otlp_endpoint", "http://a:1")]);
        for (sampler, argument, ratio) in [
            ("always_on", "0.5", "1"),
            ("parentbased_always_off", "0.5", "0"),
            ("parentbased_traceidratio", "0.5", "0.5"),
            ("traceidratio", "", "1"),
        ] {
            let variables = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            assert_settings(&variables, &[("observe.trace_ratio", ratio)]);
        }
        assert_settings(&[(endpoint, "http://a:1"), ("OTEL_SDK_DISABLED", "TRUE")], &[]);
        assert_settings(&[(endpoint, "http://a:1"), ("OTEL_TRACES_EXPORTER", "none")], &[]);
    }

    #[test]
    fn what_is_meant_for_other_programs_is_named_and_not_used() {
        let encrypted = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a:1"), ("OTEL_TRACES_SAMPLER", "jaeger_remote")];
        let unusable = vec!["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER"];
        assert_eq!(of(&encrypted), Standard { settings: Vec::new(), unusable });
        let argument = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "1.5")];
        assert_eq!(of(&argument).unusable, ["OTEL_TRACES_SAMPLER"]);
    }
}
