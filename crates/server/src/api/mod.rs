//! What the routes answer, one file per kind of thing. Which routes there are stands in [`crate::routes`].

pub(crate) mod health;
pub(crate) mod jobs;
pub(crate) mod messages;
mod new_message;
pub(crate) mod openapi;
mod shown;
mod shown_messages;
pub(crate) mod streams;
mod submission;
pub(crate) mod subscriptions;
