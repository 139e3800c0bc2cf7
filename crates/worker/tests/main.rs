//! What a worker promises, on real databases with a real relay. Test names begin with the row of
//! `docs/requirements.md` that they show.
// clippy.toml allows it in test functions only; here the functions beside them are tests too.
#![allow(clippy::unwrap_used)]

mod command;
mod http;
mod listener;
mod runtime;
mod sources;
mod support;
