//! Spans of attempts, after the OpenTelemetry conventions for messaging
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>). Topics, ids and classes of failures;
//! never a payload, an ordering key, or what a handler says.
//!
//! An attempt is traced where the trace of its message's writer is sampled, as a try to publish it is. Both stand below
//! the writer's span: what a queue carries is what was written, byte for byte.

use std::sync::Arc;

use posthaste::Received;
use posthaste_core::job::Failure;
use posthaste_traces::{Attribute, Begun, Context, SpanKind, Told, Tracer, number, text};

use crate::handler::{Answer, Task};

/// Of an attempt that its worker's end has cut short.
const LOST: &str = "lost";

/// What an attempt ends with.
pub(crate) struct AttemptSpan {
    tracer: Tracer,
    begun: Arc<Begun>,
    name: String,
    attributes: Vec<Attribute>,
}

impl AttemptSpan {
    /// Begins the span of a task's attempt, if it is to have one.
    pub(crate) fn begin(tracer: Option<&Tracer>, worker: &str, task: &Task) -> Option<Self> {
        let tracer = tracer?.clone();
        let message = task.message();
        let parent = Context::sampled(message.header("traceparent")?, state(message))?;
        let name = format!("process {}", message.topic);
        let attributes = attributes(worker, task);
        Some(Self { tracer, begun: Arc::new(Begun::below(&parent)), name, attributes })
    }

    /// What the handler's own calls stand below.
    pub(crate) fn begun(&self) -> Arc<Begun> {
        Arc::clone(&self.begun)
    }

    /// Ends it, with what the handler has answered; nothing when it was not asked to the end.
    pub(crate) fn answered(self, answer: Option<&Answer>) {
        let Self { tracer, begun, name, mut attributes } = self;
        let error = error(answer);
        attributes.extend(error.map(|class| text("error.type", class)));
        let error = error.map(str::to_owned);
        tracer.end(&begun, || Told { name, kind: SpanKind::Consumer, attributes, error });
    }
}

fn attributes(worker: &str, task: &Task) -> Vec<Attribute> {
    let message = task.message();
    let mut attributes = vec![
        text("messaging.system", "posthaste"),
        text("messaging.operation.name", "process"),
        text("messaging.operation.type", "process"),
        text("messaging.destination.name", &message.topic),
        text("messaging.message.id", &message.id.to_string()),
        text("posthaste.worker", worker),
        number("posthaste.attempt", i64::from(task.attempt())),
    ];
    attributes.extend(task.job().map(|job| text("posthaste.job", &job.to_string())));
    let correlation_id = message.correlation_id.as_deref();
    attributes.extend(correlation_id.map(|id| text("messaging.message.conversation_id", id)));
    attributes
}

/// The class of a failure. To be run later, or not any more, is none.
fn error(answer: Option<&Answer>) -> Option<&str> {
    match answer {
        None => Some(LOST),
        Some(Err(failed)) => match failed.failure {
            Failure::Retry(_) | Failure::Reject => Some(&failed.class),
            Failure::Snooze(_) | Failure::Cancel => None,
        },
        Some(Ok(_)) => None,
    }
}

/// What others keep in the trace of a message; nothing where it could not stand in a header.
pub(crate) fn state(message: &Received) -> &str {
    let state = message.header("tracestate").unwrap_or_default();
    let is_plain = state.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_plain { state } else { "" }
}
