//! Runs jobs and handles messages, each once: [`Worker`].
//!
//! A [`Source`](source::Source) hands messages out. One that carries a job is begun in the database, which knows
//! whether it is its turn and whose it is; one that is no job is looked up in the inbox. Then its
//! [`Handler`] runs, and what becomes of it is written down before the source forgets it. A [`Listener`] looks at
//! messages as soon as they are added, and takes none.
//!
//! # Promises
//! A job's attempt ends once: whoever has lost its lease can neither end it nor, where the handler ends it in the
//! transaction of its effect ([`Task::settle`]), have the effect. A job that fails comes again by a new message, after its
//! wait, as often as it may; then it is dead. Jobs with one key run one after the other. A message that is no job
//! is tried in its worker, and then goes to the source's dead letters; with one key in order within one worker.

mod checks;
mod clock;
pub mod command;
mod crew;
mod cron;
mod ends;
mod handler;
pub mod http;
mod intake;
mod lanes;
mod lease;
pub mod listener;
mod run;
mod settings;
pub mod source;
pub mod sources;
pub mod telemetry;
mod traces;
mod watch;
mod worker;

pub use self::{
    checks::{Check, Found},
    crew::{Counts, WorkerError},
    cron::{CronJob, InvalidCron},
    handler::{Answer, Done, Failed, Handler, Task},
    listener::Listener,
    settings::{InvalidSetting, WorkerSettings},
    worker::Worker,
};
