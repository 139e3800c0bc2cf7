//! Traces: spans of what the relay publishes, after the OpenTelemetry conventions for messaging
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>). Topics, ids and
//! reasons; never a payload or an ordering key.
//!
//! Where a writer's trace is sampled, each try of its message becomes a span below the writer's, and
//! each try of a batch that holds such a message one span with links to them. How they are exported
//! is `posthaste_traces`' matter.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::{
    Span, Status,
    span::{Link, SpanKind},
    status::StatusCode,
};
use posthaste_core::{Headers, MessageRef, Page, Timestamp};
use posthaste_traces::{
    Attribute, Built, Context, HAS_REMOTE, IS_REMOTE, SAMPLED, number, random_span_id,
    random_trace_id, text,
};

use super::page;
use crate::policy::Unaccepted;

pub use posthaste_traces::{
    Exporter, SpanCounts, TraceSettings, TraceSettingsError, Tracer, start,
};

/// Links of one span; the rest is counted (the limit of the OpenTelemetry specification).
const LINKS_MAX: usize = 128;
/// A try of a batch, and what came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) subscription: &'a str,
    pub(crate) page: &'a Page,
    /// Numbers of its messages in the page, ascending.
    pub(crate) batch: &'a [u32],
    /// By this machine's clock.
    pub(crate) began: Timestamp,
    pub(crate) took: Duration,
    /// What was not accepted, ascending; or why nothing is known of any message.
    pub(crate) outcome: Result<&'a [Unaccepted], &'a str>,
}

/// What became of spans, in Prometheus' text format 0.0.4: for a process without a relay, whose page
/// would hold it. All zero without a tracer.
pub fn metrics(tracer: Option<&Tracer>) -> String {
    page::traces(counts(tracer))
}

pub(super) fn counts(tracer: Option<&Tracer>) -> SpanCounts {
    tracer.map(Tracer::counts).unwrap_or_default()
}

/// Notes a try of a batch, if a message of it is sampled. Never waits.
pub(crate) fn attempted(tracer: &Tracer, attempt: &Attempt<'_>) {
    tracer.add(|room| of(attempt, room));
}

/// The writer's span, if its trace is sampled.
fn writer<'a>(headers: &Headers<'a>) -> Option<Context<'a>> {
    Context::sampled(headers.get("traceparent")?, headers.get("tracestate").unwrap_or_default())
}

/// One span for the batch and one for each sampled message of it, as far as there is room. Nothing
/// for a batch without a sampled message.
fn of(attempt: &Attempt<'_>, room: usize) -> Built {
    let mut built = Built::default();
    let mut batch: Option<Span> = None;
    let mut left = attempt.outcome.unwrap_or_default().iter().peekable();
    for index in attempt.batch {
        let refused = left.next_if(|unaccepted| unaccepted.index == *index);
        let message = attempt.page.get(*index as usize);
        let Some(writer) = writer(&message.headers) else { continue };
        let batch = batch.get_or_insert_with(|| batch_span(attempt));
        if batch.links.len() < LINKS_MAX {
            batch.links.push(link(&writer.trace_id, &writer.span_id, writer.state, IS_REMOTE));
        } else {
            batch.dropped_links_count += 1;
        }
        // The batch's own span needs room as well.
        if built.spans.len() + 1 < room {
            let reason = attempt.outcome.err().or(refused.map(|refused| &*refused.reason));
            built.spans.push(message_span(attempt, &message, &writer, batch, reason));
        } else {
            built.dropped += 1;
        }
    }
    match batch {
        Some(batch) if room > 0 => built.spans.push(batch),
        Some(_) => built.dropped += 1,
        None => {}
    }
    built
}

fn batch_span(attempt: &Attempt<'_>) -> Span {
    let left = attempt.outcome.map_or(attempt.batch.len(), <[_]>::len);
    let reason = match attempt.outcome {
        Ok([]) => None,
        Ok([first, ..]) => Some(format!("{left} messages not accepted: {}", first.reason)),
        Err(reason) => Some(reason.to_owned()),
    };
    let mut attributes = messaging(attempt.subscription);
    attributes.push(number("messaging.batch.message_count", attempt.batch.len() as i64));
    Span {
        trace_id: random_trace_id().to_vec(),
        name: format!("publish {}", attempt.subscription),
        kind: SpanKind::Client.into(),
        flags: SAMPLED | HAS_REMOTE,
        attributes,
        ..timed(attempt, reason.as_deref())
    }
}

fn message_span(
    attempt: &Attempt<'_>,
    message: &MessageRef<'_>,
    writer: &Context<'_>,
    batch: &Span,
    reason: Option<&str>,
) -> Span {
    let waited = attempt.began.0.saturating_sub(message.enqueued_at.0).max(0) / 1_000;
    let mut attributes = messaging(attempt.subscription);
    attributes.extend([
        text("messaging.destination.name", message.topic),
        text("messaging.message.id", &message.id.to_string()),
        // The database's clock and this machine's may differ.
        number("posthaste.waited_ms", waited),
    ]);
    attributes
        .extend(message.correlation_id.map(|id| text("messaging.message.conversation_id", id)));
    Span {
        trace_id: writer.trace_id.to_vec(),
        parent_span_id: writer.span_id.to_vec(),
        trace_state: writer.state.to_owned(),
        name: format!("publish {}", message.topic),
        kind: SpanKind::Producer.into(),
        flags: SAMPLED | HAS_REMOTE | IS_REMOTE,
        attributes,
        links: vec![link(&batch.trace_id, &batch.span_id, "", 0)],
        ..timed(attempt, reason)
    }
}

/// A span with the times of the try and a new id.
fn timed(attempt: &Attempt<'_>, reason: Option<&str>) -> Span {
    let began = attempt.began.0.max(0).unsigned_abs().saturating_mul(1_000);
    let took = u64::try_from(attempt.took.as_nanos()).unwrap_or(u64::MAX);
    let failed =
        |reason: &str| Status { message: reason.to_owned(), code: StatusCode::Error.into() };
    Span {
        span_id: random_span_id().to_vec(),
        start_time_unix_nano: began,
        end_time_unix_nano: began.saturating_add(took),
        status: reason.map(failed),
        ..Span::default()
    }
}

fn messaging(subscription: &str) -> Vec<Attribute> {
    vec![
        text("messaging.system", "posthaste"),
        text("messaging.operation.name", "publish"),
        text("messaging.operation.type", "send"),
        text("messaging.destination.subscription.name", subscription),
    ]
}

fn link(trace_id: &[u8], span_id: &[u8], state: &str, remote: u32) -> Link {
    Link {
        trace_id: trace_id.to_vec(),
        span_id: span_id.to_vec(),
        trace_state: state.to_owned(),
        flags: SAMPLED | HAS_REMOTE | remote,
        ..Link::default()
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::MessageId;

    use super::*;
    use crate::policy::Fault;

    /// Messages of which those with an even number are sampled.
    fn page(count: u32) -> Page {
        let mut page = Page::new(i64::from(count));
        for nth in 0..count {
            let mut packed = Vec::new();
            Headers::pack(&mut packed, "traceparent");
            let flags = u32::from(nth % 2 == 0);
            Headers::pack(&mut packed, &format!("00-{:032x}-{:016x}-0{flags}", 7, nth + 1));
            page.push(&MessageRef {
                id: MessageId::from_u128(nth.into()),
                position: i64::from(nth) + 1,
                enqueued_at: Timestamp(1_000_000),
                topic: "t",
                key: Some("secret key"),
                content_type: "a/b",
                correlation_id: None,
                headers: Headers::packed(&packed),
                payload: b"secret payload",
            });
        }
        page
    }

    fn built(count: u32, room: usize, outcome: Result<&[Unaccepted], &str>) -> Built {
        let (page, batch) = (page(count), (0..count).collect::<Vec<_>>());
        let (began, took) = (Timestamp(3_000_000), Duration::from_millis(2));
        of(&Attempt { subscription: "s", page: &page, batch: &batch, began, took, outcome }, room)
    }

    #[test]
    fn only_sampled_messages_have_spans_and_only_with_them_the_batch() {
        let Built { spans, dropped } = built(4, 100, Ok(&[]));
        let (batch, messages) = spans.split_last().unwrap();
        assert_eq!((messages.len(), dropped, batch.links.len()), (2, 0, 2));
        let parents = messages.iter().map(|span| span.parent_span_id[7]);
        assert!(parents.eq([1, 3]) && batch.parent_span_id.is_empty());
        let times = (batch.start_time_unix_nano, batch.end_time_unix_nano);
        assert_eq!(times, (3_000_000_000, 3_002_000_000));
        let shown = format!("{spans:?}");
        assert!(!shown.contains("secret") && shown.contains("posthaste.waited_ms"), "{shown}");
        let (page, began, took) = (page(4), Timestamp(0), Duration::ZERO);
        let (page, batch, outcome) = (&page, &[1, 3], Ok(&[][..]));
        let none = Attempt { subscription: "s", page, batch, began, took, outcome };
        assert!(of(&none, 100).spans.is_empty());
    }

    #[test]
    fn failures_stand_with_the_messages_they_concern() {
        let refused = |index| Unaccepted { index, fault: Fault::Message, reason: "no".to_owned() };
        let spans = built(4, 100, Ok(&[refused(1), refused(2)])).spans;
        let reasons = spans.iter().map(|span| span.status.as_ref().map(|it| it.message.as_str()));
        assert!(reasons.eq([None, Some("no"), Some("2 messages not accepted: no")]));
        let spans = built(2, 100, Err("away")).spans;
        assert!(spans.iter().all(|span| span.status.as_ref().unwrap().message == "away"));
    }

    #[test]
    fn room_and_links_are_bounded_and_the_rest_is_counted() {
        let counts = [0, 1, 3].map(|room| {
            let Built { spans, dropped } = built(10, room, Ok(&[]));
            (spans.len(), dropped)
        });
        assert_eq!(counts, [(0, 6), (1, 5), (3, 3)]);
        let batch = built(300, 1_000, Ok(&[])).spans.pop().unwrap();
        assert_eq!((batch.links.len(), batch.dropped_links_count), (128, 22));
    }
}
