//! A server on a database of its own, and a client that sends bytes as they are told.

pub(crate) mod dead;
pub(crate) mod table;
pub(crate) mod world;

use std::{
    collections::BTreeMap, fmt::Write as _, net::SocketAddr, path::PathBuf, sync::Arc,
    time::Duration,
};

use posthaste::{Machines, Step};
use posthaste_server::{
    Bound, NewSecret, NoParts, Parts, Scope, Server, ServerError, ServerSettings, TokenSettings,
};
use posthaste_store::{
    Jobs, Operations, Store as _,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_testkit::{Database, Postgres};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// Nothing here takes longer on a machine that is busy.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

macro_rules! on_both_stores {
    ($($test:ident,)*) => {
        mod postgres {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                Box::pin(super::$test(crate::support::Place::postgres().await)).await;
            }
        )*}
        mod sqlite {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                Box::pin(super::$test(crate::support::Place::sqlite().await)).await;
            }
        )*}
    };
}
pub(crate) use on_both_stores;

/// A database with the schema.
pub(crate) enum Place {
    Postgres(Box<Database>),
    Sqlite(TempDir),
}

impl Place {
    pub(crate) async fn postgres() -> Self {
        Self::on(Postgres::shared().database().await).await
    }

    pub(crate) async fn on(database: Database) -> Self {
        let options = PostgresOptions::default();
        PostgresStore::connect(database.url(), &options).unwrap().migrate().await.unwrap();
        Self::Postgres(Box::new(database))
    }

    pub(crate) async fn sqlite() -> Self {
        let place = Self::Sqlite(tempfile::tempdir().unwrap());
        let options = SqliteOptions { create: true, ..SqliteOptions::default() };
        SqliteStore::open(place.file(), &options).await.unwrap().migrate().await.unwrap();
        place
    }

    fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(directory) => directory.path().join("log.db"),
            Self::Postgres(_) => panic!("no file"),
        }
    }

    /// The store, as both of its faces.
    pub(crate) async fn store(&self) -> (Arc<dyn Jobs>, Arc<dyn Operations>) {
        match self {
            Self::Postgres(database) => {
                let options = PostgresOptions::default();
                let store = Arc::new(PostgresStore::connect(database.url(), &options).unwrap());
                (Arc::clone(&store) as _, store)
            }
            Self::Sqlite(_) => {
                let options = SqliteOptions::default();
                let store = Arc::new(SqliteStore::open(self.file(), &options).await.unwrap());
                (Arc::clone(&store) as _, store)
            }
        }
    }

    /// Begins an entity of a machine that was pushed, as an application does.
    pub(crate) async fn start_entity(&self, machine: &str, id: &str, state: &str) {
        self.start(&Step::new(machine, id, state)).await;
    }

    pub(crate) async fn start(&self, step: &Step) {
        let machines = Machines::default();
        match self {
            Self::Postgres(database) => {
                let client = database.connect().await;
                machines.start(&client, step).await.unwrap();
            }
            Self::Sqlite(_) => {
                let mut connection = rusqlite::Connection::open(self.file()).unwrap();
                let transaction = connection.transaction().unwrap();
                machines.start_blocking(&transaction, step).unwrap();
                transaction.commit().unwrap();
            }
        }
    }

    pub(crate) fn database(&self) -> &Database {
        match self {
            Self::Postgres(database) => database,
            Self::Sqlite(_) => panic!("a file"),
        }
    }
}

/// Settings with a free port.
pub(crate) fn settings() -> ServerSettings {
    ServerSettings { listen: ([127, 0, 0, 1], 0).into(), ..ServerSettings::default() }
}

/// A server that runs until it is ended or dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    pub(crate) async fn start(place: &Place) -> Self {
        Self::with(place, settings(), Arc::new(NoParts)).await
    }

    pub(crate) async fn with(
        place: &Place,
        settings: ServerSettings,
        parts: Arc<dyn Parts>,
    ) -> Self {
        let (jobs, operations) = place.store().await;
        let server = Server::new(settings, jobs, operations).unwrap().with_parts(parts);
        Self::of(server.bind().unwrap())
    }

    pub(crate) fn of(bound: Bound) -> Self {
        let address = bound.address();
        let (end, ended) = oneshot::channel::<()>();
        let task = tokio::spawn(bound.run(async { drop(ended.await) }));
        Self { address, end: Some(end), task }
    }

    /// Asks it to end.
    pub(crate) fn stop(&mut self) {
        drop(self.end.take());
    }

    /// Waits for its end.
    pub(crate) async fn ends(mut self) {
        self.stop();
        let task = &mut self.task;
        timeout(LIMIT, task).await.expect("it ends").unwrap().unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], body.as_bytes()).await
    }

    /// Submits a job, which must be accepted, and answers its id.
    pub(crate) async fn submit(&self, body: &Value) -> String {
        let answer = self.post("/api/v1/jobs", &body.to_string()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            let _ = write!(head, "host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !body.is_empty() {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        self.send(&[format!("{head}\r\n").as_bytes(), body].concat()).await
    }

    /// Sends bytes, and reads until the connection ends.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        // A server that has heard enough may close while this still writes.
        let _ = stream.write_all(bytes).await;
        Answer::read(&mut stream).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the server said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// 0 where it said nothing.
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    /// Everything until the connection ends.
    pub(crate) async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return Self::default() };
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let headers = lines.map(header).collect();
        Self { status: status.unwrap(), headers, body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// A problem with this status and code, in the form of all problems.
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["status"], status, "{self:?}");
        assert_eq!(problem["type"], format!("urn:posthaste:problem:{code}"), "{self:?}");
        assert_eq!(problem["request_id"], self.headers["x-request-id"].as_str(), "{self:?}");
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{self:?}");
        problem
    }
}

/// A token with these scopes, and its secret as a header's value.
pub(crate) fn token(scopes: &[Scope], topics: Option<&[&str]>) -> (TokenSettings, String) {
    let secret = NewSecret::random();
    let settings = TokenSettings {
        secret_sha256: vec![secret.sha256.clone()],
        scopes: scopes.to_vec(),
        topics: topics.map(|topics| topics.iter().map(ToString::to_string).collect()),
        ..TokenSettings::default()
    };
    (settings, format!("Bearer {}", secret.secret))
}
