//! What an error of a Redis server, its connection or its certificate means.

use std::{error::Error, io, sync::Arc};

use redis::{ErrorKind, RedisError};

use crate::{ConnectionError, ConnectionErrorKind};

/// An error of the client library as the connection reports it.
pub(super) fn fault(doing: &str, error: RedisError) -> ConnectionError {
    let kind = classify(&error);
    let hint = error.code().and_then(hint);
    let doing = hint.map_or_else(|| doing.to_owned(), |hint| format!("{doing}: {hint}"));
    ConnectionError::caused(kind, doing, error)
}

fn classify(error: &RedisError) -> ConnectionErrorKind {
    if let Some(fault) = tls_fault(error) {
        return match fault {
            // The other side does not speak TLS.
            rustls::Error::InvalidMessage(_) => ConnectionErrorKind::Misconfigured,
            _ => ConnectionErrorKind::Authentication,
        };
    }
    if error.is_timeout() {
        return ConnectionErrorKind::Timeout;
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => ConnectionErrorKind::Authentication,
        ErrorKind::InvalidClientConfig => ConnectionErrorKind::Misconfigured,
        ErrorKind::Io => ConnectionErrorKind::Unavailable,
        ErrorKind::Server(_) | ErrorKind::Extension => {
            answer(error.code().unwrap_or_default(), error.detail().unwrap_or_default())
        }
        _ => ConnectionErrorKind::Unexpected,
    }
}

/// An error answer by its code, the first word (<https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors>).
fn answer(code: &str, detail: &str) -> ConnectionErrorKind {
    match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => ConnectionErrorKind::Authentication,
        "OOM" | "MISCONF" | "READONLY" | "NOREPLICAS" => ConnectionErrorKind::Resources,
        // In a cluster a slot moves while it is used: the next connection finds its node.
        "LOADING" | "BUSY" | "UNKILLABLE" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN"
        | "NOSCRIPT" | "MOVED" | "ASK" => ConnectionErrorKind::Unavailable,
        "CROSSSLOT" | "WRONGTYPE" => ConnectionErrorKind::Misconfigured,
        "ERR" if detail.starts_with("max number of clients") => ConnectionErrorKind::Unavailable,
        "ERR" if detail.starts_with("unknown command") || detail.contains("DB index") => {
            ConnectionErrorKind::Misconfigured
        }
        _ => ConnectionErrorKind::Unexpected,
    }
}

/// The remedy, where the kind's own is not enough.
fn hint(code: &str) -> Option<&'static str> {
    match code {
        "CROSSSLOT" => Some(
            "a cluster needs all names of a batch in one slot; begin the name with a hash tag, \
             for example {{posthaste}}:{topic}",
        ),
        "MOVED" | "ASK" => Some(
            "another node of the cluster holds these names now; if it stays so, let the user run \
             INFO and CLUSTER SLOTS",
        ),
        "WRONGTYPE" => Some(
            "a name that is needed is taken by other data (of a sink, its place's); rename that",
        ),
        "READONLY" => Some("the server is a replica; connect to the primary"),
        "DENIED" => Some("the server is in protected mode; give it a password or a bind address"),
        "NOPERM" => Some("the user may not run a command or use a name; see ACL SETUSER"),
        _ => None,
    }
}

/// The TLS error behind a connection error: the library wraps it in an I/O error, and that in an
/// `Arc`.
fn tls_fault(error: &RedisError) -> Option<&rustls::Error> {
    let source = error.source()?;
    let inner: &(dyn Error + 'static) = match source.downcast_ref::<Arc<dyn Error + Send + Sync>>()
    {
        Some(shared) => shared.as_ref(),
        None => source,
    };
    if let Some(fault) = inner.downcast_ref() {
        return Some(fault);
    }
    inner.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classified_by_their_code() {
        for (answer, kind) in [
            ("WRONGPASS invalid username-password pair", ConnectionErrorKind::Authentication),
            ("NOPERM this user has no permissions", ConnectionErrorKind::Authentication),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                ConnectionErrorKind::Resources,
            ),
            (
                "READONLY You can't write against a read only replica.",
                ConnectionErrorKind::Resources,
            ),
            ("LOADING Redis is loading the dataset in memory", ConnectionErrorKind::Unavailable),
            ("ERR max number of clients reached", ConnectionErrorKind::Unavailable),
            ("MOVED 3999 127.0.0.1:6381", ConnectionErrorKind::Unavailable),
            ("ERR unknown command 'EVALSHA'", ConnectionErrorKind::Misconfigured),
            ("SOMETHING new", ConnectionErrorKind::Unexpected),
        ] {
            let (code, detail) = answer.split_once(' ').unwrap();
            assert_eq!(super::answer(code, detail), kind, "{answer}");
        }
    }

    #[test]
    fn tls_errors_are_found_below_their_wrappers() {
        let refused = rustls::CertificateError::UnknownIssuer;
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::from(refused));
        assert_eq!(classify(&RedisError::from(wrapped)), ConnectionErrorKind::Authentication);
        let garbled = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, garbled);
        assert_eq!(classify(&RedisError::from(wrapped)), ConnectionErrorKind::Misconfigured);
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(classify(&RedisError::from(refused)), ConnectionErrorKind::Unavailable);
    }
}
