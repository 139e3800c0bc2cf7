//! The connection to Redis: made when it is needed, given up after a failure, and left alone for a
//! while then. Nothing here waits for Redis without a limit.

use std::{
    sync::{Mutex as StdMutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Value, aio::MultiplexedConnection};
use tokio::{sync::Mutex, time::timeout};

/// A new connection takes its own, a certificate, and a login: exchanges of about a call's length.
const EXCHANGES_TO_CONNECT: u32 = 4;
/// Error answers that say something of the key or of the memory, and nothing against the server.
const HARMLESS: [&str; 2] = ["WRONGTYPE", "OOM"];

/// One connection, shared by all calls.
pub(super) struct Link {
    client: Client,
    timeout: Duration,
    pause: Duration,
    state: StdMutex<State>,
    /// Locked by the one who connects; nobody waits for it.
    connecting: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Set by the one who connected, removed by a call that failed.
    connection: Option<MultiplexedConnection>,
    /// Until when Redis is not asked. Set by a call that failed, moved on by the one that tries
    /// again then, and removed by one that succeeded.
    rests_until: Option<Instant>,
}

/// What came of a call.
pub(super) enum Asked {
    /// Redis answered.
    Answer(Value),
    /// Redis refused, or did not answer in time.
    Failed(RedisError),
    /// It was not asked: it failed lately, or somebody is connecting.
    Unasked,
}

impl Link {
    pub(super) fn new(client: Client, timeout: Duration, pause: Duration) -> Self {
        let (state, connecting) = Default::default();
        Self { client, timeout, pause, state, connecting }
    }

    /// Sends one command.
    ///
    /// # Cancel safety
    /// The server may still run the command when the future is dropped.
    pub(super) async fn ask(&self, command: &Cmd) -> Asked {
        if !self.may_ask() {
            return Asked::Unasked;
        }
        let connection = match self.connection().await {
            Ok(Some(connection)) => connection,
            Ok(None) => return Asked::Unasked,
            Err(error) => return self.failed(error),
        };
        match timeout(self.timeout, query(connection, command)).await {
            Ok(Ok(answer)) => {
                self.state().rests_until = None;
                Asked::Answer(answer)
            }
            Ok(Err(error)) if error.code().is_some_and(|code| HARMLESS.contains(&code)) => {
                self.state().rests_until = None;
                Asked::Failed(error)
            }
            Ok(Err(error)) => self.failed(error),
            Err(_elapsed) => self.failed(too_late()),
        }
    }

    /// After a failure one call tries again when the pause is over; all others pass by.
    fn may_ask(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        match state.rests_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.rests_until = Some(now + self.pause);
                true
            }
        }
    }

    /// The connection, which the first caller makes; none while it is being made.
    async fn connection(&self) -> Result<Option<MultiplexedConnection>, RedisError> {
        if let Some(connection) = &self.state().connection {
            return Ok(Some(connection.clone()));
        }
        let Ok(_turn) = self.connecting.try_lock() else { return Ok(None) };
        // The library's own limits are other ones.
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let made = self.client.get_multiplexed_async_connection_with_config(&config);
        let limit = self.timeout.saturating_mul(EXCHANGES_TO_CONNECT);
        let connection = timeout(limit, made).await.unwrap_or_else(|_| Err(too_late()))?;
        self.state().connection = Some(connection.clone());
        Ok(Some(connection))
    }

    fn failed(&self, error: RedisError) -> Asked {
        let rests_until = Some(Instant::now() + self.pause);
        *self.state() = State { connection: None, rests_until };
        Asked::Failed(error)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn query(mut connection: MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    connection.send_packed_command(command).await?.extract_error()
}

fn too_late() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
