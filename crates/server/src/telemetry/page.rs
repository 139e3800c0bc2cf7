//! Every metric with its values, in Prometheus' text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    sync::atomic::Ordering,
};

use posthaste_store::Census;

use super::{
    BOUNDS, CLASSES, Meter, RouteMeter, SubmissionMeter,
    metrics::{self, Metric},
};

/// Renders every family of the list in its order, each with its help even while it has no value.
pub(super) fn render(meter: &Meter) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    page.requests(meter);
    page.one(&metrics::IN_PROGRESS, meter.in_progress.get());
    let submissions = [("jobs", &*meter.jobs), ("messages", &*meter.messages)];
    page.submissions(&submissions);
    page.one(&metrics::STREAMS, meter.streams.open.get());
    page.one(&metrics::FRAMES, meter.streams.frames.get());
    page.one(&metrics::CUT_OFF, meter.streams.cut_off.get());
    let counted = meter.census.last();
    page.census(counted.as_ref().map(|counted| &*counted.census));
    page.head(&metrics::COUNTED);
    if let Some(counted) = counted {
        page.sample(&metrics::COUNTED, &[], counted.at.0 as f64 / 1_000_000.0);
    }
    page.0
}

struct Page(String);

impl Page {
    fn requests(&mut self, meter: &Meter) {
        let routes = meter.routes.iter();
        let mut all: Vec<(&str, &str, &RouteMeter)> = routes
            .flat_map(|(path, methods)| {
                methods.iter().map(move |(method, it)| (&**path, *method, it))
            })
            .collect();
        all.push(("none", "any", &meter.none));
        all.retain(|(.., it)| it.classes.iter().any(|count| count.get() > 0));
        all.sort_unstable_by_key(|(path, method, _)| (*path, *method));
        self.head(&metrics::REQUESTS);
        for (route, method, it) in &all {
            for (class, count) in CLASSES.iter().zip(&it.classes).filter(|(_, it)| it.get() > 0) {
                let labels = [("method", *method), ("route", *route), ("class", *class)];
                self.sample(&metrics::REQUESTS, &labels, count.get());
            }
        }
        self.head(&metrics::DURATION);
        for (route, method, it) in &all {
            self.histogram(&metrics::DURATION, &[("method", method), ("route", route)], it);
        }
    }

    fn histogram(&mut self, metric: &Metric, labels: &[(&str, &str)], of: &RouteMeter) {
        let name = metric.0;
        let mut total = 0;
        let bounds = BOUNDS.iter().map(|bound| (*bound as f64 / 1_000_000.0).to_string());
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&of.times) {
            total += count.get();
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.line(&format!("{name}_bucket"), &labels, total);
        }
        let sum = of.sum_micros.load(Ordering::Relaxed) as f64 / 1_000_000.0;
        self.line(&format!("{name}_sum"), labels, sum);
        self.line(&format!("{name}_count"), labels, total);
    }

    fn submissions(&mut self, kinds: &[(&str, &SubmissionMeter)]) {
        self.head(&metrics::SUBMISSIONS);
        for (what, of) in kinds {
            for (outcome, count) in
                [("written", &of.written), ("busy", &of.busy), ("failed", &of.failed)]
            {
                let labels = [("what", *what), ("outcome", outcome)];
                self.sample(&metrics::SUBMISSIONS, &labels, count.get());
            }
        }
        self.head(&metrics::TRANSACTIONS);
        for (what, of) in kinds {
            self.sample(&metrics::TRANSACTIONS, &[("what", *what)], of.transactions.get());
        }
    }

    fn census(&mut self, census: Option<&Census>) {
        self.head(&metrics::JOBS);
        for (state, jobs) in census.iter().flat_map(|census| &census.jobs) {
            self.sample(&metrics::JOBS, &[("state", state)], jobs);
        }
        let entities = || census.iter().flat_map(|census| &census.entities);
        self.head(&metrics::ENTITIES);
        for of in entities() {
            let labels = [("machine", &*of.machine), ("state", &*of.state)];
            self.sample(&metrics::ENTITIES, &labels, of.entities);
        }
        self.head(&metrics::STEPS);
        let mut steps: BTreeMap<&str, u64> = BTreeMap::new();
        for of in entities() {
            *steps.entry(&of.machine).or_default() += of.steps;
        }
        for (machine, steps) in steps {
            self.sample(&metrics::STEPS, &[("machine", machine)], steps);
        }
        self.head(&metrics::COMMANDS);
        if let Some(census) = census {
            let completed = census.commands_completed;
            self.sample(&metrics::COMMANDS, &[("state", "completed")], completed);
            let in_progress = census.commands_in_progress;
            self.sample(&metrics::COMMANDS, &[("state", "in_progress")], in_progress);
        }
    }

    fn one(&mut self, metric: &Metric, value: impl Display) {
        self.head(metric);
        self.sample(metric, &[], value);
    }

    fn head(&mut self, (name, kind, _, help): &Metric) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, metric: &Metric, labels: &[(&str, &str)], value: impl Display) {
        self.line(metric.0, labels, value);
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (nth, (label, of)) in labels.iter().enumerate() {
            let of = of.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(self.0, "{}{label}=\"{of}\"", if nth == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{Method, StatusCode};

    use super::*;
    use crate::telemetry::{Telemetry, reference};

    #[test]
    fn r38_requests_are_counted_by_route_and_class() {
        let telemetry = Telemetry::default();
        let meter = telemetry.meter();
        let ok = |micros| {
            let took = Duration::from_micros(micros);
            meter.answered(Some("/livez"), &Method::GET, StatusCode::OK, took);
        };
        ok(1_000);
        ok(1_001);
        let nothing = Method::from_bytes(b"EVIL").unwrap();
        meter.answered(Some("/livez"), &nothing, StatusCode::METHOD_NOT_ALLOWED, Duration::ZERO);
        meter.answered(None, &Method::GET, StatusCode::NOT_FOUND, Duration::ZERO);
        let in_progress = meter.begin();
        let page = telemetry.metrics();
        drop(in_progress);
        for line in [
            "posthaste_http_requests_total{method=\"GET\",route=\"/livez\",class=\"2xx\"} 2\n",
            "posthaste_http_requests_total{method=\"any\",route=\"none\",class=\"4xx\"} 2\n",
            "posthaste_http_request_duration_seconds_bucket{method=\"GET\",route=\"/livez\",le=\"0.001\"} 1\n",
            "posthaste_http_request_duration_seconds_bucket{method=\"GET\",route=\"/livez\",le=\"0.0025\"} 2\n",
            "posthaste_http_request_duration_seconds_sum{method=\"GET\",route=\"/livez\"} 0.002001\n",
            "posthaste_http_request_duration_seconds_count{method=\"GET\",route=\"/livez\"} 2\n",
            "posthaste_http_requests_in_progress 1\n",
            "posthaste_http_submissions_total{what=\"jobs\",outcome=\"written\"} 0\n",
        ] {
            assert!(page.contains(line), "{line}{page}");
        }
        assert!(telemetry.metrics().contains("posthaste_http_requests_in_progress 0\n"));
        let families: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        assert!(metrics::ALL.iter().map(|metric| metric.0).eq(families), "{page}");
        let reference = reference();
        assert!(
            metrics::ALL.iter().all(|metric| reference.contains(&format!("| `{}` |", metric.0)))
        );
    }

    #[test]
    fn labels_cannot_break_a_line() {
        let mut page = Page(String::new());
        page.line("a", &[("b", "x\"y\\z\n")], 1);
        assert_eq!(page.0, "a{b=\"x\\\"y\\\\z\\n\"} 1\n");
    }
}
