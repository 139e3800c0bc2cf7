//! Turns a driver error into a kind that the relay and the operator can act on.

use std::{error::Error as _, fmt};

use tokio_postgres::{Error, error::SqlState};

use crate::{StoreError, StoreErrorKind};

/// Classifies `error`, which becomes the cause.
pub(super) fn classify(doing: &str, error: Error) -> StoreError {
    StoreError::caused(kind(&error), format!("{doing}: {}", cause_text(&error)), Cause(error))
}

/// The driver's error without what the server says in its detail, where it shows the row that it refuses.
struct Cause(Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&cause_text(&self.0))
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.0.code().map(SqlState::code);
        f.debug_struct("Cause").field("code", &code).field("text", &cause_text(&self.0)).finish()
    }
}

impl std::error::Error for Cause {}

/// Whether the log refused a message because nobody has locked its key.
pub(super) fn is_strict(error: &StoreError) -> bool {
    let cause = error.source().and_then(<dyn std::error::Error>::downcast_ref::<Cause>);
    cause.and_then(|Cause(cause)| cause.code()).is_some_and(|code| code.code() == "PH001")
}

/// What the server or the driver said, in one line and without statement or values.
pub(super) fn cause_text(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

fn kind(error: &Error) -> StoreErrorKind {
    let Some(db) = error.as_db_error() else {
        return kind_without_state(error);
    };
    let code = db.code();
    match code {
        &SqlState::READ_ONLY_SQL_TRANSACTION => StoreErrorKind::Standby,
        &SqlState::INSUFFICIENT_PRIVILEGE => StoreErrorKind::Privilege,
        &SqlState::UNDEFINED_TABLE
        | &SqlState::INVALID_SCHEMA_NAME
        | &SqlState::UNDEFINED_FUNCTION
        | &SqlState::UNDEFINED_COLUMN => StoreErrorKind::MissingSchema,
        &SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE => {
            StoreErrorKind::Conflict
        }
        &SqlState::INVALID_CATALOG_NAME => StoreErrorKind::Invalid,
        &SqlState::LOCK_NOT_AVAILABLE => StoreErrorKind::Held,
        &SqlState::QUERY_CANCELED => StoreErrorKind::Timeout,
        &SqlState::TOO_MANY_CONNECTIONS => StoreErrorKind::Unavailable,
        _ => match &code.code()[..2] {
            "28" => StoreErrorKind::Authentication,
            "08" | "57" => StoreErrorKind::Unavailable,
            "53" | "58" => StoreErrorKind::Resources,
            "22" | "23" | "PH" => StoreErrorKind::Invalid,
            _ => StoreErrorKind::Unexpected,
        },
    }
}

fn kind_without_state(error: &Error) -> StoreErrorKind {
    let text = format!("{error}: {:?}", error.source());
    let is_tls = text.contains("TLS") || text.contains("certificate");
    let is_login = text.contains("password") || text.contains("authentication");
    if error.is_closed() {
        StoreErrorKind::Unavailable
    } else if is_tls || is_login {
        StoreErrorKind::Authentication
    } else if error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>) {
        StoreErrorKind::Unavailable
    } else {
        StoreErrorKind::Unexpected
    }
}
