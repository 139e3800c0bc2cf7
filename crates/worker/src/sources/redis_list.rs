//! `redis-list`: takes messages from a Redis list that the relay's sink of this name fills.
//!
//! An element is moved to a list of what this worker holds in the step that takes it, and leaves that when it
//! is settled. Workers note that they are alive; what one that no longer is has held goes back to the front of
//! the queue. Needs Redis 6.2.
//!
//! An answer that got lost may have taken elements that nobody knows of. So after every fault, and now and
//! then (a call may arrive late, on a connection that was given up), what this worker holds in Redis is compared
//! with what was handed out.

use std::{
    collections::HashMap,
    sync::{
        Mutex as Shared,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use posthaste::{Received, UnreadableMessage};
use posthaste_redis::RedisSettings;
use redis::{Cmd, Value, from_redis_value};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use super::redis_link::{self, Call, Link, Looks};
use crate::{
    clock,
    crew::Crew,
    source::{Delivery, Fate, InvalidSource, Source, SourceError, SourceKind, Token},
};

/// The registry entry.
pub(super) const KIND: SourceKind = SourceKind {
    name: "redis-list",
    about: "takes messages from a Redis list",
    parse,
    // A list says nothing of what is added to it.
    listen: None,
    schema: || RedisSettings::extend_schema(schemars::schema_for!(ListSettings)),
};

const TAKE: &str = include_str!("redis_list/take.lua");
const GIVE_BACK: &str = include_str!("redis_list/give_back.lua");
const SETTLE: &str = include_str!("redis_list/settle.lua");

/// Bytes after which one call takes no further element: it holds Redis for a few milliseconds then.
const TAKE_BYTES: usize = 8 << 20;
/// How long the name of a worker that is gone is kept, in seconds. A call of its may still be on its way; TCP
/// gives a connection up after a quarter of an hour (`tcp_retries2`).
const FORGET_SECONDS: u32 = 3_600;

/// Settings of a `redis-list` source.
///
/// Beside the list, names that begin with its own hold what workers have in hand (`LIST:processing:WORKER`),
/// who is alive (`LIST:workers`, `LIST:alive:WORKER`) and what nobody could handle (`LIST:dead`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListSettings {
    /// Name of the list. The relay fills it by a sink `redis-list` with `format = "envelope"` or
    /// `"cloudevents"`. In a Redis Cluster it must hold a hash tag, `{posthaste}:jobs`.
    list: String,
    /// The end of the list that the sink pushes onto; messages are taken from the other one.
    #[serde(default)]
    side: Side,
    /// How long what a worker holds stays its own after it was last heard of, 1 second to 1 hour.
    #[serde(default = "redis_link::half_a_minute", with = "humantime_serde")]
    #[schemars(with = "String")]
    lease: Duration,
}

/// An end of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Side {
    /// The sink's default.
    #[default]
    Left,
    /// For a sink with `side = "right"`.
    Right,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Left => "LEFT",
            Self::Right => "RIGHT",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

fn parse(table: toml::Table) -> Result<Box<dyn Source>, InvalidSource> {
    let (server, settings) = redis_link::parse_table::<ListSettings>(table)?;
    let list = redis_link::check_name("list", settings.list)?;
    let lease = redis_link::check_lease(settings.lease)?;
    let worker = redis_link::worker_name();
    let names = std::slice::from_ref(&list);
    Ok(Box::new(ListSource {
        about: format!("{server} list {list}"),
        calls: Link::new(&server, names),
        waits: Link::new(&server, names),
        processing: format!("{list}:processing:{worker}"),
        alive: format!("{list}:alive:{worker}"),
        workers: format!("{list}:workers"),
        dead: format!("{list}:dead"),
        side: settings.side,
        list,
        lease,
        worker,
        taking: Mutex::default(),
        was_silent: AtomicBool::new(false),
        held: Shared::default(),
    }))
}

struct ListSource {
    about: String,
    /// For everything that Redis answers at once.
    calls: Link,
    /// For waiting until an element comes.
    waits: Link,
    list: String,
    processing: String,
    alive: String,
    workers: String,
    dead: String,
    /// The end that the sink pushes onto.
    side: Side,
    lease: Duration,
    worker: String,
    taking: Mutex<Looks>,
    /// Others may have taken it for dead, and have given back what it holds. Up when a call finds that it was not
    /// known to be alive, or is not answered; down when `take` finds that it holds nothing.
    was_silent: AtomicBool,
    /// What is handed out and not settled, and how often: equal elements are one message as well.
    held: Shared<HashMap<Vec<u8>, usize>>,
}

impl ListSource {
    /// Takes what is there, and says that this worker is alive.
    async fn next(&self, limit: usize) -> Result<Vec<Vec<u8>>, SourceError> {
        let answer = self.try_next(limit).await;
        if answer.as_ref().map_or(true, |(was_alive, _)| !was_alive) {
            self.was_silent.store(true, Ordering::Relaxed);
        }
        answer.map(|(_, taken)| taken)
    }

    async fn try_next(&self, limit: usize) -> Result<(bool, Vec<Vec<u8>>), SourceError> {
        const DOING: &str = "taking messages";
        let keys = [&*self.list, &self.processing, &self.alive, &self.workers];
        let call = Call { text: TAKE, keys: &keys };
        let answer = self.calls.run(DOING, &call, |command| {
            command.arg(limit).arg(self.side.other().name()).arg(self.side.name());
            command.arg(&self.worker).arg(self.lease.as_millis() as u64).arg(TAKE_BYTES);
        });
        from_redis_value(answer.await?).map_err(|_| self.calls.unexpected(DOING))
    }

    /// Waits for one element. [`Self::next`] has just said that this worker is alive, and will be when it comes.
    async fn wait(&self, wait: Duration) -> Result<Option<Vec<u8>>, SourceError> {
        const DOING: &str = "waiting for messages";
        let wait = wait.min(Looks::interval(self.lease));
        // No time at all would mean for ever.
        if wait < Duration::from_millis(1) {
            return Ok(None);
        }
        let mut command = redis::cmd("BLMOVE");
        command.arg(&self.list).arg(&self.processing);
        command.arg(self.side.other().name()).arg(self.side.name()).arg(wait.as_secs_f64());
        let answer = self.waits.query_waiting(DOING, &command, wait).await?;
        from_redis_value(answer).map_err(|_| self.waits.unexpected(DOING))
    }

    /// What this worker holds in Redis and has not handed out, the oldest first.
    async fn unheard_of(&self) -> Result<Vec<Vec<u8>>, SourceError> {
        const DOING: &str = "looking at what is held";
        // Read before Redis is asked: what is settled meanwhile is missing there, not here.
        let mut held = Crew::lock(&self.held).clone();
        let mut command = redis::cmd("LRANGE");
        command.arg(&self.processing).arg(0).arg(-1);
        let answer = self.calls.query(DOING, &command).await?;
        let mut found: Vec<Vec<u8>> =
            from_redis_value(answer).map_err(|_| self.calls.unexpected(DOING))?;
        if self.side == Side::Left {
            found.reverse();
        }
        found.retain(|element| match held.get_mut(element) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        });
        Ok(found)
    }

    fn may_come_twice(&self) -> bool {
        let holds_nothing = Crew::lock(&self.held).is_empty();
        if holds_nothing {
            self.was_silent.store(false, Ordering::Relaxed);
        }
        self.was_silent.load(Ordering::Relaxed)
    }

    /// Has what dead workers hold go back to the queue.
    async fn take_over(&self) -> Result<(), SourceError> {
        const DOING: &str = "looking for workers that are gone";
        let mut command = redis::cmd("ZRANGE");
        command.arg(&self.workers).arg(0).arg(-1);
        let answer = self.calls.query(DOING, &command).await?;
        let mut workers: Vec<String> =
            from_redis_value(answer).map_err(|_| self.calls.unexpected(DOING))?;
        workers.retain(|worker| *worker != self.worker);
        let exists = |worker: &String| {
            let mut command = redis::cmd("EXISTS");
            command.arg(format!("{}:alive:{worker}", self.list));
            command
        };
        let exists: Vec<Cmd> = workers.iter().map(exists).collect();
        let alive = self.calls.query_all(DOING, &exists).await?;
        let gone = workers.iter().zip(alive).filter(|(_, alive)| *alive == Value::Int(0));
        for (worker, _) in gone {
            let count = self.give_back(worker, false).await?;
            if count > 0 {
                tracing::warn!(
                    source = self.about,
                    worker,
                    count,
                    "took over from a worker that is gone"
                );
            }
        }
        Ok(())
    }

    async fn give_back(&self, worker: &str, is_own: bool) -> Result<u64, SourceError> {
        const DOING: &str = "giving back what a worker holds";
        let processing = format!("{}:processing:{worker}", self.list);
        let alive = format!("{}:alive:{worker}", self.list);
        let keys = [&*self.list, &processing, &alive, &self.workers];
        let call = Call { text: GIVE_BACK, keys: &keys };
        let answer = self.calls.run(DOING, &call, |command| {
            command.arg(worker).arg(self.side.other().name()).arg(self.side.name());
            command.arg(FORGET_SECONDS).arg(i32::from(is_own));
        });
        from_redis_value(answer.await?).map_err(|_| self.calls.unexpected(DOING))
    }

    /// The arguments of `settle.lua` for one element: its fate and its dead letter.
    fn fate(&self, element: &[u8], fate: &Fate) -> (&'static str, String) {
        let Fate::Bury { reason } = fate else {
            return (if *fate == Fate::Done { "done" } else { "again" }, String::new());
        };
        let mut letter = json!({ "reason": reason, "time": clock::now(), "worker": self.worker });
        match std::str::from_utf8(element) {
            Ok(text) => letter["element"] = text.into(),
            Err(_) => letter["element_base64"] = STANDARD.encode(element).into(),
        }
        ("bury", letter.to_string())
    }
}

#[async_trait]
impl Source for ListSource {
    fn describe(&self) -> &str {
        &self.about
    }

    async fn take(&self, limit: usize, wait: Duration) -> Result<Vec<Delivery>, SourceError> {
        let mut looks = self.taking.lock().await;
        if looks.begin() {
            // What waits there would take something, for nobody.
            self.waits.close().await;
        }
        let mut found = Vec::new();
        if looks.is_due(self.lease) {
            found = self.unheard_of().await?;
            self.take_over().await?;
            looks.looked(found.len() <= limit);
        }
        if found.is_empty() {
            found = self.next(limit).await?;
            if found.is_empty() {
                found.extend(self.wait(wait).await?);
            }
            // What was given back while its first delivery is in hand is held again, and that is all: handed out
            // twice it would be settled by the second delivery.
            if !found.is_empty() && self.may_come_twice() {
                found = self.unheard_of().await?;
                looks.looked(found.len() <= limit);
            }
        }
        found.truncate(limit);
        let mut held = Crew::lock(&self.held);
        for element in &found {
            *held.entry(element.clone()).or_default() += 1;
        }
        looks.end();
        let hand_out =
            |element: Vec<u8>| Delivery { message: read(&element), token: Token(element) };
        Ok(found.into_iter().map(hand_out).collect())
    }

    async fn settle(&self, settled: &[(Token, Fate)]) -> Result<(), SourceError> {
        let keys = [&*self.list, &self.processing, &self.dead];
        let (push, oldest) = match self.side {
            Side::Left => ("RPUSH", -1),
            Side::Right => ("LPUSH", 1),
        };
        let fate = |(token, fate): &(Token, Fate)| (token.clone(), self.fate(&token.0, fate));
        let (again, others): (Vec<_>, Vec<_>) =
            settled.iter().partition(|(_, fate)| *fate == Fate::GiveBack);
        // The last one that goes back is the first to be taken.
        let ordered = others.into_iter().chain(again.into_iter().rev());
        let ordered: Vec<_> = ordered.map(fate).collect();
        let call = Call { text: SETTLE, keys: &keys };
        let answer = self.calls.run("settling messages", &call, |command| {
            command.arg(push).arg(oldest);
            for (token, (fate, letter)) in &ordered {
                command.arg(*fate).arg(&token.0).arg(letter);
            }
        });
        answer.await?;
        let mut held = Crew::lock(&self.held);
        for (token, _) in settled {
            match held.get_mut(&token.0) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(held.remove(&token.0)),
            }
        }
        Ok(())
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.lease)
    }

    async fn beat(&self) -> Result<(), SourceError> {
        self.next(0).await.map(drop)
    }

    async fn close(&self) -> Result<(), SourceError> {
        const DOING: &str = "leaving the workers";
        let looks = self.taking.lock().await;
        self.waits.close().await;
        self.give_back(&self.worker, true).await?;
        // A call that was dropped may still take something: whoever looks next finds it by the name.
        if !looks.is_in_doubt() {
            let mut command = redis::cmd("ZREM");
            command.arg(&self.workers).arg(&self.worker);
            self.calls.query(DOING, &command).await?;
        }
        Ok(())
    }
}

/// Reads an envelope or an event. What is neither was probably written as a bare payload.
fn read(element: &[u8]) -> Result<Received, UnreadableMessage> {
    let refused = match Received::from_envelope(element) {
        Ok(message) => return Ok(message),
        Err(refused) => refused,
    };
    let has = |name: &str| {
        let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(element);
        object.is_ok_and(|object| object.contains_key(name))
    };
    if has("specversion") {
        return Received::from_cloudevent(element);
    }
    if has("enqueued_at") && has("topic") {
        return Err(refused);
    }
    Err(UnreadableMessage {
        field: "element".to_owned(),
        rule: "an envelope or an event: set format = \"envelope\" for the relay's sink",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_in_either_form_and_bare_payloads_are_told_apart() {
        let envelope = br#"{"id":"01920000-0000-7000-8000-000000000001","topic":"t","content_type":"text/plain","enqueued_at":"2026-01-02T03:04:05.000006Z","headers":{},"payload":"x"}"#;
        assert_eq!(read(envelope).unwrap().payload, b"x");
        let event = br#"{"specversion":"1.0","id":"01920000-0000-7000-8000-000000000001","source":"posthaste","type":"t","time":"2026-01-02T03:04:05.000006Z","datacontenttype":"text/plain","data":"x"}"#;
        assert_eq!(read(event).unwrap().payload, b"x");
        for bare in [&b"{\"order\":17}"[..], b"\xff", b""] {
            let said = read(bare).unwrap_err().to_string();
            assert!(said.contains("set format = \"envelope\""), "{said}");
        }
        let torn = br#"{"topic":"t","enqueued_at":"now"}"#;
        assert_eq!(read(torn).unwrap_err().field, "payload");
    }
}
