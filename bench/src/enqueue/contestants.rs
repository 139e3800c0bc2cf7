//! The ways to write a message that `enqueue` compares.

use posthaste::{Message, MessageId, Outbox};
use posthaste_testkit::failure::{During, Result};
use tokio_postgres::{Client, Statement, types::Type};

use crate::servers::connect;

/// Messages of one bulk call.
pub(super) const BULK_MESSAGES: usize = 1_000;

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `Outbox::enqueue`
    Outbox,
    /// `select posthaste.enqueue_bytes(…)`, prepared
    Function,
    /// A prepared insert into a table without anything, the limit
    Bare,
    /// `Outbox::enqueue_many` in one transaction
    OutboxBulk,
    /// A prepared insert of arrays into the bare table in one transaction, the limit
    BareBulk,
}

/// A way, over so many connections at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contestant {
    pub(crate) way: Way,
    pub(crate) connections: usize,
}

pub(super) const CONTESTANTS: [Contestant; 9] = [
    Contestant { way: Way::Bare, connections: 1 },
    Contestant { way: Way::Outbox, connections: 1 },
    Contestant { way: Way::Function, connections: 1 },
    Contestant { way: Way::Bare, connections: 8 },
    Contestant { way: Way::Outbox, connections: 8 },
    Contestant { way: Way::Function, connections: 8 },
    Contestant { way: Way::BareBulk, connections: 1 },
    Contestant { way: Way::OutboxBulk, connections: 1 },
    Contestant { way: Way::OutboxBulk, connections: 8 },
];

impl Way {
    /// Messages of one call.
    pub(super) const fn messages(self) -> usize {
        match self {
            Self::Outbox | Self::Function | Self::Bare => 1,
            Self::OutboxBulk | Self::BareBulk => BULK_MESSAGES,
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Function => "function",
            Self::Bare => "bare",
            Self::OutboxBulk => "outbox_bulk",
            Self::BareBulk => "bare_bulk",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Outbox => "Outbox::enqueue",
            Self::Function => "SQL function",
            Self::Bare => "limit: bare insert",
            Self::OutboxBulk => "Outbox::enqueue_many",
            Self::BareBulk => "limit: bare bulk insert",
        }
    }
}

impl Contestant {
    pub(super) fn key(self) -> String {
        format!("{}_{}", self.way.key(), self.connections)
    }

    pub(super) fn name(self) -> String {
        format!("{} × {}", self.way.name(), self.connections)
    }

    pub(super) fn is_headline(self) -> bool {
        self.way == Way::Outbox && self.connections == 8
    }

    pub(super) fn is_bulk_headline(self) -> bool {
        self.way == Way::OutboxBulk && self.connections == 1
    }
}

/// One connection that writes in one way.
pub(super) struct Writer {
    client: Client,
    way: Way,
    outbox: Outbox,
    statement: Option<Statement>,
}

impl Writer {
    pub(super) async fn new(client: Client, way: Way) -> Result<Self> {
        let sql = match way {
            Way::Function => Some(
                "select posthaste.enqueue_bytes(topic => $1, payload => $2, key => $3, \
                 content_type => $4)",
            ),
            Way::Bare => Some("insert into bare (id, topic, key, payload) values ($1, $2, $3, $4)"),
            Way::BareBulk => Some(
                "insert into bare (id, topic, key, payload) \
                 select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[])",
            ),
            Way::Outbox | Way::OutboxBulk => None,
        };
        let statement = match sql {
            Some(sql) => Some(client.prepare(sql).await.during("prepare a statement")?),
            None => None,
        };
        Ok(Self { client, way, outbox: Outbox::default(), statement })
    }

    pub(super) const fn way(&self) -> Way {
        self.way
    }

    /// Writes and commits `messages`, as many as [`Way::messages`] says.
    pub(super) async fn write(&mut self, messages: &[Message]) -> Result<()> {
        match (self.way, messages, &self.statement) {
            (Way::Outbox, [message], _) => {
                let written = self.outbox.enqueue(&self.client, message).await;
                written.map(drop).during("enqueue")
            }
            (Way::OutboxBulk, messages, _) => self.write_bulk(messages).await,
            (Way::Function, [message], Some(statement)) => {
                let (topic, key) = (message.topic(), message.ordering_key());
                let (payload, content_type) = (message.payload(), message.media_type());
                let written =
                    self.client.execute(statement, &[&topic, &payload, &key, &content_type]).await;
                written.map(drop).during("call the function")
            }
            (Way::Bare, [message], Some(statement)) => {
                let (topic, key) = (message.topic(), message.ordering_key());
                let (id, payload) = (MessageId::now_v7(), message.payload());
                let written = self.client.execute(statement, &[&id, &topic, &key, &payload]).await;
                written.map(drop).during("insert")
            }
            (_, messages, Some(statement)) => write_bare(&self.client, statement, messages).await,
            (_, _, None) => Ok(()),
        }
    }

    async fn write_bulk(&mut self, messages: &[Message]) -> Result<()> {
        let transaction = self.client.transaction().await.during("begin")?;
        self.outbox.enqueue_many(&transaction, messages).await.during("enqueue")?;
        transaction.commit().await.during("commit")
    }
}

/// One statement is one transaction here: the limit spends no round trip on it.
async fn write_bare(client: &Client, statement: &Statement, messages: &[Message]) -> Result<()> {
    let ids: Vec<MessageId> = messages.iter().map(|_| MessageId::now_v7()).collect();
    let topics: Vec<&str> = messages.iter().map(Message::topic).collect();
    let keys: Vec<Option<&str>> = messages.iter().map(Message::ordering_key).collect();
    let payloads: Vec<&[u8]> = messages.iter().map(Message::payload).collect();
    debug_assert_eq!(statement.params().first(), Some(&Type::UUID_ARRAY));
    let written = client.execute(statement, &[&ids, &topics, &keys, &payloads]).await;
    written.map(drop).during("insert")
}

/// What a person would create who only wants to write: no partitions, no checks, one index.
pub(super) async fn create_bare_table(url: &str) -> Result<()> {
    let sql = "create table bare (position bigint generated always as identity primary key, \
               id uuid not null, topic text not null, key text, payload bytea not null)";
    connect(url).await?.batch_execute(sql).await.during("create the bare table")
}

/// Before the next round, so that no round writes into larger tables than another. The log is a
/// ring, and would else come round.
pub(super) async fn empty_tables(url: &str) -> Result<()> {
    let sql = "truncate bare, posthaste.log; checkpoint";
    connect(url).await?.batch_execute(sql).await.during("empty the tables")
}
