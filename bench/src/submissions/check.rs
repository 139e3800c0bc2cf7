//! What has to hold afterwards: each job that was accepted is a row, and its message is in the stream, once, in the order of
//! its key.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use posthaste_testkit::failure::{During, Failure, Result};
use rusqlite::Connection;
use tokio::time::sleep;
use uuid::Uuid;

use super::STREAM;
use crate::{
    servers::{Servers, connect},
    stream::StreamReader,
};

const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What is not published by then is lost.
const LIMIT: Duration = Duration::from_mins(1);

/// Where the jobs are.
#[derive(Debug)]
pub(super) enum Tables {
    Postgres(String),
    Sqlite(PathBuf),
}

/// Messages in their order, each with its key.
type Messages = Vec<(Uuid, String)>;

/// Messages of jobs, by their positions.
const MESSAGES: &str = "select l.id, l.key, j.id from posthaste.log l \
                        left join posthaste.job j on j.message_id = l.id order by l.position";

impl Tables {
    /// Waits until everything that was written is published, and answers how much that is.
    pub(super) async fn settled(&self, servers: &Servers, accepted: u64) -> Result<u64> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let (written, published) = (self.count().await?, servers.stream_length(STREAM)?);
            if written == published && written >= accepted {
                return Ok(written);
            }
            if Instant::now() > deadline {
                let text = format!(
                    "{accepted} jobs were accepted, {written} are in the log, {published} in the stream"
                );
                return Err(Failure::new(text));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    async fn count(&self) -> Result<u64> {
        let sql = "select count(*) from posthaste.log";
        let count: i64 = match self {
            Self::Postgres(url) => {
                connect(url).await?.query_one(sql, &[]).await.during("count messages")?.get(0)
            }
            Self::Sqlite(file) => {
                let file = Connection::open(file).during("open the file")?;
                let count = file.query_row(&of_file(sql), [], |row| row.get(0));
                count.during("count messages")?
            }
        };
        Ok(count.unsigned_abs())
    }

    /// Messages of the log, and the jobs that they carry.
    async fn messages(&self) -> Result<(Messages, Vec<Option<Uuid>>)> {
        let rows: Vec<(Uuid, String, Option<Uuid>)> = match self {
            Self::Postgres(url) => {
                let rows = connect(url).await?.query(MESSAGES, &[]).await;
                let rows = rows.during("read messages")?;
                rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
            }
            Self::Sqlite(file) => {
                let file = Connection::open(file).during("open the file")?;
                let mut statement = file.prepare(&of_file(MESSAGES)).during("read messages")?;
                let id = |bytes: [u8; 16]| Uuid::from_bytes(bytes);
                let rows = statement.query_map([], |row| {
                    Ok((id(row.get(0)?), row.get(1)?, row.get::<_, Option<_>>(2)?.map(id)))
                });
                rows.and_then(Iterator::collect).during("read messages")?
            }
        };
        Ok(rows.into_iter().map(|(id, key, job)| ((id, key), job)).unzip())
    }

    /// Compares answers, tables and stream. `accepted`: the ids that are known.
    pub(super) async fn check(&self, servers: &Servers, accepted: &[Uuid]) -> Result<()> {
        let (written, jobs) = self.messages().await?;
        let jobs: HashSet<Uuid> = jobs.into_iter().flatten().collect();
        if jobs.len() != written.len() {
            let text = format!("{} messages carry {} jobs", written.len(), jobs.len());
            return Err(Failure::new(text));
        }
        if let Some(lost) = accepted.iter().find(|id| !jobs.contains(id)) {
            return Err(Failure::new(format!("the job {lost} was accepted and is not there")));
        }
        let published = published(servers)?;
        if written.len() != published.len() || by_key(written) != by_key(published) {
            return Err(Failure::new("the stream is not what was written, once and in order"));
        }
        Ok(())
    }
}

/// A file has prefixes for schemas.
fn of_file(sql: &str) -> String {
    sql.replace("posthaste.", "posthaste_")
}

fn published(servers: &Servers) -> Result<Messages> {
    let mut reader = StreamReader::new(servers.redis_client()?, STREAM);
    let mut all = Vec::new();
    loop {
        let some = reader.read()?;
        if some.is_empty() {
            return Ok(all);
        }
        for entry in some {
            let id = entry.field("id").unwrap_or_default().parse();
            all.push((id.during("read a message's id")?, entry.field("key").unwrap_or_default()));
        }
    }
}

fn by_key(messages: Messages) -> HashMap<String, Vec<Uuid>> {
    let mut keys: HashMap<String, Vec<Uuid>> = HashMap::new();
    for (id, key) in messages {
        keys.entry(key).or_default().push(id);
    }
    keys
}
