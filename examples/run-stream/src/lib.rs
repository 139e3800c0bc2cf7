//! An application on Posthaste whose work people watch: an orchestrator moves runs on, and each step's event is written
//! in the transaction of the step. A page sees the events live, straight from the log; with a Redis, the relay publishes
//! the same events on the channel `run:{runId}` for whoever listens there.

pub mod database;
pub mod page;
pub mod runs;
pub mod service;
pub mod settings;
