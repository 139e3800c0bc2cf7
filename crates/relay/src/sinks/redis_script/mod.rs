//! Batches as calls of a Lua script, for every sink that hands Redis its messages through one.
//!
//! A batch goes out as a few calls, the next one on its way while Redis works on the last, and
//! Redis says of every message whether it has it. Each stream, list or channel is a destination
//! and keeps its order: a call names the place that it continues from (`place.lua`), so that
//! whatever follows a call that failed, or arrives after its connection was given up, does
//! nothing. What a message becomes is the sink's own [`Script`]; connections are
//! `redis_connection`'s job, retries the pipeline's.

mod call;
mod names;
mod settings;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::FuturesOrdered};
use posthaste_core::{MessageRef, Template};
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

use super::{
    outcomes::Outcomes,
    redis_connection::{RedisConnection, RedisServer},
};
use crate::sink::{Batch, Outcome, Receipt, Sink, SinkError, SinkErrorKind};
use call::{Answer, Call, Failed, Frame};

pub(super) use settings::{check_event_source, check_maxlen, parse_name, parse_table};

/// Calls that are under way at once: one that Redis works on and one that waits for it there.
const CALLS_IN_FLIGHT: usize = 2;
const PUBLISHING: &str = "publishing a batch";

/// What a kind of sink puts into the calls of its script, and what that answers.
pub(super) trait Script: Send {
    /// The script: `place.lua` and what the kind does from there.
    const TEXT: &'static str;
    /// What a destination is called.
    const DESTINATION: &'static str;
    /// Whether destinations are keys. Those that are not are the script's last arguments.
    const ARE_KEYS: bool;
    /// How a message is written, which is settled when its call is planned.
    type Shape: Copy + Send;

    /// Adds the script's settings, its arguments between the places and the plan.
    fn configure(&self, command: &mut Cmd);

    /// Adds to the plan how `message` is written. `named` is the call's last message that others
    /// may refer to: `None` at first, and set here.
    ///
    /// # Errors
    /// Why it cannot be written, for people.
    fn plan<'a>(
        &self,
        message: &MessageRef<'a>,
        named: &mut Option<MessageRef<'a>>,
        plan: &mut Vec<u8>,
    ) -> Result<Self::Shape, String>;

    /// Adds the values of `message`.
    fn write(&mut self, message: &MessageRef<'_>, shape: Self::Shape, command: &mut Cmd);

    /// What became of a message to `destination` for which the script answers `number`; `None`
    /// where it never answers one.
    fn explain(&mut self, destination: &str, number: i64) -> Option<Outcome> {
        let _ = (destination, number);
        None
    }
}

/// A sink that publishes through calls of `S`.
pub(super) struct ScriptSink<S: Script> {
    connection: RedisConnection,
    script_sha: String,
    place_key: String,
    /// Where the last call left the place; `None` before the first.
    place: Option<u64>,
    /// Calls that are not under way, of [`CALLS_IN_FLIGHT`] in all.
    idle: Vec<Call<S>>,
}

impl<S: Script> ScriptSink<S> {
    /// Connects for `subscription`, whose messages go where `destination` says. Each call has a
    /// script of its own.
    pub(super) async fn connect(
        server: &RedisServer,
        subscription: &str,
        destination: &Template,
        script: impl Fn() -> S,
    ) -> Result<Self, SinkError> {
        let connection = server.open().await?;
        // Here and not at the first batch, so that a missing permission shows at once.
        load_script(&connection, S::TEXT).await?;
        let call = || Call::new(destination.clone(), script());
        Ok(Self {
            connection,
            script_sha: redis::Script::new(S::TEXT).get_hash().to_owned(),
            place_key: format!("{}place:{subscription}", destination.prefix()),
            place: None,
            idle: std::iter::repeat_with(call).take(CALLS_IN_FLIGHT).collect(),
        })
    }

    /// The scripts of all calls, while no batch is being published.
    pub(super) fn scripts(&mut self) -> impl Iterator<Item = &mut S> {
        self.idle.iter_mut().map(Call::script)
    }
}

#[async_trait]
impl<S: Script> Sink for ScriptSink<S> {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let Self { connection, script_sha, place_key, place, idle } = self;
        let connection = &*connection;
        let mut outcomes = Outcomes::accepted(batch.len());
        let mut failed = Failed::default();
        let mut under_way = FuturesOrdered::new();
        let mut is_reloaded = false;
        let (mut start, mut from) = (0, *place);
        loop {
            while start < batch.len()
                && let Some(mut call) = idle.pop()
            {
                let to = from.map_or_else(first_place, |place| place + 1);
                let frame = Frame { script_sha, place_key, from, to };
                let is_planned = call.prepare(batch, start, &frame, &mut failed, &mut outcomes);
                start = call.part().end;
                if is_planned {
                    from = Some(to);
                    under_way.push_back(async move {
                        let answer = connection.query(call.command()).await;
                        (call, to, answer)
                    });
                } else {
                    idle.push(call);
                }
            }
            let Some((mut call, to, answer)) = under_way.next().await else { break };
            let part = call.part();
            let resume_at = match answer {
                Ok(value) => match call.read(&value, &mut failed, &mut outcomes) {
                    Some(Answer::Taken) => {
                        *place = Some(to);
                        idle.push(call);
                        continue;
                    }
                    Some(Answer::Refused) => Ok(part.end),
                    Some(Answer::Stopped) => Ok(batch.len()),
                    Some(Answer::Moved) => Err(displaced(place_key)),
                    None => Err(connection.unexpected(PUBLISHING, "no answer of the script's")),
                },
                Err(error) if is_forgotten(&error) && !is_reloaded => {
                    is_reloaded = true;
                    load_script(connection, S::TEXT).await.map(|_| part.start)
                }
                Err(error) => Err(connection.fault(PUBLISHING, error)),
            };
            idle.push(call);
            // What was sent behind it finds the place unmoved and does nothing.
            while let Some((call, ..)) = under_way.next().await {
                idle.push(call);
            }
            start = match resume_at {
                Ok(at) => at,
                Err(error) if part.start == 0 => return Err(error),
                // The parts before it were accepted; it and what follows are in doubt.
                Err(error) => {
                    outcomes.retry_sink_from(part.start, &error.to_string());
                    batch.len()
                }
            };
            from = *place;
        }
        Ok(outcomes.into_receipt())
    }
}

/// Loads the script: at the start, and where the server has forgotten it (`SCRIPT FLUSH`, another
/// server behind the same name). `NOSCRIPT` means that nothing was done.
async fn load_script(connection: &RedisConnection, text: &str) -> Result<Value, SinkError> {
    let loaded = connection.query(redis::cmd("SCRIPT").arg("LOAD").arg(text)).await;
    loaded.map_err(|error| connection.fault("loading the script", error))
}

fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// The place of a new connection. Random, so that no call of an earlier connection continues
/// from it.
fn first_place() -> u64 {
    rand::random::<u64>() >> 1
}

fn displaced(place_key: &str) -> SinkError {
    let doing = format!("the place {place_key:?} in Redis was moved or removed by another");
    SinkError::new(SinkErrorKind::Displaced, doing)
}
