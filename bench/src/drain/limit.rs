//! The limit: the leanest loop we can write over the same rows. One connection to PostgreSQL, one
//! to Redis, reading and writing at the same time, and no bookkeeping whatsoever: killed in the
//! middle, it knows nothing.
//!
//! The entries it appends are byte for byte those of the relay.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, pin_mut, stream};
use posthaste_core::Timestamp;
use posthaste_relay::clock;
use posthaste_testkit::failure::{During, Failure, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::copy;
use crate::{messages::STREAM, resp, servers};

/// Commands in one write to Redis.
const WRITE_MESSAGES: usize = 1_000;
/// Writes that wait for Redis, at most.
const WRITES_WAITING_MAX: usize = 4;
/// Positions of one page.
const PAGE_POSITIONS: i64 = 5_000;
/// Pages that PostgreSQL is asked for at once.
const PAGES_IN_FLIGHT: usize = 2;
/// Microseconds between the Unix epoch and 2000-01-01, where PostgreSQL counts from.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
const COLUMNS: &str = "id, topic, key, content_type, enqueued_at, payload";

/// How the rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// A prepared range query per page, two in flight.
    Pages,
    /// One binary `COPY … TO STDOUT` per table.
    Copy,
}

impl Reading {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pages => "pages of 5,000, two in flight",
            Self::Copy => "binary COPY",
        }
    }
}

/// A row as it came over the wire.
pub(super) struct Fields<'a> {
    pub(super) id: [u8; 16],
    pub(super) topic: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) content_type: &'a [u8],
    /// Microseconds since 2000-01-01.
    pub(super) enqueued_at: i64,
    pub(super) payload: &'a [u8],
}

/// Carries `count` messages over; returns the time from the first connection to the last reply.
pub(super) async fn run(
    url: &str,
    redis_port: u16,
    count: u64,
    reading: Reading,
) -> Result<Duration> {
    let started = Instant::now();
    let client = servers::connect(url).await?;
    let redis = TcpStream::connect(("127.0.0.1", redis_port)).await.during("connect to Redis")?;
    redis.set_nodelay(true).during("set up the connection to Redis")?;
    let (replies, commands) = redis.into_split();
    let (full, queue) = mpsc::channel(WRITES_WAITING_MAX);
    let writing = tokio::spawn(write(commands, queue));
    let replying = tokio::spawn(count_replies(replies, count));
    let mut entries = Entries::new(full);
    for (table, positions) in tables(&client, count).await? {
        match reading {
            Reading::Pages => read_pages(&client, &table, positions, &mut entries).await?,
            Reading::Copy => read_copy(&client, &table, &mut entries).await?,
        }
    }
    entries.flush().await?;
    drop(entries);
    writing.await.during("write to Redis")??;
    replying.await.during("read from Redis")??;
    Ok(started.elapsed())
}

/// The tables that hold positions 1 to `count` of a log that has not come round yet.
async fn tables(client: &Client, count: u64) -> Result<Vec<(String, RangeInclusive<i64>)>> {
    let sql = "select log_slot_size from posthaste.meta";
    let size: i64 = client.query_one(sql, &[]).await.during("ask for the slots")?.get(0);
    let last = count as i64;
    let table = |slot: i64| {
        let positions = (slot * size).max(1)..=(slot * size + size - 1).min(last);
        (format!("posthaste.log_{slot}"), positions)
    };
    Ok((0..=last / size).map(table).collect())
}

async fn read_pages(
    client: &Client,
    table: &str,
    positions: RangeInclusive<i64>,
    entries: &mut Entries,
) -> Result<()> {
    let sql = format!(
        "select {COLUMNS} from {table} where position >= $1 and position < $2 order by position"
    );
    let statement = client.prepare(&sql).await.during("prepare a page")?;
    let end = positions.end() + 1;
    let page = |from: i64| {
        let (statement, to) = (&statement, end.min(from + PAGE_POSITIONS));
        async move { client.query(statement, &[&from, &to]).await }
    };
    let starts = positions.step_by(PAGE_POSITIONS as usize);
    let pages = stream::iter(starts).map(page).buffered(PAGES_IN_FLIGHT);
    pin_mut!(pages);
    while let Some(rows) = pages.try_next().await.during("read a page")? {
        for row in &rows {
            entries.add(&fields(row)?).await?;
        }
    }
    Ok(())
}

fn fields(row: &Row) -> Result<Fields<'_>> {
    let read = || -> Result<Fields<'_>, tokio_postgres::Error> {
        let text = |column| row.try_get::<_, &str>(column).map(str::as_bytes);
        Ok(Fields {
            id: row.try_get::<_, Uuid>(0)?.into_bytes(),
            topic: text(1)?,
            key: text(2)?,
            content_type: text(3)?,
            enqueued_at: row.try_get::<_, copy::RawTime>(4)?.0,
            payload: row.try_get(5)?,
        })
    };
    read().during("read a row")
}

async fn read_copy(client: &Client, table: &str, entries: &mut Entries) -> Result<()> {
    let sql =
        format!("copy (select {COLUMNS} from {table} order by position) to stdout (format binary)");
    let rows = client.copy_out(&sql).await.during("copy a table")?;
    pin_mut!(rows);
    let mut is_first = true;
    while let Some(row) = rows.try_next().await.during("copy a table")? {
        let row: Bytes = if is_first { copy::without_header(&row)? } else { row };
        is_first = false;
        if let Some(fields) = copy::fields(&row)? {
            entries.add(&fields).await?;
        }
    }
    Ok(())
}

/// Turns rows into `XADD` commands and hands them on, a thousand at once.
struct Entries {
    buffers: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
    held: usize,
    /// The command up to the id.
    head: Vec<u8>,
    second: i64,
    /// `enqueued_at` as text: all but the last digits stay the same for a second.
    time: Vec<u8>,
}

impl Entries {
    fn new(buffers: mpsc::Sender<Vec<u8>>) -> Self {
        let mut head = Vec::new();
        resp::write_head(&mut head, 15);
        for argument in ["XADD", STREAM, "*", "id"] {
            resp::write_argument(&mut head, argument.as_bytes());
        }
        let time = Vec::new();
        Self { buffers, buffer: Vec::new(), held: 0, head, second: i64::MIN, time }
    }

    async fn add(&mut self, row: &Fields<'_>) -> Result<()> {
        self.set_time(row.enqueued_at + POSTGRES_EPOCH_MICROS);
        let out = &mut self.buffer;
        out.extend_from_slice(&self.head);
        let mut id = [0; 36];
        Uuid::from_bytes(row.id).hyphenated().encode_lower(&mut id);
        resp::write_argument(out, &id);
        let rest: [(&[u8], &[u8]); 5] = [
            (b"$5\r\ntopic\r\n", row.topic),
            (b"$3\r\nkey\r\n", row.key),
            (b"$12\r\ncontent_type\r\n", row.content_type),
            (b"$11\r\nenqueued_at\r\n", &self.time),
            (b"$7\r\npayload\r\n", row.payload),
        ];
        for (name, value) in rest {
            out.extend_from_slice(name);
            resp::write_argument(out, value);
        }
        self.held += 1;
        if self.held == WRITE_MESSAGES { self.flush().await } else { Ok(()) }
    }

    fn set_time(&mut self, micros: i64) {
        const MICROS: i64 = 1_000_000;
        let second = micros.div_euclid(MICROS);
        if self.second != second {
            self.second = second;
            self.time = clock::rfc3339(Timestamp(second * MICROS)).into_bytes();
        }
        let mut fraction = micros.rem_euclid(MICROS);
        let before_z = self.time.len() - 1;
        for digit in self.time[before_z - 6..before_z].iter_mut().rev() {
            *digit = b'0' + (fraction % 10) as u8;
            fraction /= 10;
        }
    }

    async fn flush(&mut self) -> Result<()> {
        let fresh = Vec::with_capacity(self.buffer.capacity());
        let full = std::mem::replace(&mut self.buffer, fresh);
        self.held = 0;
        self.buffers.send(full).await.during("hand commands to the writer")
    }
}

async fn write(
    mut redis: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<Vec<u8>>,
) -> Result<OwnedWriteHalf> {
    while let Some(commands) = waiting.recv().await {
        redis.write_all(&commands).await.during("write to Redis")?;
    }
    // Kept open: closing it would end the connection before the last replies.
    Ok(redis)
}

/// Counts replies, each `$<length>␍␊<entry id>␍␊`, without reading them.
async fn count_replies(mut redis: OwnedReadHalf, count: u64) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut seen = 0;
    while seen < count {
        let length = redis.read(&mut buffer).await.during("read from Redis")?;
        if length == 0 {
            return Err(Failure::new("Redis closed the connection"));
        }
        seen += dollars(&buffer[..length]);
    }
    Ok(())
}

#[expect(clippy::naive_bytecount, reason = "25 bytes a message are not worth a dependency")]
fn dollars(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'$').count() as u64
}
