//! The variables `OTEL_…` by which programs are pointed to an OpenTelemetry collector
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>). They stand
//! over the file and below `POSTHASTE_…`.

use std::{collections::HashMap, ffi::OsString};

use toml::Value;

use super::{
    layers::{Entries, Key},
    problem::{Problem, Source},
};

/// Variables and the keys below `telemetry.traces` that they set.
const VARIABLES: [(&str, &str, &str); 3] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "endpoint", "the collector's URL for OTLP over HTTP"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "headers", "headers of each request"),
    ("OTEL_SERVICE_NAME", "service_name", "what the collector calls this service"),
];
/// Of the signals, only traces are sent: metrics are scraped.
const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
/// The protocol that is spoken.
const HTTP: &str = "http/protobuf";

/// Adds those of `variables` that are such settings; an empty one is as good as none.
pub(super) fn add(
    entries: &mut Entries,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<Problem> {
    let texts = variables.into_iter().filter_map(|(name, value)| {
        Some((name.into_string().ok()?, value.into_string().ok()?)).filter(|(_, v)| !v.is_empty())
    });
    let set: HashMap<String, String> = texts.collect();
    let is =
        |name: &str, value: &str| set.get(name).is_some_and(|it| it.eq_ignore_ascii_case(value));
    if is(DISABLED, "true") || is(EXPORTER, "none") {
        entries.remove(&key("endpoint"));
        return Vec::new();
    }
    for (name, setting, _) in VARIABLES {
        if let Some(value) = set.get(name) {
            let source = Source::Env(name.to_owned());
            entries.set(key(setting), Value::String(value.clone()), source);
        }
    }
    let is_used = set.contains_key(VARIABLES[0].0);
    match set.get(PROTOCOL) {
        Some(other) if is_used && other != HTTP => {
            let source = Source::Env(PROTOCOL.to_owned());
            let port = "name the collector's port for it, usually 4318";
            vec![Problem::whole(source, format!("must be {HTTP}, not {other:?}; {port}"))]
        }
        _ => Vec::new(),
    }
}

fn key(name: &str) -> Key {
    ["telemetry", "traces", name].map(str::to_owned).to_vec()
}

/// The section of the reference page.
pub(super) fn reference() -> String {
    let row = |(name, key, about): &(&str, &str, &str)| {
        format!("| `{name}` | `telemetry.traces.{key}` | {about} |\n")
    };
    let rows: String = VARIABLES.iter().map(row).collect();
    format!(
        "\n## Variables of OpenTelemetry\n\nThey stand over the file and below `POSTHASTE_…`. \
         `{DISABLED}=true` and `{EXPORTER}=none` switch\ntraces off; `{PROTOCOL}` must be `{HTTP}` \
         if it is set.\n\n| variable | sets | |\n|---|---|---|\n{rows}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(variables: &[(&str, &str)]) -> (Entries, usize) {
        let mut entries = Entries::default();
        let from_file = Value::String("http://file:4318".to_owned());
        entries.set(key("endpoint"), from_file, Source::Default);
        let own = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let problems = add(&mut entries, own).len();
        (entries, problems)
    }

    #[test]
    fn variables_stand_over_the_file_and_switch_off() {
        let endpoint = |entries: &Entries| {
            let entry = entries.get(&key("endpoint"));
            entry.and_then(|entry| entry.value.as_str().map(str::to_owned))
        };
        let (entries, problems) = after(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4318"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ]);
        assert_eq!((endpoint(&entries).as_deref(), problems), (Some("http://env:4318"), 0));
        assert!(entries.get(&key("service_name")).is_some());
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(endpoint(&after(&[off]).0), None);
        }
        let (entries, _) = after(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]);
        assert_eq!(endpoint(&entries).as_deref(), Some("http://file:4318"));
        let grpc = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ];
        assert_eq!(after(&grpc).1, 1);
    }
}
