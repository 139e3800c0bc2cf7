//! What a span is made of, and one that has begun.

use std::time::Instant;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, any_value::Value},
    trace::v1::{Span, Status, span::SpanKind, status::StatusCode},
};

pub use opentelemetry_proto::tonic::common::v1::KeyValue as Attribute;

use crate::{Context, clock};

/// A flag of a span: its trace is sampled.
pub const SAMPLED: u32 = 0x01;
/// A flag of a span: it is known whether its parent is in another process.
pub const HAS_REMOTE: u32 = 0x100;
/// A flag of a span: its parent is.
pub const IS_REMOTE: u32 = 0x200;

/// A span that has begun, and is what others may stand below. Dropped without an end, nobody hears of it.
#[derive(Clone, Debug)]
pub struct Begun {
    trace_id: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    state: String,
    began_ns: u64,
    since: Instant,
}

/// What is told of a span at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Its name: of few different ones.
    pub name: String,
    /// Its part in the exchange.
    pub kind: SpanKind,
    /// Topics, ids and numbers; never a payload or an ordering key.
    pub attributes: Vec<Attribute>,
    /// Why it failed, if it has.
    pub error: Option<String>,
}

impl Begun {
    /// A span below that of another process.
    pub fn below(parent: &Context<'_>) -> Self {
        let state = parent.state.to_owned();
        Self::new(parent.trace_id, Some(parent.span_id), state)
    }

    pub(crate) fn root() -> Self {
        Self::new(random_trace_id(), None, String::new())
    }

    fn new(trace_id: [u8; 16], parent: Option<[u8; 8]>, state: String) -> Self {
        let (id, began_ns, since) = (random_span_id(), clock::now_ns(), Instant::now());
        Self { trace_id, id, parent, state, began_ns, since }
    }

    /// The header `traceparent` of what stands below it.
    pub fn traceparent(&self) -> String {
        let (trace_id, id) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.id));
        format!("00-{trace_id:032x}-{id:016x}-01")
    }

    /// The header `tracestate` of what stands below it; empty if it has none.
    pub fn tracestate(&self) -> &str {
        &self.state
    }

    pub(crate) fn ended(&self, told: Told) -> Span {
        let Told { name, kind, attributes, error } = told;
        let took = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let remote = if self.parent.is_some() { IS_REMOTE } else { 0 };
        Span {
            trace_id: self.trace_id.to_vec(),
            span_id: self.id.to_vec(),
            parent_span_id: self.parent.map(|id| id.to_vec()).unwrap_or_default(),
            trace_state: self.state.clone(),
            name,
            kind: kind.into(),
            flags: SAMPLED | HAS_REMOTE | remote,
            start_time_unix_nano: self.began_ns,
            end_time_unix_nano: self.began_ns.saturating_add(took),
            attributes,
            status: error.map(|message| Status { message, code: StatusCode::Error.into() }),
            ..Span::default()
        }
    }
}

/// The id of a new trace.
pub fn random_trace_id() -> [u8; 16] {
    rand::random()
}

/// The id of a new span.
pub fn random_span_id() -> [u8; 8] {
    rand::random()
}

/// An attribute that is a text.
pub fn text(key: &str, value: &str) -> Attribute {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// An attribute that is a number.
pub fn number(key: &str, value: i64) -> Attribute {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> Attribute {
    let value = Some(AnyValue { value: Some(value) });
    Attribute { key: key.to_owned(), value, ..Attribute::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: Option<&str>) -> Told {
        let error = error.map(str::to_owned);
        Told { name: "n".to_owned(), kind: SpanKind::Server, attributes: Vec::new(), error }
    }

    #[test]
    fn what_stands_below_a_span_reads_its_header() {
        let root = Begun::root();
        let header = root.traceparent();
        let context = Context::sampled(&header, "a=1").unwrap();
        assert_eq!((context.trace_id, context.span_id), (root.trace_id, root.id));
        let child = Begun::below(&context);
        assert_eq!((child.tracestate(), child.parent), ("a=1", Some(root.id)));
        let (root, child) = (root.ended(told(None)), child.ended(told(Some("no"))));
        assert!(root.parent_span_id.is_empty() && root.status.is_none());
        assert_eq!((&child.trace_id, &child.parent_span_id), (&root.trace_id, &root.span_id));
        assert_ne!(child.span_id, root.span_id);
        assert_eq!((root.flags, child.flags), (0x101, 0x301));
        assert!(child.end_time_unix_nano >= child.start_time_unix_nano);
        assert_eq!(child.status.unwrap().message, "no");
    }
}
