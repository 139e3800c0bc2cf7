//! `redis-stream`: takes messages from Redis streams that the relay's sink of this name fills, as a consumer
//! of a group.
//!
//! Redis keeps what each consumer holds until it is acknowledged. What one has held that is silent for longer
//! than a lease is claimed; [`Source::beat`] is how this one breaks its silence. Needs Redis 6.2.
//!
//! An answer that got lost may have handed out entries that nobody knows of. So after every fault, and now
//! and then (a call may arrive late, on a connection that was given up), what this consumer holds in Redis is
//! compared with what was handed out.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex as Shared,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use posthaste::Received;
use posthaste_redis::{RedisServer, RedisSettings};
use redis::{Cmd, Value, from_redis_value};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{
    redis_link::{self, Call, Link, Looks},
    redis_tail::{self, ListenFrom, Raw, Tail, entries},
};
use crate::{
    crew::Crew,
    listener::{Addition, Additions},
    source::{Delivery, Fate, InvalidSource, Source, SourceError, SourceKind, Token},
};

/// The registry entry.
pub(super) const KIND: SourceKind = SourceKind {
    name: "redis-stream",
    about: "takes messages from Redis streams, as a consumer of a group",
    parse,
    listen: Some(listen),
    schema: || RedisSettings::extend_schema(schemars::schema_for!(StreamSettings)),
};

const BEAT: &str = include_str!("redis_stream/beat.lua");
const SETTLE: &str = include_str!("redis_stream/settle.lua");
const LEAVE: &str = include_str!("redis_stream/leave.lua");

/// Entries of one step through what is held: a step holds Redis for about a millisecond.
const PIECE: usize = 500;
/// Streams of one source.
const STREAMS_MAX: usize = 100;
/// The consumer in whose name those are that were given back: nobody, so that anybody may claim them.
const GIVEN_BACK: &str = "given-back";

/// Settings of a `redis-stream` source.
///
/// What nobody could handle goes to `STREAM:dead`, with all fields and the field `reason`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StreamSettings {
    /// Names of the streams, 1 to 100. In a Redis Cluster they must begin with one hash tag,
    /// `{posthaste}:jobs`.
    streams: Vec<String>,
    /// The group, which reads each stream from its beginning and is made where it is missing. Several
    /// groups get each message once each.
    #[serde(default = "default_group")]
    group: String,
    /// How long what a worker holds stays its own after it was last heard of, 1 second to 1 hour.
    #[serde(default = "redis_link::half_a_minute", with = "humantime_serde")]
    #[schemars(with = "String")]
    lease: Duration,
    /// Whether entries are deleted when they are handled. Only where no other group reads the streams.
    #[serde(default)]
    delete: bool,
    /// Where a listener begins: at the `beginning` of what the streams still hold, or `now`.
    #[serde(default)]
    listen_from: ListenFrom,
}

fn default_group() -> String {
    "posthaste".to_owned()
}

fn parse(table: toml::Table) -> Result<Box<dyn Source>, InvalidSource> {
    let (server, settings) = checked(table)?;
    let (streams, group) = (settings.streams, settings.group);
    Ok(Box::new(StreamSource {
        about: format!("{server} streams {} as {group}", streams.join(", ")),
        calls: Link::new(&server, &streams),
        reads: Link::new(&server, &streams),
        lease: settings.lease,
        streams,
        group,
        consumer: redis_link::worker_name(),
        is_delete: settings.delete,
        taking: Mutex::default(),
        has_given_back: AtomicBool::new(false),
        held: Shared::default(),
    }))
}

fn listen(table: toml::Table) -> Result<Box<dyn Additions>, InvalidSource> {
    let (server, settings) = checked(table)?;
    Ok(Box::new(StreamAdditions {
        about: format!("{server} streams {}", settings.streams.join(", ")),
        tail: Tail::new(&server, settings.streams, settings.listen_from),
    }))
}

fn checked(table: toml::Table) -> Result<(Arc<RedisServer>, StreamSettings), InvalidSource> {
    let (server, mut settings) = redis_link::parse_table::<StreamSettings>(table)?;
    let streams = &settings.streams;
    if !(1..=STREAMS_MAX).contains(&streams.len()) || streams.iter().any(String::is_empty) {
        let message = format!("streams must be 1 to {STREAMS_MAX} names, none of them empty");
        return Err(redis_link::invalid("streams", &message));
    }
    if streams.iter().collect::<HashSet<_>>().len() < streams.len() {
        return Err(redis_link::invalid("streams", "streams must not name one twice"));
    }
    settings.group = redis_link::check_name("group", settings.group)?;
    settings.lease = redis_link::check_lease(settings.lease)?;
    Ok((server, settings))
}

/// Entries that are added to the streams, whoever reads them.
struct StreamAdditions {
    about: String,
    tail: Tail,
}

#[async_trait]
impl Additions for StreamAdditions {
    fn describe(&self) -> &str {
        &self.about
    }

    async fn next(&mut self, wait: Duration) -> Result<Vec<Addition>, SourceError> {
        let read = self.tail.read(wait).await?;
        self.tail.pass(&read);
        let fields = read.into_iter().filter_map(|(_, (_, fields))| fields);
        Ok(fields.map(Received::from_stream_entry).collect())
    }
}

struct StreamSource {
    about: String,
    /// For everything that Redis answers at once.
    calls: Link,
    /// For reading, which waits until an entry comes.
    reads: Link,
    streams: Vec<String>,
    group: String,
    consumer: String,
    lease: Duration,
    is_delete: bool,
    taking: Mutex<Taking>,
    /// Something can be claimed at once. Up when `settle` has given back, down when `take` has looked.
    has_given_back: AtomicBool,
    /// What is read and not settled: number of the stream, and id.
    held: Shared<HashSet<Entry>>,
}

/// How far `take` has come.
#[derive(Debug, Default)]
struct Taking {
    looks: Looks,
    /// The groups were there.
    is_prepared: bool,
    /// Read, and not handed out yet.
    ready: VecDeque<Delivery>,
}

/// Number of the stream, and id.
type Entry = (usize, Vec<u8>);

impl StreamSource {
    /// Makes the groups that are missing.
    async fn prepare(&self) -> Result<(), SourceError> {
        for stream in &self.streams {
            let mut command = redis::cmd("XGROUP");
            command.arg("CREATE").arg(stream).arg(&self.group).arg(0).arg("MKSTREAM");
            // An error answer would cost the connection, and the group is nearly always there.
            if !self.has_group(stream).await? {
                match self.calls.query("making a consumer group", &command).await {
                    // Another worker has made it meanwhile.
                    Err(_) if self.has_group(stream).await? => {}
                    answer => drop(answer?),
                }
            }
        }
        Ok(())
    }

    async fn has_group(&self, stream: &str) -> Result<bool, SourceError> {
        const DOING: &str = "looking at consumer groups";
        let exists = self.calls.query(DOING, redis::cmd("EXISTS").arg(stream)).await?;
        if exists == Value::Int(0) {
            return Ok(false);
        }
        let groups = self.calls.query(DOING, redis::cmd("XINFO").arg("GROUPS").arg(stream)).await?;
        let groups: Vec<Value> =
            from_redis_value(groups).map_err(|_| self.calls.unexpected(DOING))?;
        let name = |group| {
            let fields: std::collections::HashMap<String, Value> = from_redis_value(group).ok()?;
            from_redis_value::<String>(fields.get("name")?.clone()).ok()
        };
        Ok(groups.into_iter().filter_map(name).any(|name| name == self.group))
    }

    /// Makes ready what this consumer holds in Redis and has not read.
    async fn unheard_of(&self, taking: &mut Taking) -> Result<(), SourceError> {
        for number in 0..self.streams.len() {
            // Read before Redis is asked: what is settled meanwhile is missing there, not here.
            let held = Crew::lock(&self.held).clone();
            let mut ids: Vec<Vec<u8>> = Vec::new();
            loop {
                let piece = self.pending(number, ids.last(), Some(&self.consumer)).await?;
                let is_last = piece.len() < PIECE;
                ids.extend(piece);
                if is_last {
                    break;
                }
            }
            ids.retain(|id| !held.contains(&(number, id.clone())));
            self.claim(taking, number, &ids, Duration::ZERO).await?;
        }
        Ok(())
    }

    /// Claims what silent consumers hold, until there is enough. Answers whether nothing is left.
    ///
    /// `XAUTOCLAIM` would do both steps in one, but looks at no more than ten entries for each that is wanted.
    async fn take_over(&self, taking: &mut Taking, limit: usize) -> Result<bool, SourceError> {
        let mut is_all = true;
        for number in 0..self.streams.len() {
            let held = Crew::lock(&self.held).clone();
            let mut ids = self.pending(number, None, None).await?;
            is_all &= ids.len() < PIECE;
            // Its own may have been silent as well.
            ids.retain(|id| !held.contains(&(number, id.clone())));
            let room = limit.saturating_sub(taking.ready.len());
            is_all &= ids.len() <= room;
            ids.truncate(room);
            self.claim(taking, number, &ids, self.lease).await?;
        }
        Ok(is_all)
    }

    /// Ids that a consumer holds, or that have been held in silence for a lease; at most a piece.
    async fn pending(
        &self,
        number: usize,
        after: Option<&Vec<u8>>,
        consumer: Option<&str>,
    ) -> Result<Vec<Vec<u8>>, SourceError> {
        const DOING: &str = "looking at what is held";
        let mut command = redis::cmd("XPENDING");
        command.arg(&self.streams[number]).arg(&self.group);
        if consumer.is_none() {
            command.arg("IDLE").arg(self.lease.as_millis() as u64);
        }
        let start = after.map(|id| [b"(", id.as_slice()].concat());
        command.arg(start.as_deref().unwrap_or(b"-")).arg("+").arg(PIECE).arg(consumer);
        let answer = self.calls.query(DOING, &command).await?;
        let piece: Vec<(Vec<u8>, Value, Value, Value)> =
            from_redis_value(answer).map_err(|_| self.calls.unexpected(DOING))?;
        Ok(piece.into_iter().map(|(id, ..)| id).collect())
    }

    /// Claims entries that have been held in silence for so long, and makes them ready.
    async fn claim(
        &self,
        taking: &mut Taking,
        number: usize,
        ids: &[Vec<u8>],
        silence: Duration,
    ) -> Result<(), SourceError> {
        const DOING: &str = "claiming messages";
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XCLAIM");
        command.arg(&self.streams[number]).arg(&self.group).arg(&self.consumer);
        command.arg(silence.as_millis() as u64).arg(ids);
        let found = entries(&self.calls.query(DOING, &command).await?);
        let found = found.ok_or_else(|| self.calls.unexpected(DOING))?;
        let there: HashSet<&Vec<u8>> = found.iter().map(|(id, _)| id).collect();
        let missing: Vec<&Vec<u8>> = ids.iter().filter(|id| !there.contains(id)).collect();
        self.give_up(number, &missing).await?;
        self.make_ready(taking, number, found);
        Ok(())
    }

    /// Looks for entries that could not be claimed: another has claimed them, or they were deleted, or trimmed away,
    /// while they were held, and nobody can handle them any more.
    async fn give_up(&self, number: usize, missing: &[&Vec<u8>]) -> Result<(), SourceError> {
        const DOING: &str = "looking for messages that are gone";
        if missing.is_empty() {
            return Ok(());
        }
        let stream = &self.streams[number];
        let look = |id: &&Vec<u8>| {
            let mut command = redis::cmd("XRANGE");
            command.arg(stream).arg(*id).arg(*id);
            command
        };
        let looks: Vec<Cmd> = missing.iter().map(look).collect();
        let there = self.calls.query_all(DOING, &looks).await?;
        let gone = missing.iter().zip(there).filter(|(_, it)| *it == Value::Array(Vec::new()));
        let gone: Vec<&Vec<u8>> = gone.map(|(id, _)| *id).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let count = gone.len();
        tracing::error!(stream, count, "messages went from the stream before they were handled");
        let mut command = redis::cmd("XACK");
        command.arg(stream).arg(&self.group).arg(gone);
        self.calls.query(DOING, &command).await.map(drop)
    }

    /// Reads what nobody has read, and waits for the first of it.
    async fn next(
        &self,
        taking: &mut Taking,
        limit: usize,
        wait: Duration,
    ) -> Result<(), SourceError> {
        const DOING: &str = "reading messages";
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&self.group).arg(&self.consumer);
        // Of each stream: what is too much then waits here.
        command.arg("COUNT").arg(limit.div_ceil(self.streams.len()));
        // No time at all would mean for ever.
        let millis = wait.as_millis() as u64;
        if millis > 0 {
            command.arg("BLOCK").arg(millis);
        }
        command.arg("STREAMS").arg(&self.streams).arg(vec![">"; self.streams.len()]);
        let answer = self.reads.query_waiting(DOING, &command, wait).await?;
        let read = redis_tail::read(&self.streams, &answer);
        let read = read.ok_or_else(|| self.reads.unexpected(DOING))?;
        for (number, entry) in read {
            self.make_ready(taking, number, [entry]);
        }
        Ok(())
    }

    /// Notes entries as held and has them handed out, unless they are in hand.
    fn make_ready(&self, taking: &mut Taking, number: usize, found: impl IntoIterator<Item = Raw>) {
        let mut held = Crew::lock(&self.held);
        for (id, fields) in found {
            let Some(fields) = fields else { continue };
            if !held.insert((number, id.clone())) {
                continue;
            }
            let token = Token([&u32::try_from(number).unwrap_or(0).to_be_bytes(), &*id].concat());
            let message = Received::from_stream_entry(fields);
            taking.ready.push_back(Delivery { token, message });
        }
    }

    async fn beat_on(&self, stream: &str) -> Result<(), SourceError> {
        const DOING: &str = "keeping what is held";
        let (mut start, keys) = ("-".to_owned(), [stream]);
        loop {
            let call = Call { text: BEAT, keys: &keys };
            let answer = self.calls.run(DOING, &call, |command| {
                command.arg(&self.group).arg(&self.consumer).arg(&start).arg(PIECE);
            });
            match from_redis_value::<Option<String>>(answer.await?) {
                Ok(Some(last)) => start = format!("({last}"),
                Ok(None) => return Ok(()),
                Err(_) => return Err(self.calls.unexpected(DOING)),
            }
        }
    }
}

#[async_trait]
impl Source for StreamSource {
    fn describe(&self) -> &str {
        &self.about
    }

    async fn take(&self, limit: usize, wait: Duration) -> Result<Vec<Delivery>, SourceError> {
        let mut taking = self.taking.lock().await;
        if taking.looks.begin() {
            // What waits there would take something, for nobody.
            self.reads.close().await;
            taking.is_prepared = false;
        }
        if !taking.is_prepared {
            self.prepare().await?;
            taking.is_prepared = true;
        }
        if self.has_given_back.swap(false, Ordering::AcqRel) || taking.looks.is_due(self.lease) {
            self.unheard_of(&mut taking).await?;
            let is_all = self.take_over(&mut taking, limit).await?;
            taking.looks.looked(is_all);
        }
        if taking.ready.is_empty() {
            self.next(&mut taking, limit, wait).await?;
        }
        taking.looks.end();
        let count = limit.min(taking.ready.len());
        Ok(taking.ready.drain(..count).collect())
    }

    async fn settle(&self, settled: &[(Token, Fate)]) -> Result<(), SourceError> {
        let mut by_stream: Vec<Vec<(&[u8], &Fate)>> = vec![Vec::new(); self.streams.len()];
        let settled: Vec<(usize, &[u8], &Fate)> =
            settled.iter().filter_map(|(token, fate)| known(token, fate)).collect();
        for (number, id, fate) in &settled {
            if let Some(of) = by_stream.get_mut(*number) {
                of.push((id, fate));
            }
        }
        let calls = self.streams.iter().zip(&by_stream).filter(|(_, entries)| !entries.is_empty());
        let calls = calls.map(|(stream, entries)| self.settle_on(stream, entries));
        futures_util::future::try_join_all(calls).await?;
        let mut held = Crew::lock(&self.held);
        for (number, id, _) in &settled {
            held.remove(&(*number, id.to_vec()));
        }
        if settled.iter().any(|(.., fate)| **fate == Fate::GiveBack) {
            self.has_given_back.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.lease)
    }

    async fn beat(&self) -> Result<(), SourceError> {
        if Crew::lock(&self.held).is_empty() {
            return Ok(());
        }
        for stream in &self.streams {
            self.beat_on(stream).await?;
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), SourceError> {
        let _taking = self.taking.lock().await;
        self.reads.close().await;
        for stream in &self.streams {
            let keys = [stream.as_str()];
            let call = Call { text: LEAVE, keys: &keys };
            let answer = self.calls.run("leaving the group", &call, |command| {
                command.arg(&self.group).arg(&self.consumer).arg(GIVEN_BACK);
                command.arg(self.lease.as_millis() as u64).arg(PIECE);
            });
            answer.await?;
        }
        Ok(())
    }
}

impl StreamSource {
    async fn settle_on(&self, stream: &str, entries: &[(&[u8], &Fate)]) -> Result<(), SourceError> {
        let dead = format!("{stream}:dead");
        let keys = [stream, &*dead];
        let call = Call { text: SETTLE, keys: &keys };
        let answer = self.calls.run("settling messages", &call, |command: &mut Cmd| {
            command.arg(&self.group).arg(&self.consumer).arg(GIVEN_BACK);
            command.arg(self.lease.as_millis() as u64).arg(i32::from(self.is_delete));
            for (id, fate) in entries {
                let (fate, reason) = match fate {
                    Fate::Done => ("done", ""),
                    Fate::GiveBack => ("again", ""),
                    Fate::Bury { reason } => ("bury", reason.as_str()),
                };
                command.arg(fate).arg(*id).arg(reason);
            }
        });
        answer.await.map(drop)
    }
}

/// Stream and id of a token.
fn known<'a>(token: &'a Token, fate: &'a Fate) -> Option<(usize, &'a [u8], &'a Fate)> {
    let (number, id) = token.0.split_first_chunk()?;
    Some((u32::from_be_bytes(*number) as usize, id, fate))
}
