//! Posthaste over HTTP: jobs, live streams, subscriptions, health and metrics.
//!
//! A request's way: `listen` accepts its connection, `context` gives it an id, a span and its time, `guard` asks
//! where it comes from and who sends it, `routes` is the table of what is served and for whom, and `api` answers.
//! Submissions go through `batches`, which writes them together; `streams` reads the log for all who follow it;
//! `runner` does in the background what concerns many messages.
//! Everything that is refused is a `problem`.
//!
//! It knows stores, but no relay, worker or sink: what they are doing it hears from whoever runs it ([`Parts`]).

mod api;
mod app;
mod batches;
mod clock;
mod context;
mod contracts;
mod error;
mod extract;
mod guard;
mod listen;
mod outlook;
mod parts;
mod payloads;
mod problem;
mod proxy;
mod routes;
mod runner;
mod server;
mod settings;
mod steps;
mod streams;
mod strict_json;
mod telemetry;
mod tickets;
mod timed_io;
mod tls;
mod tokens;
mod traces;

pub use crate::{
    api::openapi::document,
    error::{ServerError, ServerErrorKind},
    guard::Access,
    parts::{NoParts, Parts, RelayPart, SinkPart, WorkerPart},
    problem::Code,
    routes::{Listed, routes},
    server::{Bound, Server},
    settings::{ServerSettings, TlsSettings, TokenSettings},
    telemetry::{Telemetry, reference as metrics_reference},
    tls::Certificates,
    tokens::{NewSecret, Scope},
};
