//! deadpool-postgres: hand over `&transaction`, or `&client` for a message in a transaction of its own.
//!
//! What [`tokio_postgres`](super::tokio_postgres) says holds here as well: one round trip, and nothing
//! stays prepared. The pool's statement cache is not used.
//!
//! # Examples
//! ```no_run
//! # use posthaste::{Message, Outbox};
//! # async fn example(outbox: Outbox, pool: deadpool_postgres::Pool) -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = pool.get().await?;
//! let transaction = client.transaction().await?;
//! transaction.execute("insert into orders (id) values (17)", &[]).await?;
//! outbox.enqueue(&transaction, &Message::new("orders.created").text("17")).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```

use ::deadpool_postgres::{Client, ClientWrapper, Transaction};

use super::tokio_postgres::Connection;

/// A client as the pool hands it out.
impl Connection for Client {
    type Client = ::tokio_postgres::Client;

    fn client(&self) -> &Self::Client {
        self
    }
}

impl Connection for ClientWrapper {
    type Client = ::tokio_postgres::Client;

    fn client(&self) -> &Self::Client {
        self
    }
}

impl<'a> Connection for Transaction<'a> {
    type Client = ::tokio_postgres::Transaction<'a>;

    fn client(&self) -> &Self::Client {
        self
    }
}
