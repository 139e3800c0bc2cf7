//! An application on Posthaste: courses that are generated in stages.
//!
//! A course goes through a state machine (`course.toml`). A [command](courses::Courses::initiate) begins it: state, event,
//! idempotency key and jobs in one transaction, the first layer. A relay carries the jobs to a queue; a listener on the
//! queue (the second layer) and the worker (the third) start the machine of a job that arrived without one; handlers
//! have effect, step, follow-up job and the end of their own job in one transaction.
//!
//! This crate shows what an application writes itself. It holds no queue and no retries: those are Posthaste's.

pub mod courses;
pub mod database;
mod handlers;
pub mod messages;
mod rows;
pub mod scenarios;
pub mod service;
pub mod settings;
pub mod stages;
pub mod writing;
