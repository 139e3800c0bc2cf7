//! What applications rely on when they enqueue, against real databases. Test names begin with the
//! row of `docs/requirements.md` that they show.
#![cfg(all(
    feature = "rusqlite",
    feature = "sqlx-postgres",
    feature = "sqlx-sqlite",
    feature = "tokio-postgres"
))]

mod cancellation;
mod contract;
mod interop;
mod poison;
mod privileges;
mod round_trips;
mod sql_function;
mod sql_function_many;
mod support;
