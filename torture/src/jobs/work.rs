//! A worker in a process of its own: this program again, called by itself.
//!
//! Its handlers fail in every way that handlers can, and have their effect in the transaction that ends their task.

use std::{
    ffi::OsString,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clap::Args;
use posthaste::{JobId, Received};
use posthaste_core::{Backoff, RetryPolicy, job::JOB_HEADER};
use posthaste_store::{
    failpoint,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::failure::{During, Failure, Result};
use posthaste_worker::{
    Answer, Done, Failed, Found, Listener, Task, Worker, WorkerSettings,
    source::{Source, SourceKind},
    sources,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, NoTls, Transaction};

use super::scenery::{ATTEMPTS, EFFECT, InputOf, PLAIN, QUEUE, RECEIPT};
use crate::stage::{SinkKind, Stage};

/// Long against a transaction, short against a pause.
const LEASE: Duration = Duration::from_secs(1);
const HANDLER_LIMIT: Duration = Duration::from_millis(1_500);
const OPERATION_LIMIT: Duration = Duration::from_secs(2);
const CONCURRENCY: usize = 8;
/// How likely a listener is to overlook a message.
const OVERLOOKED: f64 = 0.7;

/// Where a worker works.
#[derive(Debug, Args)]
pub(crate) struct WorkOptions {
    #[arg(long)]
    database: String,
    #[arg(long)]
    redis: String,
    #[arg(long, value_enum)]
    sink: SinkKind,
}

/// What a handler is asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Its handler rejects it, after it has had its effect and not committed it.
    pub(crate) is_rejected: bool,
    /// How long it takes.
    pub(crate) millis: u64,
}

/// How this program is called to be a worker.
pub(crate) fn arguments(stage: &Stage, sink: SinkKind) -> Vec<OsString> {
    let (database, redis) = (stage.database_url(), stage.redis_url());
    let texts = ["work", "--database", &database, "--redis", &redis, "--sink", sink.name()];
    texts.map(OsString::from).to_vec()
}

/// Works until it is told to end.
pub(crate) async fn work(options: &WorkOptions) -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let limits = PostgresOptions {
        operation_timeout: OPERATION_LIMIT,
        connections_max: 5,
        ..PostgresOptions::default()
    };
    let store = PostgresStore::connect(&options.database, &limits).during("open the store")?;
    let desk = Arc::new(Desk { url: options.database.clone(), idle: Mutex::default() });
    let listening = listener(options, &desk)?;
    let [checking, effecting, handling] = std::array::from_fn(|_| Arc::clone(&desk));
    let worker = Worker::new(Arc::new(store), settings())
        .during("make a worker")?
        .source(source(options)?)
        .check(EFFECT, move |message: Arc<Received>| {
            let desk = Arc::clone(&checking);
            async move { desk.provide(&message, InputOf::Check).await }
        })
        .handle(EFFECT, move |task: Task| {
            let desk = Arc::clone(&effecting);
            async move { desk.have_effect(&task).await }
        })
        .handle(PLAIN, move |task: Task| {
            let desk = Arc::clone(&handling);
            async move { desk.have_effect(&task).await }
        })
        .handle(RECEIPT, |task: Task| async move { answer(&task).await });
    let mut terminated = signal(SignalKind::terminate()).during("listen for signals")?;
    let shutdown = async move { terminated.recv().await.unwrap_or_default() };
    let (end, ended) = oneshot::channel::<()>();
    let listening =
        listening.map(|listener| tokio::spawn(listener.run(async { drop(ended.await) })));
    let counts = worker.run(shutdown).await.during("work")?;
    drop(end);
    let heard = match listening {
        Some(listening) => Some(listening.await.during("listen")?),
        None => None,
    };
    eprintln!("torture: a worker ends: {counts:?}, its listener: {heard:?}");
    Ok(())
}

/// The second layer, where the queue tells what is added to it.
fn listener(options: &WorkOptions, desk: &Arc<Desk>) -> Result<Option<Listener>> {
    let Some(listen) = kind(options)?.listen else { return Ok(None) };
    let additions = listen(source_settings(options)).during("configure the listener")?;
    let desk = Arc::clone(desk);
    Ok(Some(Listener::new(additions).timeout(OPERATION_LIMIT).check(
        EFFECT,
        move |message: Arc<Received>| {
            let desk = Arc::clone(&desk);
            async move {
                // So that the next layer has something to do.
                if rand::random_bool(OVERLOOKED) {
                    return Ok(Found::Fine);
                }
                desk.provide(&message, InputOf::Listener).await
            }
        },
    )))
}

fn settings() -> WorkerSettings {
    let backoff = Backoff { initial: Duration::from_millis(20), cap: Duration::from_millis(500) };
    WorkerSettings {
        concurrency: CONCURRENCY,
        timeout: HANDLER_LIMIT,
        lease: LEASE,
        drain_timeout: Duration::from_secs(5),
        retry: RetryPolicy { attempts: ATTEMPTS, backoff },
        watch_interval: Some(Duration::from_millis(300)),
        watch_age: Duration::from_secs(1),
        ..WorkerSettings::default()
    }
}

fn kind(options: &WorkOptions) -> Result<&'static SourceKind> {
    let name = options.sink.name();
    sources::find(name).ok_or_else(|| Failure::new(format!("there is no source {name}")))
}

fn source(options: &WorkOptions) -> Result<Box<dyn Source>> {
    (kind(options)?.parse)(source_settings(options)).during("configure the source")
}

fn source_settings(options: &WorkOptions) -> toml::Table {
    let texts = [("url", &*options.redis), ("lease", "1s"), ("operation_timeout", "2s")];
    let mut table: toml::Table =
        texts.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    if options.sink == SinkKind::Stream {
        table.insert("streams".to_owned(), vec![QUEUE].into());
        table.insert("delete".to_owned(), true.into());
    } else {
        table.insert("list".to_owned(), QUEUE.into());
    }
    table
}

/// The handlers' connections.
struct Desk {
    url: String,
    /// Those that nobody has; one that met a fault never comes back.
    idle: Mutex<Vec<Client>>,
}

impl Desk {
    fn idle(&self) -> MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lend(&self) -> Result<Client, Failed> {
        let idle = self.idle().pop();
        if let Some(client) = idle.filter(|client| !client.is_closed()) {
            return Ok(client);
        }
        let connecting = timeout(OPERATION_LIMIT, tokio_postgres::connect(&self.url, NoTls));
        let (client, connection) = connecting.await??;
        tokio::spawn(connection);
        // A transaction whose client is gone without a word would hold its job for hours.
        client.batch_execute("set idle_in_transaction_session_timeout = '4s'").await?;
        Ok(client)
    }

    /// Puts the input there, which submitters forget at times.
    async fn provide(&self, message: &Received, by: InputOf) -> Result<Found, Failed> {
        let client = self.lend().await?;
        let provide = "insert into app_input values ($1, $2) on conflict do nothing";
        let job = message.header(JOB_HEADER).map(str::parse::<JobId>).transpose()?;
        let count = client.execute(provide, &[&job, &by.name()]).await?;
        self.idle().push(client);
        Ok(if count > 0 { Found::Mended } else { Found::Fine })
    }

    /// Has the effect of a task, in the transaction that ends it.
    async fn have_effect(&self, task: &Task) -> Answer {
        let order: Order = serde_json::from_slice(&task.message().payload)?;
        let lane = lane(task);
        failpoint::reach("handling", &lane);
        sleep(Duration::from_millis(order.millis)).await;
        let is_early = rand::random();
        if is_early {
            trouble().await?;
        }
        let mut client = self.lend().await?;
        let transaction = client.transaction().await?;
        write(task, &transaction).await?;
        failpoint::reach("effect", &lane);
        if order.is_rejected {
            return Err(Failed::reject("as it was asked to"));
        }
        if !is_early {
            trouble().await?;
        }
        commit(transaction, &lane).await?;
        failpoint::reach("committed", &lane);
        self.idle().push(client);
        Ok(Done::default())
    }
}

/// What stands still there, as fail points name it.
fn lane(task: &Task) -> String {
    task.job().unwrap_or(task.message().id).to_string()
}

/// The end of the task, and its effect.
async fn write(task: &Task, transaction: &Transaction<'_>) -> Result<(), Failed> {
    let receipt = Done::json(&json!({ "attempt": task.attempt() }))?.receipt;
    if !task.settle(transaction, receipt.as_ref()).await?.is_first() {
        return Ok(());
    }
    let id = task.job().unwrap_or(task.message().id);
    if task.job().is_some() {
        let input = "select from app_input where id = $1";
        if transaction.query_opt(input, &[&id]).await?.is_none() {
            return Err(Failed::retry("its input is missing"));
        }
    }
    let effect = "insert into app_effect (id, attempt) values ($1, $2)";
    transaction.execute(effect, &[&id, &task.attempt().cast_signed()]).await?;
    Ok(())
}

/// Commits, with a step between what is sent and its answer.
async fn commit(
    transaction: Transaction<'_>,
    lane: &str,
) -> std::result::Result<(), tokio_postgres::Error> {
    let mut committing = pin!(transaction.commit());
    tokio::select! {
        biased;
        committed = &mut committing => return committed,
        () = yield_now() => failpoint::reach("committing", lane),
    }
    committing.await
}

/// Brings a receipt back, which the worker writes down.
async fn answer(task: &Task) -> Answer {
    let order: Order = serde_json::from_slice(&task.message().payload)?;
    sleep(Duration::from_millis(order.millis)).await;
    trouble().await?;
    if order.is_rejected {
        return Err(Failed::reject("as it was asked to"));
    }
    failpoint::reach("answering", &lane(task));
    Ok(Done::json(&json!({ "attempt": task.attempt() }))?)
}

/// What goes wrong in a handler, every now and then.
async fn trouble() -> Result<(), Failed> {
    match rand::random_range(0..100) {
        0..10 => Err(Failed::retry("as it was drawn")),
        10..12 => Err(Failed::snooze(Duration::from_millis(100))),
        12 => panic!("as it was drawn"),
        13 => {
            sleep(HANDLER_LIMIT * 2).await;
            Ok(())
        }
        _ => Ok(()),
    }
}
