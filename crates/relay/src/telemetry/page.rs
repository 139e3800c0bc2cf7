//! Every metric with its values, in Prometheus' text format 0.0.4.
//!
//! See <https://prometheus.io/docs/instrumenting/exposition_formats/>. Written here because a
//! client library would want each family registered a second time beside the list in `metrics`.

use std::{
    fmt::{Display, Write as _},
    sync::Arc,
};

use posthaste_store::{Pin, SubscriptionStatus};

use super::{
    histogram::{Histogram, Reading},
    meter::{BREACHES, Class, Counter, DATABASE_CLASSES, Lost, Meter, SourceMeter, What},
    metrics::{self, Metric},
    observer::{Observed, Observer},
    traces::SpanCounts,
};
use crate::monitor::{Gauge, Monitor, State};

/// Renders every family of the list in its order, each with its help even while it has no value.
pub(crate) fn render(monitor: &Monitor, observer: &Observer, spans: SpanCounts) -> String {
    let mut page = Page(String::with_capacity(32 << 10));
    page.subscriptions(monitor.gauges());
    page.source(monitor.source());
    page.traces(spans);
    let observed = observer.last();
    page.database(observed.as_deref());
    // Other relays tell of theirs.
    let is_ours = |status: &&SubscriptionStatus| {
        monitor.gauges().iter().any(|gauge| gauge.name() == status.name)
    };
    let all = observed.iter().flat_map(|observed| &observed.status.subscriptions);
    page.statuses(&all.filter(is_ours).collect::<Vec<_>>(), observer.holder());
    page.0
}

/// Renders what became of spans alone.
pub(crate) fn traces(spans: SpanCounts) -> String {
    let mut page = Page(String::new());
    page.traces(spans);
    page.0
}

struct Page(String);

impl Page {
    fn subscriptions(&mut self, gauges: &[Arc<Gauge>]) {
        self.counters(&metrics::PUBLISHED, gauges, |meter| &meter.published);
        self.counters(&metrics::ATTEMPTS, gauges, |meter| &meter.attempts);
        self.head(&metrics::ERRORS);
        for gauge in gauges {
            for class in Class::ALL {
                let count = gauge.meter().errors(class).get();
                self.sample(&metrics::ERRORS, &[gauge.name(), class.word()], count);
            }
        }
        self.counters(&metrics::REJECTED, gauges, |meter| &meter.rejected);
        self.counters(&metrics::RETRIES, gauges, |meter| &meter.retries);
        self.counters(&metrics::PANICS, gauges, |meter| &meter.panics);
        self.head(&metrics::SET_ASIDE_TOTAL);
        for gauge in gauges {
            for what in What::ALL {
                let count = gauge.meter().set_aside(what).get();
                self.sample(&metrics::SET_ASIDE_TOTAL, &[gauge.name(), what.word()], count);
            }
        }
        self.head(&metrics::LOST);
        for gauge in gauges {
            for what in Lost::ALL {
                let count = gauge.meter().lost(what).get();
                self.sample(&metrics::LOST, &[gauge.name(), what.word()], count);
            }
        }
        self.head(&metrics::BREACHES);
        for gauge in gauges {
            for code in BREACHES {
                let count = gauge.meter().breaches(code).get();
                self.sample(&metrics::BREACHES, &[gauge.name(), code], count);
            }
        }
        self.histograms(&metrics::BATCH_MESSAGES, gauges, |meter| &meter.batch_messages);
        self.histograms(&metrics::BATCH_DURATION, gauges, |meter| &meter.batch_duration);
        self.histograms(&metrics::COMMIT_TO_PUBLISH, gauges, |meter| &meter.commit_to_publish);
        self.head(&metrics::STATE);
        for gauge in gauges {
            let now = gauge.state();
            for state in State::ALL {
                let is_it = u8::from(state == now);
                self.sample(&metrics::STATE, &[gauge.name(), state.word()], is_it);
            }
        }
    }

    fn source(&mut self, meter: &SourceMeter) {
        self.single(&metrics::LOOKS, Some(meter.looks.get()));
        self.single(&metrics::TICKS, Some(meter.ticks.get()));
        self.single(&metrics::TICKING, Some(u8::from(meter.trouble().is_none())));
        self.single(&metrics::LATE, Some(meter.late_transactions.get()));
        self.single(&metrics::SLOTS_EMPTIED, Some(meter.slots_emptied.get()));
        self.head(&metrics::DATABASE_ERRORS);
        for (kind, word) in DATABASE_CLASSES {
            self.sample(&metrics::DATABASE_ERRORS, &[word], meter.errors(kind).get());
        }
    }

    fn traces(&mut self, spans: SpanCounts) {
        self.single(&metrics::SPANS_EXPORTED, Some(spans.exported));
        self.single(&metrics::SPANS_DROPPED, Some(spans.dropped));
        self.single(&metrics::SPAN_FAILURES, Some(spans.failures));
    }

    fn database(&mut self, observed: Option<&Observed>) {
        let status = observed.map(|observed| &observed.status);
        self.single(&metrics::OBSERVED_AT, observed.map(|observed| observed.at.0 as f64 / 1e6));
        self.single(&metrics::ENQUEUED, status.map(|status| status.head));
        self.single(&metrics::LOG_MESSAGES, status.map(|status| status.messages));
        let size = status.map(|status| &status.size);
        self.single(&metrics::LOG_BYTES, size.map(|size| size.bytes));
        self.single(&metrics::LOG_BYTES_MAX, size.and_then(|size| size.bytes_max));
        self.head(&metrics::PINNED);
        if let Some(size) = size {
            let by = size.pin.as_ref().map(Pin::word);
            for word in Pin::WORDS {
                self.sample(&metrics::PINNED, &[word], u8::from(by == Some(word)));
            }
        }
        self.single(&metrics::DEAD_TUPLES, status.and_then(|status| status.dead_tuples));
        self.head(&metrics::SLOTS);
        if let Some(slots) = status.and_then(|status| status.slots) {
            for (state, count) in
                [("all", slots.total), ("used", slots.used), ("shared", slots.shared)]
            {
                self.sample(&metrics::SLOTS, &[state], count);
            }
        }
    }

    fn statuses(&mut self, all: &[&SubscriptionStatus], holder: &str) {
        self.each(&metrics::BACKLOG, all, |status| status.backlog);
        self.each(&metrics::OLDEST_AGE, all, |status| status.lag_micros as f64 / 1e6);
        self.head(&metrics::SET_ASIDE);
        for status in all {
            let counts = [status.parked_keys, status.parked_messages, status.dead_letters];
            for (what, count) in What::ALL.iter().zip(counts) {
                self.sample(&metrics::SET_ASIDE, &[&status.name, what.word()], count);
            }
        }
        let is_held =
            |status: &SubscriptionStatus| u8::from(status.holder.as_deref() == Some(holder));
        self.each(&metrics::LEASE_HELD, all, is_held);
        self.each(&metrics::LEASE_EPOCH, all, |status| status.epoch);
    }

    fn counters(&mut self, metric: &Metric, gauges: &[Arc<Gauge>], of: fn(&Meter) -> &Counter) {
        self.head(metric);
        for gauge in gauges {
            self.sample(metric, &[gauge.name()], of(gauge.meter()).get());
        }
    }

    fn each<T: Display>(
        &mut self,
        metric: &Metric,
        all: &[&SubscriptionStatus],
        of: impl Fn(&SubscriptionStatus) -> T,
    ) {
        self.head(metric);
        for status in all {
            self.sample(metric, &[&status.name], of(status));
        }
    }

    fn single(&mut self, metric: &Metric, value: Option<impl Display>) {
        self.head(metric);
        if let Some(value) = value {
            self.sample(metric, &[], value);
        }
    }

    fn histograms(&mut self, metric: &Metric, gauges: &[Arc<Gauge>], of: fn(&Meter) -> &Histogram) {
        self.head(metric);
        for gauge in gauges {
            let histogram = of(gauge.meter());
            let (scale, Reading { up_to, sum }) = (histogram.scale(), histogram.read());
            let labels = || metric.labels.iter().copied().zip([gauge.name()]);
            for (nth, count) in up_to.iter().enumerate() {
                let bound = scale.bounds.get(nth).map(|bound| scale.shown(*bound).to_string());
                let le = ("le", bound.as_deref().unwrap_or("+Inf"));
                self.line(metric.name, "_bucket", labels().chain([le]), count);
            }
            self.line(metric.name, "_sum", labels(), scale.shown(sum));
            self.line(metric.name, "_count", labels(), up_to.last().unwrap_or(&0));
        }
    }

    fn head(&mut self, Metric { name, kind, help, .. }: &Metric) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.word());
    }

    /// One sample; `values` stand for the metric's labels.
    fn sample(&mut self, metric: &Metric, values: &[&str], value: impl Display) {
        let labels = metric.labels.iter().copied().zip(values.iter().copied());
        self.line(metric.name, "", labels, value);
    }

    fn line<'a>(
        &mut self,
        name: &str,
        suffix: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        value: impl Display,
    ) {
        let _ = write!(self.0, "{name}{suffix}");
        let mut mark = '{';
        for (label, value) in labels {
            let _ = write!(self.0, "{mark}{label}=\"");
            self.escaped(value);
            self.0.push('"');
            mark = ',';
        }
        let close = if mark == ',' { "}" } else { "" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn escaped(&mut self, value: &str) {
        for letter in value.chars() {
            match letter {
                '\n' => self.0.push_str("\\n"),
                '"' | '\\' => self.0.extend(['\\', letter]),
                letter => self.0.push(letter),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut page = Page(String::new());
        page.sample(&metrics::BACKLOG, &["a\"b\\c\nd"], 7);
        let expected = "posthaste_backlog_messages{subscription=\"a\\\"b\\\\c\\nd\"} 7\n";
        assert_eq!(page.0, expected);
    }
}
