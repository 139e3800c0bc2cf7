//! A relay in this process, from a fresh PostgreSQL database to a local consumer.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Message, TopicFilter};
use posthaste_relay::{
    ContractSettings, FailureSettings, Monitor, Relay, RelayError, RelaySettings, Subscription,
    sink::{Context, Target},
    sinks::{self, local::Delivery},
};
use posthaste_store::{
    Operations, Start, Store, SubscriptionSpec,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_testkit::Postgres;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// No wait in these tests takes longer unless something is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// One test on both stores: `case(store)`.
macro_rules! on_both_stores {
    ($($case:ident),+ $(,)?) => {
        mod postgres {$(
            #[tokio::test]
            async fn $case() {
                super::$case($crate::pipeline::support::operations().await).await;
            }
        )+}
        mod sqlite {$(
            #[tokio::test]
            async fn $case() {
                let (_directory, store) = $crate::pipeline::support::sqlite_store().await;
                super::$case(store).await;
            }
        )+}
    };
}
pub(crate) use on_both_stores;

/// A migrated store in a database of its own.
pub(crate) async fn store() -> Arc<dyn Store> {
    operations().await
}

/// The same for an operator.
pub(crate) async fn operations() -> Arc<dyn Operations> {
    let database = Postgres::shared().database().await;
    let store = PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap();
    store.migrate().await.unwrap();
    Arc::new(store)
}

/// A store in a file that vanishes with its directory.
pub(crate) async fn sqlite_store() -> (TempDir, Arc<dyn Operations>) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions { create: true, ..SqliteOptions::default() };
    let store = SqliteStore::open(directory.path().join("log.db"), &options).await.unwrap();
    store.migrate().await.unwrap();
    (directory, Arc::new(store))
}

/// Settings for tests: prompt, otherwise the defaults.
pub(crate) fn settings() -> RelaySettings {
    let mut settings = RelaySettings::default();
    settings.retry.initial = Duration::from_millis(10);
    settings.retry.cap = Duration::from_millis(200);
    settings.restart_delay = Duration::from_millis(10);
    settings.lease = Duration::from_secs(1);
    settings
}

/// The target of a local channel.
pub(crate) fn local(channel: &str) -> Arc<dyn Target> {
    let kind = sinks::find("local").unwrap();
    let table = toml::Table::from_iter([("channel".to_owned(), channel.into())]);
    (kind.parse)(table).unwrap().into()
}

/// A subscription from the beginning.
pub(crate) fn subscription(name: &str, topics: &[&str], target: Arc<dyn Target>) -> Subscription {
    let filter = TopicFilter::new(topics).unwrap();
    let spec = SubscriptionSpec { name: name.to_owned(), filter, start: Start::Beginning };
    let (failure, contracts) = (FailureSettings::default(), ContractSettings::default());
    Subscription { spec, target, failure, contracts }
}

/// A relay that runs as a task until it is drained.
pub(crate) struct Running {
    pub(crate) monitor: Monitor,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), RelayError>>,
}

impl Running {
    pub(crate) fn start(relay: Relay) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let monitor = relay.monitor();
        let task = tokio::spawn(relay.run(async move {
            let _ = stopped.await;
        }));
        Self { monitor, stop: Some(stop), task }
    }

    /// Drains and returns how the relay ended.
    pub(crate) async fn drain(mut self) -> Result<(), RelayError> {
        drop(self.stop.take());
        timeout(LIMIT, self.task).await.expect("the drain must end").unwrap()
    }

    /// How the relay ended by itself.
    /// Ends it without a drain, as a crash would.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn ended(self) -> Result<(), RelayError> {
        timeout(LIMIT, self.task).await.expect("the relay must end").unwrap()
    }
}

/// One relay for one local channel, and its consumer.
pub(crate) fn relay_to_local(store: &Arc<dyn Store>) -> (Relay, mpsc::Receiver<Delivery>) {
    let context = Context::default();
    let consumer = context.locals.subscribe("test", 10_000);
    let subscriptions = vec![subscription("test", &["*"], local("test"))];
    (Relay::new(Arc::clone(store), settings(), subscriptions, context), consumer)
}

/// Receives `count` messages.
pub(crate) async fn receive(
    consumer: &mut mpsc::Receiver<Delivery>,
    count: usize,
) -> Vec<Delivery> {
    let mut received = Vec::with_capacity(count);
    while received.len() < count {
        let next = timeout(LIMIT, consumer.recv()).await;
        let missing = || format!("{} of {count} messages arrived", received.len());
        received.push(next.unwrap_or_else(|_| panic!("{}", missing())).unwrap());
    }
    received
}

/// Messages whose payload is their number.
pub(crate) fn numbered(range: std::ops::Range<u32>) -> Vec<Message> {
    range.map(|n| Message::new("numbers").text(n.to_string())).collect()
}

/// The numbers in the order of arrival.
pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<u32> {
    let number = |d: &Delivery| String::from_utf8(d.payload.clone()).unwrap().parse().unwrap();
    deliveries.iter().map(number).collect()
}
