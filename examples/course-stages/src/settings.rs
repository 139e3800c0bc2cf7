//! Where the example runs, from the environment: `DATABASE_URL`, `REDIS_URL`, `QUEUE`.

use std::time::Duration;

use crate::{
    database::{DatabaseSettings, is_postgres},
    service::Queue,
};

/// What stream and queue are called after.
const PREFIX: &str = "course-stages";
/// Longest wait for one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the example runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// PostgreSQL, or a SQLite file.
    pub database: DatabaseSettings,
    /// In the process unless there is a Redis.
    pub queue: Queue,
}

/// A variable that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} must be {rule}")]
pub struct InvalidSettings {
    variable: &'static str,
    rule: String,
}

fn invalid(variable: &'static str, rule: impl Into<String>) -> InvalidSettings {
    InvalidSettings { variable, rule: rule.into() }
}

impl Settings {
    /// Reads the settings; `variable` looks one up. Without any the example is embedded: a SQLite file in the system's
    /// directory for such, and no queue but the process itself.
    ///
    /// # Errors
    /// The first variable that is not what it must be. It is not quoted where it may hold a password.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidSettings> {
        let of = |name: &str| variable(name).filter(|value| !value.is_empty());
        let url = of("DATABASE_URL").unwrap_or_else(|| {
            format!("sqlite:{}", std::env::temp_dir().join("course-stages.db").display())
        });
        let is_sqlite = url.strip_prefix("sqlite:").is_some_and(|path| !path.is_empty());
        if !is_sqlite && !is_postgres(&url) {
            return Err(invalid("DATABASE_URL", "postgres://USER@HOST/DATABASE or sqlite:FILE"));
        }
        let redis = of("REDIS_URL");
        if let Some(redis) = &redis
            && !["redis://", "rediss://"].iter().any(|scheme| redis.starts_with(scheme))
        {
            return Err(invalid("REDIS_URL", "redis://HOST or rediss://HOST"));
        }
        let queue = queue(of("QUEUE").as_deref(), redis)?;
        let statement_timeout = STATEMENT_TIMEOUT;
        Ok(Self { database: DatabaseSettings { url, statement_timeout }, queue })
    }
}

fn queue(name: Option<&str>, redis: Option<String>) -> Result<Queue, InvalidSettings> {
    let prefix = PREFIX.to_owned();
    match (name, redis) {
        (None, None) => Ok(Queue::Embedded),
        (None | Some("stream"), Some(url)) => Ok(Queue::Stream { url, prefix }),
        (Some("bullmq"), Some(url)) => Ok(Queue::Bullmq { url, prefix }),
        (Some("stream" | "bullmq"), None) => {
            Err(invalid("REDIS_URL", "set, such as redis://localhost, for that QUEUE"))
        }
        (Some(other), _) => Err(invalid("QUEUE", format!("stream or bullmq, not {other:.40?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let find = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(find).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_needed() {
        let settings = read(&[]).unwrap();
        assert!(settings.database.url.starts_with("sqlite:"));
        assert_eq!(settings.queue, Queue::Embedded);
    }

    #[test]
    fn redis_is_a_stream_unless_bullmq_is_asked_for() {
        let redis = ("REDIS_URL", "redis://host");
        assert!(matches!(read(&[redis]).unwrap().queue, Queue::Stream { .. }));
        let bullmq = read(&[redis, ("QUEUE", "bullmq")]).unwrap().queue;
        assert!(matches!(bullmq, Queue::Bullmq { .. }));
    }

    #[test]
    fn wrong_variable_is_named_with_what_it_must_be_and_without_its_secrets() {
        let cases: [(&[(&str, &str)], &str); 5] = [
            (&[("DATABASE_URL", "mysql://me:secret@host/db")], "DATABASE_URL must be postgres://"),
            (&[("DATABASE_URL", "sqlite:")], "DATABASE_URL must be postgres://"),
            (&[("REDIS_URL", "http://me:secret@host")], "REDIS_URL must be redis://HOST"),
            (&[("QUEUE", "bullmq")], "REDIS_URL must be set"),
            (&[("QUEUE", "kafka")], "QUEUE must be stream or bullmq, not \"kafka\""),
        ];
        for (variables, said) in cases {
            let error = read(variables).unwrap_err();
            assert!(error.starts_with(said) && !error.contains("secret"), "{error}");
        }
    }
}
