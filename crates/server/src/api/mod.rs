//! What the routes answer, one file per kind of thing. Which routes there are stands in [`crate::routes`].

pub(crate) mod audit;
pub(crate) mod contracts;
pub(crate) mod dead_letters;
mod filters;
pub(crate) mod fleet;
pub(crate) mod health;
pub(crate) mod jobs;
pub(crate) mod machines;
pub(crate) mod messages;
pub(crate) mod metrics;
mod new_message;
pub(crate) mod openapi;
pub(crate) mod operations;
mod refusals;
pub(crate) mod rewinds;
mod shown;
mod shown_messages;
pub(crate) mod streams;
mod submission;
pub(crate) mod subscriptions;
pub(crate) mod transitions;
