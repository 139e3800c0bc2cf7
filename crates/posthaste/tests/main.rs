//! What applications rely on when they enqueue, against real databases. Test names begin with the
//! row of `docs/requirements.md` that they show.
// clippy.toml allows it in test functions only; here the functions beside them are tests too.
#![allow(clippy::unwrap_used)]

mod assertions;
mod cancellation;
mod clients;
mod command_cache;
mod command_contract;
mod contract;
mod inbox;
mod interop;
mod job_contract;
mod machine_contract;
mod machines;
mod poison;
mod privileges;
mod round_trips;
mod scheduled;
mod sql_function;
mod sql_function_many;
mod strict;
mod support;
mod tokens;
mod traces;
