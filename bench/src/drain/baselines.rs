//! What stands beside the drain: Redis alone, and the loop that most people write.

use std::{process::Command, time::Instant};

use posthaste_testkit::failure::{During, Failure, Result};
use tokio_postgres::{Client, IsolationLevel, Row};

use crate::{
    messages::{Messages, PAYLOAD_BYTES, STREAM},
    resp,
    servers::{Servers, connect},
};

/// Commands per round trip.
const PIPELINE: &str = "100";
/// Rows that the claiming loop takes at once, as many as the relay publishes.
const CLAIM_MESSAGES: i64 = 1_000;
/// Enough for some seconds of the slow loop.
pub(super) const CLAIM_ROWS: u64 = 100_000;

/// What `redis-benchmark` reaches with entries of the same size, in messages per second.
pub(super) fn redis_benchmark(servers: &Servers, count: u64) -> Result<f64> {
    // No quotation marks in it: the title of the CSV line is the whole command.
    let payload = "x".repeat(PAYLOAD_BYTES);
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &servers.redis.port().to_string()])
        .args(["-n", &count.to_string(), "-P", PIPELINE, "--csv"])
        .args(["xadd", STREAM, "*", "id", "0192e0a5-0000-7000-8000-000000000000"])
        .args(["topic", "bench.messages", "key", "key-00001"])
        .args(["content_type", "text/plain; charset=utf-8"])
        .args(["enqueued_at", "2026-01-02T03:04:05.000006Z", "payload", &payload])
        .output()
        .during("run redis-benchmark")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let unread = || Failure::new(format!("redis-benchmark answered: {text}"));
    let line = text.lines().rev().find(|line| line.starts_with('"')).ok_or_else(unread)?;
    let rate = line.split("\",\"").nth(1).ok_or_else(unread)?;
    rate.parse().map_err(|_| unread())
}

/// Fills a plain table for [`claim`]. Without autovacuum, which would run into the next round.
pub(super) async fn fill_claims(url: &str) -> Result<()> {
    let client = connect(url).await?;
    let sql = "create table if not exists claims (n bigint generated always as identity primary \
               key, id uuid not null default gen_random_uuid(), topic text not null, key text, \
               content_type text not null, enqueued_at timestamptz not null default now(), \
               payload bytea not null) with (autovacuum_enabled = off); truncate claims";
    client.batch_execute(sql).await.during("create the table of claims")?;
    let payloads: Vec<Vec<u8>> = Messages::new(PAYLOAD_BYTES)
        .take(CLAIM_MESSAGES as usize)
        .iter()
        .map(|message| message.payload().to_vec())
        .collect();
    let sql = "insert into claims (topic, key, content_type, payload) \
               select 'bench.messages', 'key-00001', 'text/plain', p from unnest($1::bytea[]) p";
    for _ in 0..CLAIM_ROWS / CLAIM_MESSAGES as u64 {
        client.execute(sql, &[&payloads]).await.during("fill the table of claims")?;
    }
    client.batch_execute("vacuum analyze claims").await.during("vacuum the table of claims")
}

/// The claiming loop: delete a thousand rows under `for update skip locked`, append them to the
/// stream, commit. Messages per second.
pub(super) async fn claim(url: &str, servers: &Servers) -> Result<f64> {
    let mut client = connect(url).await?;
    let mut redis = servers.redis_client()?;
    let started = Instant::now();
    let mut carried = 0;
    loop {
        let count = claim_once(&mut client, &mut redis).await?;
        carried += count;
        if count == 0 {
            break;
        }
    }
    if carried as u64 != CLAIM_ROWS {
        return Err(Failure::new(format!("the claiming loop carried {carried} of {CLAIM_ROWS}")));
    }
    Ok(carried as f64 / started.elapsed().as_secs_f64())
}

async fn claim_once(client: &mut Client, redis: &mut resp::Client) -> Result<usize> {
    let sql = "with claimed as (delete from claims where n in (select n from claims order by n \
               limit $1 for update skip locked) returning *) \
               select id::text, topic, key, content_type, enqueued_at::text, payload \
               from claimed order by n";
    let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
    let transaction = transaction.start().await.during("begin")?;
    let rows = transaction.query(sql, &[&CLAIM_MESSAGES]).await.during("claim rows")?;
    let mut commands = Vec::new();
    for row in &rows {
        write_entry(&mut commands, row);
    }
    // A second or less of Redis; nothing else runs on this thread meanwhile.
    redis.pipeline(&commands, rows.len())?;
    transaction.commit().await.during("commit claims")?;
    Ok(rows.len())
}

fn write_entry(commands: &mut Vec<u8>, row: &Row) {
    resp::write_head(commands, 15);
    for argument in ["XADD", STREAM, "*"] {
        resp::write_argument(commands, argument.as_bytes());
    }
    for (column, name) in ["id", "topic", "key", "content_type", "enqueued_at"].iter().enumerate() {
        resp::write_argument(commands, name.as_bytes());
        resp::write_argument(commands, row.get::<_, &str>(column).as_bytes());
    }
    resp::write_argument(commands, b"payload");
    resp::write_argument(commands, row.get(5));
}
