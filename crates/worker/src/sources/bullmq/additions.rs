//! What is added to a BullMQ queue, as its events tell.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use posthaste_redis::RedisServer;
use redis::{Cmd, Value};

use super::job::{FIELDS, Job, Origin};
use crate::{
    listener::{Addition, Additions},
    source::SourceError,
    sources::redis_tail::{ListenFrom, Raw, Tail},
};

/// Jobs that are added, whoever runs them.
pub(super) struct BullmqAdditions {
    about: String,
    origin: Origin,
    tail: Tail,
}

impl BullmqAdditions {
    pub(super) fn new(server: &Arc<RedisServer>, origin: Origin, from: ListenFrom) -> Self {
        let events = format!("{}:events", origin.base);
        let about = format!("{server} queue {}", origin.base);
        Self { about, tail: Tail::new(server, vec![events], from), origin }
    }

    /// The messages of jobs; one that is gone by now is passed over.
    async fn messages(&self, ids: Vec<Vec<u8>>) -> Result<Vec<Addition>, SourceError> {
        const DOING: &str = "reading jobs";
        let read = |id: &Vec<u8>| {
            let mut command = redis::cmd("HMGET");
            command.arg([self.origin.base.as_bytes(), b":", id].concat()).arg(&FIELDS);
            command
        };
        let reads: Vec<Cmd> = ids.iter().map(read).collect();
        let link = self.tail.link();
        let answers = link.query_all(DOING, &reads).await?;
        let mut messages = Vec::with_capacity(ids.len());
        for (id, answer) in ids.into_iter().zip(answers) {
            let Value::Array(values) = answer else { return Err(link.unexpected(DOING)) };
            let job = Job::of(id, &values).ok_or_else(|| link.unexpected(DOING))?;
            if job.is_there() {
                messages.push(job.message(&self.origin));
            }
        }
        Ok(messages)
    }
}

#[async_trait]
impl Additions for BullmqAdditions {
    fn describe(&self) -> &str {
        &self.about
    }

    async fn next(&mut self, wait: Duration) -> Result<Vec<Addition>, SourceError> {
        let read = self.tail.read(wait).await?;
        let ids = read.iter().filter_map(|(_, entry)| added(entry)).collect();
        let messages = self.messages(ids).await?;
        self.tail.pass(&read);
        Ok(messages)
    }
}

/// The job that was added, if that is what an event tells.
fn added((_, fields): &Raw) -> Option<Vec<u8>> {
    let fields = fields.as_ref()?;
    let of = |name: &[u8]| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
    of(b"event").filter(|event| *event == b"added")?;
    of(b"jobId").cloned()
}
