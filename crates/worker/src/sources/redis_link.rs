//! What the sources on Redis share: a connection that is opened when it is needed and given up after a
//! fault, scripts, names of workers, and settings.
//!
//! Nothing is tried again here, but a script that the server has forgotten. Every wait has an end: that of
//! the connection's settings.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use posthaste_redis::{
    ConnectionError, ConnectionErrorKind, RedisConnection, RedisServer, RedisSettings, hash_tag,
};
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use serde::de::DeserializeOwned;
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

use crate::source::{InvalidSource, SourceError};

/// A connection, while there is one.
pub(super) struct Link {
    server: Arc<RedisServer>,
    /// What is used of it. In a cluster all of that lies in one slot.
    names: Vec<String>,
    open: Mutex<Option<Arc<RedisConnection>>>,
}

/// A call of a script.
pub(super) struct Call<'a> {
    pub(super) text: &'static str,
    pub(super) keys: &'a [&'a str],
}

/// When to compare what this worker holds in Redis with what it has handed out, and to look for dead workers.
#[derive(Debug, Default)]
pub(super) struct Looks {
    is_in_doubt: bool,
    doubted: Option<Instant>,
    looked: Option<Instant>,
}

impl Looks {
    /// In the time of a lease.
    const COUNT: u32 = 3;
    /// A call whose answer was given up may arrive late: looks come often for a while.
    const SOON: Duration = Duration::from_secs(1);
    const A_WHILE: Duration = Duration::from_mins(1);

    /// A third of a lease.
    pub(super) fn interval(lease: Duration) -> Duration {
        lease / Self::COUNT
    }

    /// Redis may hand something out that is never heard of, until [`Self::end`]. Answers whether the call before
    /// has come to no end.
    pub(super) fn begin(&mut self) -> bool {
        let was_in_doubt = std::mem::replace(&mut self.is_in_doubt, true);
        if was_in_doubt {
            self.doubted = Some(Instant::now());
        }
        was_in_doubt
    }

    /// Whether it is time, once a call has begun.
    pub(super) fn is_due(&self, lease: Duration) -> bool {
        let is_late = |at: Instant| match self.doubted {
            Some(doubted) if doubted >= at => true,
            Some(doubted) if doubted.elapsed() < Self::A_WHILE => at.elapsed() >= Self::SOON,
            _ => at.elapsed() >= Self::interval(lease),
        };
        self.looked.is_none_or(is_late)
    }

    /// It has looked, unless something is left to be looked at.
    pub(super) fn looked(&mut self, is_all: bool) {
        self.looked = is_all.then(Instant::now);
    }

    /// The call has come to its end.
    pub(super) fn end(&mut self) {
        self.is_in_doubt = false;
    }

    /// Whether a call has come to no end.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }
}

impl Link {
    pub(super) fn new(server: &Arc<RedisServer>, names: &[String]) -> Self {
        Self { server: Arc::clone(server), names: names.to_vec(), open: Mutex::default() }
    }

    /// Sends a command. After an error the connection is not used again.
    pub(super) async fn query(&self, doing: &str, command: &Cmd) -> Result<Value, SourceError> {
        let connection = self.connection().await?;
        let answer = connection.query(command).await;
        self.answer(doing, &connection, answer).await
    }

    /// The same with commands that are on their way at once, in their order.
    pub(super) async fn query_all(
        &self,
        doing: &str,
        commands: &[Cmd],
    ) -> Result<Vec<Value>, SourceError> {
        let connection = self.connection().await?;
        let answers = join_all(commands.iter().map(|command| connection.query(command))).await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>();
        self.answer(doing, &connection, answers).await
    }

    /// The same with a command with which the server waits for at most `wait`.
    pub(super) async fn query_waiting(
        &self,
        doing: &str,
        command: &Cmd,
        wait: Duration,
    ) -> Result<Value, SourceError> {
        let connection = self.connection().await?;
        let answer = connection.query_waiting(command, wait).await;
        self.answer(doing, &connection, answer).await
    }

    /// Runs a script; `arguments` are added behind its keys.
    pub(super) async fn run(
        &self,
        doing: &str,
        call: &Call<'_>,
        arguments: impl Fn(&mut Cmd) + Send + Sync,
    ) -> Result<Value, SourceError> {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(call.keys.len());
            for key in call.keys {
                command.arg(key);
            }
            arguments(&mut command);
            command
        };
        let connection = self.connection().await?;
        let digest = redis::Script::new(call.text).get_hash().to_owned();
        let mut answer = connection.query(&command("EVALSHA", &digest)).await;
        if answer.as_ref().is_err_and(is_forgotten) {
            // Nothing was done.
            answer = connection.query(&command("EVAL", call.text)).await;
        }
        self.answer(doing, &connection, answer).await
    }

    /// Gives the connection up.
    pub(super) async fn close(&self) {
        *self.open.lock().await = None;
    }

    /// An answer that the command should never give.
    pub(super) fn unexpected(&self, doing: &str) -> SourceError {
        let doing =
            format!("{doing} on Redis at {}: an answer of another kind", self.server.address());
        ConnectionError::new(ConnectionErrorKind::Unexpected, doing).into()
    }

    async fn connection(&self) -> Result<Arc<RedisConnection>, SourceError> {
        let mut open = self.open.lock().await;
        if let Some(connection) = &*open {
            return Ok(Arc::clone(connection));
        }
        let first = self.names.first().map_or("", String::as_str);
        let connection = self.server.open(first).await?;
        if connection.is_in_cluster() && !share_a_tag(&self.names) {
            let doing = format!(
                "{} is a Redis Cluster, where what belongs together lies in one slot: begin the names \
                 of lists or streams of one source with the same hash tag, for example {{posthaste}}:jobs, \
                 and give a queue of BullMQ's a prefix with one",
                self.server
            );
            return Err(ConnectionError::new(ConnectionErrorKind::Misconfigured, doing).into());
        }
        let connection = Arc::new(connection);
        *open = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn answer<T>(
        &self,
        doing: &str,
        connection: &Arc<RedisConnection>,
        answer: Result<T, RedisError>,
    ) -> Result<T, SourceError> {
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let mut open = self.open.lock().await;
                if open.as_ref().is_some_and(|open| Arc::ptr_eq(open, connection)) {
                    *open = None;
                }
                Err(connection.fault(doing, error).into())
            }
        }
    }
}

fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

fn share_a_tag(names: &[String]) -> bool {
    let tag = |name: &String| hash_tag(name).map(str::to_owned);
    let Some(first) = names.first().and_then(tag) else { return false };
    names.iter().all(|name| tag(name).as_ref() == Some(&first))
}

/// A name that no other worker has, or had.
pub(super) fn worker_name() -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("worker-{}-{}", std::process::id(), &random[..12])
}

/// Takes a source's table apart: the server, and the source's own settings.
pub(super) fn parse_table<T: DeserializeOwned>(
    mut table: toml::Table,
) -> Result<(Arc<RedisServer>, T), InvalidSource> {
    let server = RedisSettings::take_from(&mut table)?.check()?;
    let own = table.try_into();
    let own = own.map_err(|error: toml::de::Error| invalid("", &error.to_string()))?;
    Ok((Arc::new(server), own))
}

/// How long a silent worker keeps what it holds.
pub(super) fn check_lease(lease: Duration) -> Result<Duration, InvalidSource> {
    const LOW: Duration = Duration::from_secs(1);
    const HIGH: Duration = Duration::from_hours(1);
    if (LOW..=HIGH).contains(&lease) {
        return Ok(lease);
    }
    let message = format!("lease must lie between {LOW:?} and {HIGH:?}, not {lease:?}");
    Err(invalid("lease", &message))
}

/// A name of something on the server.
pub(super) fn check_name(key: &str, name: String) -> Result<String, InvalidSource> {
    if name.is_empty() {
        return Err(invalid(key, &format!("{key} must not be empty")));
    }
    Ok(name)
}

pub(super) fn invalid(key: &str, message: &str) -> InvalidSource {
    InvalidSource { key: key.to_owned(), message: message.to_owned() }
}

pub(super) fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_source_share_a_hash_tag_in_a_cluster() {
        let shared = |names: &[&str]| {
            share_a_tag(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert!(shared(&["{a}:x"]) && shared(&["{a}:x", "{a}:y"]));
        assert!(!shared(&["a"]) && !shared(&["{a}:x", "{b}:x"]) && !shared(&["{a}:x", "a"]));
    }
}
