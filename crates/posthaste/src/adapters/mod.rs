//! One adapter per database client, each behind the feature of its name.
//!
//! An adapter implements [`Writer`](crate::Writer) for what the client calls a connection; outbox and
//! inbox take the same. Its
//! page says what it costs and what its client needs watching for.

#[cfg(feature = "_postgres")]
mod columns;
#[cfg(feature = "deadpool-postgres")]
pub mod deadpool_postgres;
#[cfg(feature = "diesel-async")]
pub mod diesel_async;
#[cfg(feature = "rusqlite")]
pub mod rusqlite;
#[cfg(feature = "sea-orm")]
pub mod sea_orm;
#[cfg(feature = "sqlx-postgres")]
pub mod sqlx_postgres;
#[cfg(feature = "sqlx-sqlite")]
pub mod sqlx_sqlite;
#[cfg(feature = "tokio-postgres")]
pub mod tokio_postgres;

/// What an adapter reports when `refuse` answered instead of failing.
#[cfg(feature = "_postgres")]
fn refuse_answered() -> crate::EnqueueError {
    crate::EnqueueError::new(
        crate::EnqueueErrorKind::Database,
        "the schema's function refuse(text) answered where it must raise an exception: somebody \
         replaced it; restore it from the migration",
    )
}

/// The kind that an extended result code of SQLite and its text stand for
/// (<https://sqlite.org/rescode.html>: the low byte is the primary code).
#[cfg(feature = "_sqlite")]
fn sqlite_kind(extended_code: i32, message: &str) -> crate::EnqueueErrorKind {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    const NO_MEMORY: i32 = 7;
    const READONLY: i32 = 8;
    const FULL: i32 = 13;
    match extended_code & 0xff {
        BUSY | LOCKED => crate::EnqueueErrorKind::Conflict,
        NO_MEMORY | FULL => crate::EnqueueErrorKind::Resources,
        READONLY => crate::EnqueueErrorKind::Privilege,
        // The primary code is the general one; only the text tells.
        _ if message.contains("no such table") => crate::EnqueueErrorKind::MissingSchema,
        _ => crate::EnqueueErrorKind::Database,
    }
}

/// Part of the text with which SQLite refuses a rollback that has nothing to roll back.
#[cfg(any(feature = "sea-orm", feature = "sqlx-sqlite"))]
const NO_TRANSACTION: &str = "no transaction is active";
