//! The sinks: every kind runs the contract suite, and tests of its own beside it.

mod contract;
mod local;
mod messages;
mod redis_stream;
mod redis_stream_faults;
mod stdout;
