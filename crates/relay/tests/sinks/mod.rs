//! The sinks: every kind runs the contract suite, and tests of its own beside it.

mod bullmq;
mod bullmq_clients;
mod contract;
mod local;
mod messages;
mod redis_deployments;
mod redis_list;
mod redis_pubsub;
mod redis_schedules;
pub(crate) mod redis_server;
pub(crate) mod redis_stream;
mod redis_stream_faults;
mod stdout;
mod vectors;
