//! A client library at work in a process of its own: `contract/` of each library reads one JSON
//! command a line and answers each with one line.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::LazyLock,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use posthaste::{Message, MessageId};
use posthaste_testkit::Database;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::libraries;
use crate::interop::install;

/// Far more than any command takes; a program that hangs fails its test.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// A client library with a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    NodePostgres,
    Psycopg,
    PsycopgAsync,
    Pgx,
    SqlPgx,
    SqlPq,
}

impl Driver {
    pub(super) const ALL: [Self; 6] = [
        Self::NodePostgres,
        Self::Psycopg,
        Self::PsycopgAsync,
        Self::Pgx,
        Self::SqlPgx,
        Self::SqlPq,
    ];
    pub(super) const PSYCOPG: [Self; 2] = [Self::Psycopg, Self::PsycopgAsync];
    pub(super) const GO: [Self; 3] = [Self::Pgx, Self::SqlPgx, Self::SqlPq];

    pub(super) fn is_go(self) -> bool {
        Self::GO.contains(&self)
    }

    fn command(self) -> Command {
        match self {
            Self::NodePostgres => with_arguments("node", &[NODE.to_str().unwrap()]),
            Self::Psycopg => python("sync"),
            Self::PsycopgAsync => python("async"),
            Self::Pgx => Command::new(&*GO_PGX),
            Self::SqlPgx => with_arguments(&*GO_SQL, &["pgx"]),
            Self::SqlPq => with_arguments(&*GO_SQL, &["postgres"]),
        }
    }
}

// Once per process: a program that runs must not be built again.
static NODE: LazyLock<PathBuf> = LazyLock::new(|| {
    let session = libraries().join("node/contract/session.js");
    install::node_program("session.js", &std::fs::read_to_string(session).unwrap())
});
static PYTHON: LazyLock<PathBuf> = LazyLock::new(install::python);
static GO_PGX: LazyLock<PathBuf> = LazyLock::new(|| go("pgx"));
static GO_SQL: LazyLock<PathBuf> = LazyLock::new(|| go("databasesql"));

fn go(name: &str) -> PathBuf {
    install::go(&libraries().join("go/contract"), name)
}

/// Python with psycopg and the library, which leaves no files beside it.
pub(super) fn python_command() -> std::process::Command {
    let mut command = std::process::Command::new(&*PYTHON);
    command.env("PYTHONPATH", libraries().join("python/src")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn python(kind: &str) -> Command {
    let mut command = Command::from(python_command());
    command.arg(libraries().join("python/contract/session.py")).arg(kind);
    command
}

fn with_arguments(program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    command
}

/// One connection of a driver.
pub(super) struct Session {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    // Killed when it is dropped.
    _process: Child,
}

/// What a library or its driver reported.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Failure {
    pub(super) kind: String,
    pub(super) text: String,
    pub(super) field: String,
    pub(super) limit: String,
    pub(super) value: String,
    pub(super) index: Option<usize>,
    pub(super) aborted: bool,
    pub(super) sqlstate: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    ids: Vec<MessageId>,
    found: Option<bool>,
    error: Option<Failure>,
}

impl Session {
    pub(super) fn open(driver: Driver, database: &Database) -> Self {
        // Seen when a test fails: which of the clients it was.
        println!("{driver:?}");
        let mut process = driver
            .command()
            .env("DATABASE_URL", database.url())
            // What lib/pq needs for a server without TLS; the other drivers find out.
            .env("PGSSLMODE", "disable")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{driver:?} did not start: {error}"));
        let commands = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { commands, answers, _process: process }
    }

    /// Has the program do `command`, and answers the ids of what it enqueued.
    pub(super) async fn ask(&mut self, command: &Value) -> Result<Vec<MessageId>, Failure> {
        self.exchange(command).await.map(|answer| answer.ids)
    }

    async fn exchange(&mut self, command: &Value) -> Result<Answer, Failure> {
        let exchange = async {
            self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
            self.answers.next_line().await.unwrap()
        };
        let line = timeout(ANSWER_WITHIN, exchange).await.expect("an answer in time");
        let line = line.unwrap_or_else(|| panic!("the program ended at {command}"));
        let mut answer: Answer = serde_json::from_str(&line).unwrap();
        answer.error.take().map_or(Ok(answer), Err)
    }

    /// `begin`, `commit` or `rollback`, by the driver's own means.
    pub(super) async fn transaction(&mut self, verb: &str) {
        self.ask(&json!({ "do": verb })).await.unwrap();
    }

    /// Begins a transaction that has written a row of the application's.
    pub(super) async fn begin(&mut self) {
        self.transaction("begin").await;
        self.execute("insert into orders (id) values (17)").await.unwrap();
    }

    pub(super) async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        self.ask(&json!({ "do": "execute", "sql": sql })).await.map(drop)
    }

    pub(super) async fn enqueue(&mut self, message: &Value) -> Result<MessageId, Failure> {
        let ids = self.ask(&json!({ "do": "enqueue", "message": message })).await?;
        assert_eq!(ids.len(), 1);
        Ok(ids[0])
    }

    pub(super) async fn enqueue_many(
        &mut self,
        messages: &[Value],
    ) -> Result<Vec<MessageId>, Failure> {
        self.ask(&json!({ "do": "enqueue_many", "messages": messages })).await
    }

    /// Whether the message was still waiting.
    pub(super) async fn cancel(&mut self, id: MessageId) -> Result<bool, Failure> {
        let answer = self.exchange(&json!({ "do": "cancel", "id": id })).await?;
        Ok(answer.found.expect("an answer to a cancel"))
    }

    /// Whether it is the first time.
    pub(super) async fn handle(&mut self, id: MessageId) -> Result<bool, Failure> {
        let answer = self.exchange(&json!({ "do": "handle", "id": id })).await?;
        Ok(answer.found.expect("an answer to a delivery"))
    }

    /// Those that are new.
    pub(super) async fn handle_many(
        &mut self,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, Failure> {
        self.ask(&json!({ "do": "handle_many", "ids": ids })).await
    }

    /// Handles from now on as this consumer.
    pub(super) async fn inbox(&mut self, consumer: &str, schema: &str) -> Result<(), Failure> {
        let inbox = json!({ "do": "inbox", "consumer": consumer, "schema": schema });
        self.ask(&inbox).await.map(drop)
    }

    pub(super) async fn lock_keys(&mut self, keys: &[&str]) -> Result<(), Failure> {
        self.ask(&json!({ "do": "lock_keys", "keys": keys })).await.map(drop)
    }
}

/// The fields with which the programs build `message`.
pub(super) fn fields(message: &Message) -> Value {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    set("topic", message.topic().into());
    set("bytes", BASE64.encode(message.payload()).into());
    set("content_type", message.media_type().into());
    if let Some(key) = message.ordering_key() {
        set("key", key.into());
    }
    if let Some(id) = message.correlation() {
        set("correlation_id", id.into());
    }
    if let Some(id) = message.message_id() {
        set("id", id.to_string().into());
    }
    if let Some(token) = message.idempotency_token() {
        set("token", token.into());
    }
    if let Some(due) = message.due() {
        set("deliver_at_micros", due.0.into());
    }
    let headers = message.header_pairs().iter();
    let headers: Map<_, _> =
        headers.map(|(name, value)| (name.clone(), value.clone().into())).collect();
    if !headers.is_empty() {
        set("headers", headers.into());
    }
    fields.into()
}
