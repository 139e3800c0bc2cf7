//! What an error of SQLite means for the relay. Classifies only; whether to retry is decided by
//! the callers from the kind.

use rusqlite::{Error, ErrorCode};

use crate::{StoreError, StoreErrorKind};

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        Self::caused(kind_of(&error), said(&error), error)
    }
}

/// SQLite's own words. They name tables and constraints, never values.
fn said(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(message)) | Error::SqlInputError { msg: message, .. } => {
            message.clone()
        }
        other => other.to_string(),
    }
}

fn kind_of(error: &Error) -> StoreErrorKind {
    match error {
        Error::SqliteFailure(failure, message) => {
            kind_of_code(failure.code, message.as_deref().unwrap_or_default())
        }
        Error::SqlInputError { error, msg, .. } => kind_of_code(error.code, msg),
        Error::InvalidPath(_) => StoreErrorKind::Invalid,
        _ => StoreErrorKind::Unexpected,
    }
}

fn kind_of_code(code: ErrorCode, message: &str) -> StoreErrorKind {
    match code {
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::SchemaChanged
        | ErrorCode::FileLockingProtocolFailed => StoreErrorKind::Conflict,
        // Only the deadline of a call interrupts (`session`).
        ErrorCode::OperationInterrupted => StoreErrorKind::Timeout,
        ErrorCode::DiskFull | ErrorCode::OutOfMemory => StoreErrorKind::Resources,
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => {
            StoreErrorKind::Privilege
        }
        ErrorCode::SystemIoFailure => StoreErrorKind::Unavailable,
        ErrorCode::NotADatabase | ErrorCode::ConstraintViolation | ErrorCode::TooBig => {
            StoreErrorKind::Invalid
        }
        // SQLite has no code of its own for it.
        ErrorCode::Unknown if message.starts_with("no such table") => StoreErrorKind::MissingSchema,
        ErrorCode::Unknown if message.starts_with("no such column") => StoreErrorKind::OlderSchema,
        _ => StoreErrorKind::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use rusqlite::ffi;

    use super::*;

    fn kind(result_code: i32) -> StoreErrorKind {
        StoreError::from(Error::SqliteFailure(ffi::Error::new(result_code), None)).kind()
    }

    #[test]
    fn every_result_code_that_an_operator_can_act_on_has_its_kind() {
        for (code, expected) in [
            (ffi::SQLITE_BUSY, StoreErrorKind::Conflict),
            (ffi::SQLITE_LOCKED, StoreErrorKind::Conflict),
            (ffi::SQLITE_INTERRUPT, StoreErrorKind::Timeout),
            (ffi::SQLITE_FULL, StoreErrorKind::Resources),
            (ffi::SQLITE_READONLY, StoreErrorKind::Privilege),
            (ffi::SQLITE_CANTOPEN, StoreErrorKind::Privilege),
            (ffi::SQLITE_IOERR, StoreErrorKind::Unavailable),
            (ffi::SQLITE_NOTADB, StoreErrorKind::Invalid),
            (ffi::SQLITE_CORRUPT, StoreErrorKind::Unexpected),
        ] {
            assert_eq!(kind(code), expected, "{code}");
        }
    }

    #[test]
    fn missing_table_is_a_missing_schema_and_the_cause_is_kept() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let error = StoreError::from(connection.prepare("select 1 from nowhere").unwrap_err());
        assert_eq!(error.kind(), StoreErrorKind::MissingSchema);
        assert!(error.to_string().starts_with("no such table: nowhere"), "{error}");
        assert!(error.source().is_some());
    }
}
