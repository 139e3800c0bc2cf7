//! Ties messages to the trace of whoever writes them: feature `opentelemetry`.

use opentelemetry::{Context, trace::TraceContextExt as _};
use posthaste_core::Message;

/// Puts messages into the trace that is being recorded.
pub trait Traced {
    /// Sets the trace context of the span that is active in this task: of OpenTelemetry's own, or of
    /// `tracing`'s where `tracing-opentelemetry` 0.32 or later records it. Without one nothing changes.
    ///
    /// A relay that exports traces shows the message's publication below that span.
    ///
    /// # Examples
    /// ```
    /// use posthaste::{Message, Traced as _};
    ///
    /// let message = Message::new("orders.created").text("17").in_current_trace();
    /// assert!(message.header_pairs().is_empty(), "no span is active here");
    /// ```
    #[must_use]
    fn in_current_trace(self) -> Self;
}

impl Traced for Message {
    fn in_current_trace(self) -> Self {
        let context = Context::current();
        let span = context.span();
        let span = span.span_context();
        if !span.is_valid() {
            return self;
        }
        let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8());
        self.trace_context(format!("00-{trace}-{id}-{flags:02x}"), &span.trace_state().header())
    }
}
