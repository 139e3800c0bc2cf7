//! Batches as calls of a Lua script, for every sink that hands Redis its messages through one.
//!
//! A batch goes out as a few calls, the next one on its way while Redis works on the last, and
//! Redis says of every message whether it has it. Each stream, list or channel is a destination
//! and keeps its order: a call names the place that it continues from (`place.lua`), which Redis
//! keeps and moves together with the messages (ONCE). So whatever follows a call that failed, or
//! arrives after its connection was given up, does nothing: a connection takes the lane over
//! (`claim.lua`) before it reads the place. What a message becomes is the sink's own [`Script`]; connections are
//! `posthaste_redis`'s job, retries the pipeline's.

mod call;
mod names;
mod settings;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::FuturesOrdered};
use posthaste_core::{MessageRef, Template};
use posthaste_redis::{RedisConnection, RedisServer, hash_tag};
#[cfg(feature = "defects")]
use posthaste_store::defect;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outcomes::Outcomes;
use crate::failpoint;
use crate::sink::{Batch, Lane, Mark, Outcome, Receipt, Sink, SinkError, SinkErrorKind};
use call::{Answer, Call, Failed, Frame};

pub(super) use settings::{check_event_source, check_maxlen, parse_name, parse_table};

/// Calls that are under way at once: one that Redis works on and one that waits for it there.
const CALLS_IN_FLIGHT: usize = 2;
const PUBLISHING: &str = "publishing a batch";
const CLAIMING: &str = "taking over the subscription's place";
/// How far a call that leaves messages missing moves the count of calls (`place.lua`).
const LEAP: i64 = 1_000;

/// What a sink promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Delivery {
    /// Each message once, whatever is killed or paused when: the subscription's place is kept in
    /// Redis, together with the messages.
    #[default]
    ExactlyOnce,
    /// A fault repeats what was in flight.
    AtLeastOnce,
}

/// What a kind of sink puts into the calls of its script, and what that answers.
pub(super) trait Script: Send {
    /// The script: `place.lua` and what the kind does from there.
    const TEXT: &'static str;
    /// The same where no place is kept: `free.lua` in front.
    const FREE_TEXT: &'static str;
    /// What a destination is called.
    const DESTINATION: &'static str;
    /// Whether destinations are keys. Those that are not are the script's last arguments.
    const ARE_KEYS: bool;
    /// Messages one call hands over at most: about 1 ms of Redis, which serves nobody else meanwhile.
    /// More are slower: Lua interns every value, and from about 500 messages on its heap leaves the
    /// processor's caches (measured with streams: 3.2 µs a message with 250, 4.2 µs with 1,000).
    const MESSAGES_MAX: usize = 200;
    /// How a message is written, which is settled when its call is planned.
    type Shape: Copy + Send;

    /// What the names of places begin with; destinations are named as `destination` says. In a
    /// cluster it lies in their slot if it holds a hash tag.
    fn place_prefix(destination: &Template) -> String {
        format!("{}place:", destination.prefix())
    }

    /// How a hash tag gets into the names, for people.
    fn hash_tag_remedy(destination: &Template) -> String {
        let (kind, source) = (Self::DESTINATION, destination.source());
        format!(
            "begin {kind} with a hash tag, for example {kind} = \"{{{{posthaste}}}}:{{topic}}\" \
             instead of {source:?}"
        )
    }

    /// Adds the script's settings, its arguments between the places and the plan.
    fn configure(&self, command: &mut Cmd);

    /// Whether a message may go to a destination of this name.
    ///
    /// # Errors
    /// Why none of this name can exist, for people.
    fn check_name(&self, destination: &str) -> Result<(), String> {
        let _ = destination;
        Ok(())
    }

    /// Adds to the plan how `message` is written. `named` is the call's last message that others
    /// may refer to: `None` at first, and set here.
    ///
    /// # Errors
    /// Why it cannot be written, for people.
    fn plan<'a>(
        &mut self,
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

    /// Why the script did nothing where its answer is the word `MISFIT` and these `details`; `None`
    /// where it never answers so.
    fn misfit(&self, details: &[Value]) -> Option<String> {
        let _ = details;
        None
    }
}

/// A sink that publishes through calls of `S`.
pub(super) struct ScriptSink<S: Script> {
    connection: RedisConnection,
    text: &'static str,
    script_sha: String,
    place_key: String,
    /// What the lane is held with; `None` where no place is kept.
    held: Option<Held>,
    /// Calls that are not under way.
    idle: Vec<Call<S>>,
}

/// A lane that this connection holds.
struct Held {
    /// The connection's epoch.
    epoch: String,
    /// Where it stood at the beginning.
    mark: Mark,
    /// Calls counted by now.
    calls: i64,
}

/// Where and how a sink with a script is connected.
pub(super) struct Connect<'a> {
    pub(super) server: &'a RedisServer,
    pub(super) lane: &'a Lane,
    /// How its destinations are named.
    pub(super) destination: &'a Template,
    pub(super) delivery: Delivery,
}

/// Tries what a connection needs.
pub(super) async fn probe<S: Script>(
    server: &RedisServer,
    destination: &Template,
    delivery: Delivery,
) -> Result<RedisConnection, SinkError> {
    let connection = open::<S>(server, destination, &S::place_prefix(destination)).await?;
    load_script(&connection, text_of::<S>(delivery)).await?;
    Ok(connection)
}

/// Connects to the server that holds the place, and in a cluster the destinations beside it.
async fn open<S: Script>(
    server: &RedisServer,
    destination: &Template,
    place_key: &str,
) -> Result<RedisConnection, SinkError> {
    let connection = server.open(place_key).await?;
    let has_tag = hash_tag(&S::place_prefix(destination)).is_some();
    if connection.is_in_cluster() && S::ARE_KEYS && !has_tag {
        let remedy = S::hash_tag_remedy(destination);
        let doing = format!(
            "{server} is a Redis Cluster, where what a call touches lies in one slot: {remedy}"
        );
        return Err(SinkError::new(SinkErrorKind::Misconfigured, doing));
    }
    Ok(connection)
}

const fn text_of<S: Script>(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::ExactlyOnce => S::TEXT,
        Delivery::AtLeastOnce => S::FREE_TEXT,
    }
}

impl<S: Script> ScriptSink<S> {
    /// Connects for a lane. Each call has a script of its own.
    pub(super) async fn connect(
        to: &Connect<'_>,
        script: impl Fn() -> S,
    ) -> Result<Self, SinkError> {
        let place_key = format!("{}{}", S::place_prefix(to.destination), to.lane.name);
        let connection = open::<S>(to.server, to.destination, &place_key).await?;
        let text = text_of::<S>(to.delivery);
        #[cfg(feature = "defects")]
        let text = broken(text);
        // Here and not at the first batch, so that a missing permission shows at once.
        load_script(&connection, text).await?;
        let held = match to.delivery {
            Delivery::ExactlyOnce => Some(claim(&connection, &place_key, to.lane).await?),
            Delivery::AtLeastOnce => None,
        };
        let call = || Call::new(to.destination.clone(), script());
        // Without a place, what follows a call that failed would be done all the same.
        let calls = if held.is_some() { CALLS_IN_FLIGHT } else { 1 };
        Ok(Self {
            connection,
            text,
            script_sha: redis::Script::new(text).get_hash().to_owned(),
            place_key,
            held,
            idle: std::iter::repeat_with(call).take(calls).collect(),
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
        let Self { connection, text, script_sha, place_key, held, idle } = self;
        let connection = &*connection;
        let mut outcomes = Outcomes::accepted(batch.len());
        let (mut failed, mut is_reloaded) = (Failed::default(), false);
        let mut under_way = FuturesOrdered::new();
        let (epoch, done) = match held {
            Some(Held { epoch, calls, .. }) => (Some(&**epoch), calls),
            None => (None, &mut 0),
        };
        let (mut start, mut calls) = (0, *done);
        loop {
            while start < batch.len()
                && let Some(mut call) = idle.pop()
            {
                let frame = Frame { script_sha, place_key, epoch, calls };
                let is_planned = call.prepare(batch, start, &frame, &mut failed, &mut outcomes);
                start = call.part().end;
                if is_planned {
                    calls += 1;
                    under_way.push_back(async move {
                        let answer = connection.query(call.command()).await;
                        (call, answer)
                    });
                } else {
                    idle.push(call);
                }
            }
            let Some((mut call, answer)) = under_way.next().await else { break };
            failpoint::reach("call-answered", place_key);
            let part = call.part();
            let resume_at = match answer {
                Ok(value) => match call.read(&value, &mut failed, &mut outcomes) {
                    Some(Answer::Taken) => {
                        *done += 1;
                        idle.push(call);
                        continue;
                    }
                    Some(Answer::Refused) => {
                        *done += LEAP;
                        Ok(part.end)
                    }
                    Some(Answer::Stopped) => {
                        *done += LEAP;
                        Ok(batch.len())
                    }
                    Some(Answer::Displaced) => Err(displaced(place_key)),
                    Some(Answer::Misfit(why)) => Err(misfit(why)),
                    None => Err(no_answer(connection, PUBLISHING)),
                },
                Err(error) if is_forgotten(&error) && !is_reloaded => {
                    is_reloaded = true;
                    load_script(connection, text).await.map(|_| part.start)
                }
                Err(error) => Err(connection.fault(PUBLISHING, error).into()),
            };
            idle.push(call);
            // What was sent behind it finds another place and does nothing.
            while let Some((call, ..)) = under_way.next().await {
                idle.push(call);
            }
            start = match resume_at {
                Ok(at) => at,
                // The parts before it were accepted; it and what follows are in doubt.
                Err(error) if epoch.is_none() && part.start > 0 => {
                    outcomes.retry_sink_from(part.start, &error.to_string());
                    batch.len()
                }
                Err(error) => return Err(error),
            };
            calls = *done;
        }
        Ok(outcomes.into_receipt())
    }

    fn mark(&self) -> Option<&Mark> {
        self.held.as_ref().map(|held| &held.mark)
    }

    fn calls(&self) -> Option<i64> {
        self.held.as_ref().map(|held| held.calls)
    }
}

/// Takes the lane over and reads its place (`claim.lua`).
async fn claim(
    connection: &RedisConnection,
    place_key: &str,
    lane: &Lane,
) -> Result<Held, SinkError> {
    const TEXT: &str = include_str!("claim.lua");
    load_script(connection, TEXT).await?;
    let mut command = redis::cmd("EVALSHA");
    command.arg(redis::Script::new(TEXT).get_hash()).arg(1).arg(place_key);
    command.arg(lane.epoch).arg(lane.log.to_string()).arg(i32::from(lane.adopts));
    let answer = connection.query(&command).await;
    let answer = answer.map_err(|error| connection.fault(CLAIMING, error))?;
    let parts: Vec<Vec<u8>> =
        FromRedisValue::from_redis_value(answer).map_err(|_| no_answer(connection, CLAIMING))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match parts.as_slice() {
        [epoch, calls, mark, missing] => {
            let positions = missing.as_chunks().0.iter().map(|bytes| i64::from_be_bytes(*bytes));
            let calls = text(calls).parse().ok();
            let calls =
                calls.ok_or_else(|| connection.unexpected(CLAIMING, "no count of calls"))?;
            let mark = Mark { calls, text: text(mark), missing: positions.collect() };
            Ok(Held { epoch: text(epoch), mark, calls })
        }
        [epoch] => Err(fenced(place_key, lane, &text(epoch))),
        _ => Err(foreign(place_key)),
    }
}

/// Loads the script: at the start, and where the server has forgotten it (`SCRIPT FLUSH`, another
/// server behind the same name). `NOSCRIPT` means that nothing was done.
async fn load_script(connection: &RedisConnection, text: &str) -> Result<Value, SinkError> {
    let loaded = connection.query(redis::cmd("SCRIPT").arg("LOAD").arg(text)).await;
    Ok(loaded.map_err(|error| connection.fault("loading the script", error))?)
}

/// The script without one of its comparisons.
#[cfg(feature = "defects")]
fn broken(text: &'static str) -> &'static str {
    let comparison = match () {
        () if defect::is("ignored-epoch") => "held[1] ~= ARGV[1]",
        () if defect::is("ignored-calls") => "held[2] ~= ARGV[2]",
        () => return text,
    };
    text.replace(comparison, "false").leak()
}

fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

fn no_answer(connection: &RedisConnection, doing: &str) -> SinkError {
    connection.unexpected(doing, "no answer of the script's").into()
}

fn displaced(place_key: &str) -> SinkError {
    let doing = format!("the place {place_key:?} in Redis was moved or removed by another");
    SinkError::new(SinkErrorKind::Displaced, doing)
}

fn misfit(why: String) -> SinkError {
    SinkError::new(SinkErrorKind::Misconfigured, why)
}

fn fenced(place_key: &str, lane: &Lane, epoch: &str) -> SinkError {
    let ours = lane.epoch;
    let doing =
        format!("the place {place_key:?} in Redis is held with epoch {epoch}, later than {ours}");
    SinkError::new(SinkErrorKind::Fenced, doing)
}

fn foreign(place_key: &str) -> SinkError {
    let doing = format!(
        "the place {place_key:?} in Redis belongs to the log of another database; give this \
         subscription another name or prefix, or, if this database is a restored copy of that one, \
         run `posthaste subscriptions rebase`"
    );
    SinkError::new(SinkErrorKind::Misconfigured, doing)
}
