//! Posthaste for applications: write a message in the same SQL transaction as your data.
//!
//! The relay publishes every message whose transaction committed, and none whose transaction did
//! not. This crate opens no connection, starts no task and begins or ends no transaction. It sends
//! its statements over the connection that it is handed. Only a `CommandCache` (feature
//! `redis-cache`) has a connection of its own, to Redis.
//!
//! On the other side, [`Received`] reads a message as it arrives, and [`Inbox`] keeps one that is
//! delivered again from taking effect again.
//!
//! | client | feature | what [`Outbox::enqueue`] and [`Inbox::handle`] are handed |
//! |---|---|---|
//! | tokio-postgres | `tokio-postgres` | `&transaction` (or `&client`) |
//! | deadpool-postgres | `deadpool-postgres` | `&transaction` (or `&client`) |
//! | diesel-async, PostgreSQL | `diesel-async` | `&mut *connection` inside its `transaction` |
//! | sea-orm, PostgreSQL and SQLite | `sea-orm` | `&transaction` (or `&database`) |
//! | sqlx, PostgreSQL | `sqlx-postgres` | `&mut *transaction` |
//! | sqlx, SQLite | `sqlx-sqlite` | `&mut *transaction` |
//! | rusqlite | `rusqlite` | `&transaction`, with [`Outbox::enqueue_blocking`] and its like |
//!
#![cfg_attr(not(feature = "rusqlite"), doc = "[`Outbox::enqueue_blocking`]: #")]
//! # Examples
#![cfg_attr(feature = "tokio-postgres", doc = "```no_run")]
#![cfg_attr(not(feature = "tokio-postgres"), doc = "```text")]
//! use posthaste::{Message, Outbox};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let (mut client, connection) =
//!     tokio_postgres::connect("postgres://app@localhost/shop", tokio_postgres::NoTls).await?;
//! tokio::spawn(connection);
//! let outbox = Outbox::default();
//!
//! let transaction = client.transaction().await?;
//! transaction.execute("update orders set state = 'paid' where id = 17", &[]).await?;
//! let message = Message::new("orders.paid")
//!     .key("order-17")
//!     .header("tenant", "acme")
//!     .json(&serde_json::json!({ "order": 17 }));
//! outbox.enqueue(&transaction, &message).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # In your tests
//! The feature `testing` reads back what was enqueued, in a transaction or committed, and asserts on
//! it; see the module `testing`.
//!
//! # When an enqueue fails
//! The caller gets a typed [`EnqueueError`], and its transaction can no longer commit, also when
//! the message was refused before anything was sent. A transaction that swallowed the error would
//! otherwise commit its data without the message. Roll back; or enqueue inside a savepoint, and
//! roll back to that.

pub mod adapters;
pub mod caller;
mod chunks;
mod commands;
mod encode;
mod error;
mod inbox;
mod jobs;
mod machines;
mod outbox;
pub mod received;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
#[cfg(feature = "opentelemetry")]
mod trace;
mod writer;

#[cfg(feature = "contracts")]
pub use posthaste_core::contract;
pub use posthaste_core::machine;
pub use posthaste_core::{
    InvalidMessage, JobState, Limits, Message, MessageId, NewJob, SchemaName, Timestamp,
};
pub use posthaste_store::{
    JobId, Receipt, WorkerId,
    statements::{PostgresWriter, SqliteWriter},
};

#[cfg(feature = "redis-cache")]
pub use crate::commands::cache::{CacheCounts, CacheSettings, CommandCache, InvalidCache};
#[cfg(feature = "opentelemetry")]
pub use crate::trace::Traced;
pub use crate::{
    commands::{Begun, Command, CommandError, CommandErrorKind, Commands, waiting::Wait},
    error::{EnqueueError, EnqueueErrorKind, InboxError, Refusal},
    inbox::{Delivery, Inbox},
    jobs::{Attempt, Jobs},
    machines::{Machines, Step, Taken},
    outbox::Outbox,
    received::{Received, UnreadableMessage},
    writer::{Entry, Statements, Writer},
};
