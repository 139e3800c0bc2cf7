//! What the server promises, over real sockets on real databases. Test names begin with the row of
//! `docs/requirements.md` that they show.
// clippy.toml allows it in test functions only; here the functions beside them are tests too.
#![allow(clippy::unwrap_used)]

mod access;
mod audit;
mod batches;
mod corpus;
mod dead_letters;
mod health;
mod hostile;
mod jobs;
mod machines;
mod messages;
mod openapi;
mod operations;
mod origins;
mod oversight;
mod proxies;
mod refusals;
mod rights;
mod stream_limits;
mod streams;
mod subscriptions;
mod support;
mod tls;
