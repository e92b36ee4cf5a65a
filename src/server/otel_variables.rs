//! The standard variables of OpenTelemetry that stand for settings of ours: `OTEL_EXPORTER_OTLP_ENDPOINT` and
//! `OTEL_TRACES_SAMPLER`, with what belongs to them. They go before our defaults and behind everything else.
//!
//! The other variables (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_*`, `OTEL_EXPORTER_OTLP_HEADERS` and
//! so on) are read by OpenTelemetry itself.

/// The settings that the process's variables stand for: a dotted key and a value each.
pub fn settings() -> Vec<(&'static str, String)> {
    settings_of(|name| std::env::var(name).ok())
}

fn settings_of(variable: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let variable = |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let is = |name, value: &str| variable(name).is_some_and(|is| is.eq_ignore_ascii_case(value));
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return Vec::new();
    }
    let endpoint = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let sampler = variable("OTEL_TRACES_SAMPLER").unwrap_or_default();
    // Parents decide in any case.
    let ratio = match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
        "always_on" => Some("1".to_owned()),
        "always_off" => Some("0".to_owned()),
        "traceidratio" => Some(variable("OTEL_TRACES_SAMPLER_ARG").unwrap_or_else(|| "1".to_owned())),
        _ => None,
    };
    let endpoint = endpoint.map(|endpoint| ("observe.otlp_endpoint", endpoint));
    endpoint.into_iter().chain(ratio.map(|ratio| ("observe.trace_ratio", ratio))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        settings_of(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn the_standard_variables_stand_for_settings() {
        let (endpoint, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[(endpoint, "http://a:1")]), [("observe.otlp_endpoint", "http://a:1".to_owned())]);
        assert_eq!(of(&[(endpoint, "x"), (traces, "y")]), [("observe.otlp_endpoint", "y".to_owned())]);
        assert_eq!(of(&[(endpoint, "x"), (traces, "")]), [("observe.otlp_endpoint", "x".to_owned())]);
        for (sampler, argument, ratio) in [
            ("always_on", "0.5", "1"),
            ("parentbased_always_off", "0.5", "0"),
            ("parentbased_traceidratio", "0.5", "0.5"),
            ("traceidratio", "", "1"),
        ] {
            let variables = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            assert_eq!(of(&variables), [("observe.trace_ratio", ratio.to_owned())], "{sampler}");
        }
        assert_eq!(of(&[("OTEL_TRACES_SAMPLER", "jaeger_remote")]), []);
        assert_eq!(of(&[(endpoint, "x"), ("OTEL_SDK_DISABLED", "TRUE")]), []);
        assert_eq!(of(&[(endpoint, "x"), ("OTEL_TRACES_EXPORTER", "none")]), []);
    }
}
