//! The example end to end: on SQLite in one process, and on PostgreSQL with Redis, each on private servers. Test
//! names begin with the row of `docs/requirements.md` that they show.
// clippy.toml allows it in test functions only; here the functions beside them are tests too.
#![allow(clippy::unwrap_used)]

mod errors;
mod layers;
mod processor;
mod program;
mod support;
mod t053;
mod visibility;
