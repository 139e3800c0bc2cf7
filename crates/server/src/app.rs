//! What all requests share.

use std::sync::{Arc, OnceLock};

use axum::{
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use posthaste_core::{Message, NewJob};
use posthaste_store::{Jobs, Operations};
use posthaste_traces::Tracer;
use tokio::sync::Semaphore;

use crate::{
    batches::Batches, contracts::KnownContracts, outlook::Outlook, parts::Parts, runner::Runner,
    settings::ServerSettings, streams::Streams, telemetry::Telemetry, tickets::Tickets,
    tokens::Tokens,
};

/// What all requests share. Nothing of it changes but through its own members.
pub(crate) struct App {
    pub(crate) settings: ServerSettings,
    pub(crate) tokens: Tokens,
    pub(crate) jobs: Arc<dyn Jobs>,
    pub(crate) operations: Arc<dyn Operations>,
    /// Where jobs go; the task behind it ends with the last of its holders.
    pub(crate) batches: Batches<NewJob>,
    /// Where messages go, likewise.
    pub(crate) messages: Batches<Message>,
    /// Room for bodies that are being read, in the units of [`batches`](crate::batches::room).
    pub(crate) bodies: Arc<Semaphore>,
    /// What payloads must look like.
    pub(crate) contracts: KnownContracts,
    pub(crate) parts: Arc<dyn Parts>,
    /// The log, live; read by a task beside the listener.
    pub(crate) streams: Streams,
    pub(crate) tickets: Tickets,
    /// The API's description, made when it is first asked for.
    pub(crate) description: OnceLock<Bytes>,
    /// What runs operations; read by a task beside the listener.
    pub(crate) runner: Runner,
    /// The log's figures, read now and then.
    pub(crate) outlook: Outlook,
    pub(crate) telemetry: Telemetry,
    /// Where spans of requests go, if they are traced.
    pub(crate) tracer: Option<Tracer>,
}

impl App {
    /// The answer, with where what it tells of is from now on.
    pub(crate) fn located(&self, mut response: Response, path: &str) -> Response {
        let location = format!("{}{path}", self.settings.base_path);
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}
