//! What the routes answer, one file per kind of thing. Which routes there are stands in [`crate::routes`].

pub(crate) mod health;
pub(crate) mod jobs;
pub(crate) mod openapi;
mod shown;
pub(crate) mod streams;
mod submission;
pub(crate) mod subscriptions;
