//! The seam between commands and a database client: one statement, one row of three columns.
//!
//! Beside [`Writer`](crate::Writer), which is about messages. An adapter decides nothing here either.

use uuid::Uuid;

use crate::EnqueueError;

/// A parameter of a statement.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A text, or null.
    Text(Option<&'a str>),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A UUID; 16 bytes on SQLite.
    Id(Uuid),
    /// A whole number.
    Number(i64),
}

/// The row that a statement answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The first column.
    pub text: Option<String>,
    /// The second column.
    pub bytes: Option<Vec<u8>>,
    /// The third column.
    pub number: Option<i64>,
}

/// Sends statements over a connection that stands in the caller's transaction, or over a bare one,
/// where each is a transaction of its own.
///
/// Implemented for what [`Writer`](crate::Writer) is, and for `&rusqlite::Connection`, whose futures
/// never wait and cannot be sent to other threads; all others can.
pub trait Caller {
    /// Whether the database is SQLite; else it is PostgreSQL.
    ///
    /// # Errors
    /// The connection is to neither.
    fn is_sqlite(&self) -> Result<bool, EnqueueError>;

    /// Runs one statement and answers its row, if it has one.
    fn call(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<Answer>, EnqueueError>>;
}
