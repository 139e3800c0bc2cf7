//! Messages that carry the trace of their writer.

use std::collections::HashMap;

use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use posthaste::{Message, Traced as _};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

fn headers(message: &Message) -> HashMap<String, String> {
    message.header_pairs().iter().cloned().collect()
}

/// Has what `work` does recorded, as an application that uses `tracing` sets it up.
fn recorded(sampler: Sampler, work: impl FnOnce()) {
    let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, work);
}

#[test]
fn message_written_in_a_span_carries_its_context() {
    for (sampler, flags) in [(Sampler::AlwaysOn, "01"), (Sampler::AlwaysOff, "00")] {
        recorded(sampler, || {
            let span = tracing::info_span!("order");
            let _entered = span.enter();
            let context = span.context();
            let active = context.span().span_context().clone();
            let message = Message::new("a").header("tenant", "acme").in_current_trace();
            let expected = format!("00-{}-{}-{flags}", active.trace_id(), active.span_id());
            assert_eq!(headers(&message)["traceparent"], expected);
            assert_eq!(headers(&message)["tenant"], "acme");
            assert!(!headers(&message).contains_key("tracestate"));
        });
    }
}

#[test]
fn message_written_outside_of_a_span_stays_as_it_is() {
    recorded(Sampler::AlwaysOn, || {
        let message = Message::new("a");
        assert_eq!(message.clone().in_current_trace(), message);
    });
}
