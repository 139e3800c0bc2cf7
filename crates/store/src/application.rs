//! Work as an application does it: in a transaction of its own, with a client of the database.
//!
//! What applications write is decided by the library beside this crate, which knows the clients and not the store. Here
//! it is lent a transaction, with the store's bounds around it.

use async_trait::async_trait;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use posthaste_core::SchemaName;

/// Something to be done in one transaction, on whichever database there is.
///
/// Both answer whether the transaction is to be committed; else it is rolled back. On PostgreSQL a transaction that has
/// written nothing is not noted; on SQLite the work says itself that it has nothing to commit. What came of it the work tells by a
/// channel of its own: it counts once the call has answered.
#[async_trait]
pub trait Work: Send + 'static {
    /// In a transaction at READ COMMITTED.
    #[cfg(feature = "postgres")]
    async fn on_postgres(
        &mut self,
        transaction: &tokio_postgres::Transaction<'_>,
        schema: &SchemaName,
    ) -> bool;

    /// In a transaction that has the write lock. Blocks its thread, for as long as a statement takes.
    #[cfg(feature = "sqlite")]
    fn on_sqlite(&mut self, connection: &rusqlite::Connection, schema: &SchemaName) -> bool;
}

/// What the audit trail says of it, once it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What was done: `transition`.
    pub action: &'static str,
    /// The particulars: a JSON object.
    pub detail: String,
}
