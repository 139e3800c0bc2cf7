//! Relay, listener and worker in one process, around a queue: in the process, a Redis stream or BullMQ's.

use std::{sync::Arc, time::Duration};

use posthaste::Received;
use posthaste_core::{Backoff, RetryPolicy, TopicFilter};
use posthaste_relay::{
    ContractSettings, FailureSettings, Relay, RelayError, RelaySettings, Subscription,
    sink::{Context, Target},
    sinks::{self, local::Delivery},
};
use posthaste_store::{Start, SubscriptionSpec};
use posthaste_worker::{
    Counts, Failed, Found, Listener, Worker, WorkerError, WorkerSettings,
    listener::Additions,
    source::Source,
    sources::{self, local::LocalSource},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    courses::Courses,
    handlers::{self, Handle, course_of},
    messages::{AnalyzeStructure, GenerateStructure, ProcessDocument},
    stages::{Layer, Stage},
};

/// The subscription, the channel and the consumer are called this.
const NAME: &str = "courses";
/// Jobs between relay and worker in the process. More wait in the log.
const CHANNEL_MESSAGES: usize = 1_000;

/// What stands between relay and worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queue {
    /// A channel in the process. Nobody but the relay can add to it, so no listener is needed.
    Embedded,
    /// A Redis stream, `PREFIX:jobs`.
    Stream {
        /// Of the server.
        url: String,
        /// What the stream's name begins with.
        prefix: String,
    },
    /// A queue of BullMQ's, `jobs`.
    Bullmq {
        /// Of the server.
        url: String,
        /// BullMQ's prefix.
        prefix: String,
    },
}

/// Which parts run; all of them unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Publishes what is committed.
    pub relay: bool,
    /// The second layer.
    pub listener: bool,
    /// Handles jobs; the third layer is before its handlers.
    pub worker: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self { relay: true, listener: true, worker: true }
    }
}

/// Why the service cannot begin, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A setting of the queue.
    #[error("REDIS_URL: {0}")]
    Queue(String),
    /// The worker's settings.
    #[error("the worker")]
    Worker(#[from] WorkerError),
    /// The relay ended by itself.
    #[error("the relay")]
    Relay(#[from] RelayError),
    /// A part panicked.
    #[error("a part of the service panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

/// What the parts have done (R53): activations of the back-up are the listener's `mended`, those of the fallback the
/// worker's; `unmended` are warnings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The second layer.
    pub listener: Counts,
    /// The worker, and the third layer before it.
    pub worker: Counts,
}

/// Parts that run until they are stopped. Dropping it stops them as a crash does.
#[derive(Debug)]
pub struct Service {
    stop: watch::Sender<bool>,
    relay: Option<Part<Result<(), RelayError>>>,
    forward: Option<Part<()>>,
    listener: Option<Part<Counts>>,
    worker: Option<Part<Result<Counts, WorkerError>>>,
}

/// A task that ends with whoever holds it.
#[derive(Debug)]
struct Part<T>(JoinHandle<T>);

impl<T> Drop for Part<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: Send + 'static> Part<T> {
    fn start(part: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(part))
    }

    async fn ended(mut self) -> Result<T, tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl Service {
    /// Starts parts of the application on a queue.
    ///
    /// # Errors
    /// A setting is not what it must be. A queue that does not answer is waited for instead: commands go on meanwhile,
    /// and their jobs flow when it is back.
    pub fn start(courses: &Courses, queue: &Queue, parts: Parts) -> Result<Self, ServiceError> {
        let (stop, stopping) = watch::channel(false);
        let mut service = Self { stop, relay: None, forward: None, listener: None, worker: None };
        let context = Context::default();
        if parts.worker {
            let source = queue.source()?.unwrap_or_else(|| {
                let (source, forward) = embedded(&context);
                service.forward = Some(forward);
                Box::new(source)
            });
            let worker = worker(courses, source)?;
            service.worker = Some(Part::start(worker.run(stopped(stopping.clone()))));
        }
        if parts.listener
            && let Some(additions) = queue.additions()?
        {
            let listener = listener(courses, additions);
            service.listener = Some(Part::start(listener.run(stopped(stopping.clone()))));
        }
        if parts.relay {
            let relay = relay(courses, queue.target()?, context);
            let run = async move { relay.run(stopped(stopping)).await };
            service.relay = Some(Part::start(run));
        }
        Ok(service)
    }

    /// Whether a part has ended by itself: [`stop`](Self::stop) then says why.
    pub fn has_failed(&self) -> bool {
        let has_ended = |ended: Option<bool>| ended.unwrap_or_default();
        has_ended(self.relay.as_ref().map(|part| part.0.is_finished()))
            || has_ended(self.worker.as_ref().map(|part| part.0.is_finished()))
    }

    /// Ends all parts, each after what it has in hand, and answers what they have done.
    ///
    /// # Errors
    /// What had ended a part before.
    pub async fn stop(mut self) -> Result<Report, ServiceError> {
        self.stop.send_replace(true);
        let mut report = Report::default();
        if let Some(worker) = self.worker.take() {
            report.worker = worker.ended().await??;
        }
        if let Some(listener) = self.listener.take() {
            report.listener = listener.ended().await?;
        }
        if let Some(relay) = self.relay.take() {
            relay.ended().await??;
        }
        Ok(report)
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error is a service that was dropped.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

/// The worker with its handlers, and the third layer before each.
fn worker(courses: &Courses, source: Box<dyn Source>) -> Result<Worker, WorkerError> {
    let settings = WorkerSettings {
        name: NAME.to_owned(),
        consumer: NAME.to_owned(),
        concurrency: 10,
        timeout: Duration::from_mins(1),
        retry: RetryPolicy {
            attempts: 5,
            backoff: Backoff { initial: Duration::from_millis(100), cap: Duration::from_secs(5) },
        },
        watch_interval: Some(Duration::from_secs(1)),
        watch_age: Duration::from_secs(5),
        ..WorkerSettings::default()
    };
    let worker = Worker::new(Arc::clone(&courses.database().store), settings)?.source(source);
    let worker = handled::<ProcessDocument>(worker, courses);
    let worker = handled::<AnalyzeStructure>(worker, courses);
    Ok(handled::<GenerateStructure>(worker, courses))
}

fn handled<P: Handle>(worker: Worker, courses: &Courses) -> Worker {
    let topic = P::STAGE.topic();
    let courses = courses.clone();
    worker
        .check(topic, check::<P>(&courses, Layer::Worker))
        .handle(topic, move |task| handlers::run::<P>(courses.clone(), task))
}

/// The second layer.
fn listener(courses: &Courses, additions: Box<dyn Additions>) -> Listener {
    Listener::new(additions)
        .check(Stage::Documents.topic(), check::<ProcessDocument>(courses, Layer::Listener))
        .check(Stage::Structure.topic(), check::<AnalyzeStructure>(courses, Layer::Listener))
        .check(Stage::Generation.topic(), check::<GenerateStructure>(courses, Layer::Listener))
}

/// Starts the machine of a job that arrived without one. What it cannot start is a warning, never more.
fn check<P: Handle>(courses: &Courses, layer: Layer) -> impl posthaste_worker::Check + use<P> {
    let courses = courses.clone();
    move |message: Arc<Received>| {
        let courses = courses.clone();
        async move {
            let course = course_of::<P>(&message.payload)?;
            let was_missing = courses.ensure_begun(layer, P::STAGE, &course).await?;
            Ok::<_, Failed>(if was_missing { Found::Mended } else { Found::Fine })
        }
    }
}

fn relay(courses: &Courses, target: Box<dyn Target>, context: Context) -> Relay {
    let topics = TopicFilter::new(&Stage::ALL.map(Stage::topic)).expect("three plain topics");
    let spec = SubscriptionSpec { name: NAME.to_owned(), filter: topics, start: Start::Beginning };
    let subscription = Subscription {
        spec,
        target: Arc::from(target),
        failure: FailureSettings::default(),
        contracts: ContractSettings::default(),
    };
    let settings =
        RelaySettings { idle_interval: Duration::from_millis(50), ..RelaySettings::default() };
    Relay::new(courses.database().store.clone(), settings, vec![subscription], context)
}

impl Queue {
    /// Whether the queue's server answers, for a start that is to fail at once.
    ///
    /// # Errors
    /// It does not, or a setting is not what it must be.
    pub async fn preflight(&self) -> Result<(), ServiceError> {
        let answer = self.target()?.preflight().await;
        answer.map(drop).map_err(|error| ServiceError::Queue(posthaste_core::describe(&error)))
    }

    fn kind(&self) -> (&'static str, Vec<(&'static str, toml::Value)>) {
        match self {
            Self::Embedded => ("local", Vec::new()),
            Self::Stream { url, .. } => ("redis-stream", vec![("url", url.clone().into())]),
            Self::Bullmq { url, prefix } => (
                "bullmq",
                vec![
                    ("url", url.clone().into()),
                    ("prefix", prefix.clone().into()),
                    ("queue", "jobs".into()),
                ],
            ),
        }
    }

    fn settings(&self, more: &[(&'static str, toml::Value)]) -> toml::Table {
        let (_, settings) = self.kind();
        let all = settings.into_iter().chain(more.iter().cloned());
        all.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The relay's side.
    fn target(&self) -> Result<Box<dyn Target>, ServiceError> {
        let settings = match self {
            Self::Embedded => self.settings(&[("channel", NAME.into())]),
            Self::Stream { prefix, .. } => {
                self.settings(&[("stream", format!("{prefix}:jobs").into())])
            }
            Self::Bullmq { .. } => self.settings(&[("format", "envelope".into())]),
        };
        let kind = sinks::find(self.kind().0).ok_or_else(|| unknown(self))?;
        (kind.parse)(settings).map_err(|error| ServiceError::Queue(error.to_string()))
    }

    /// The worker's side; none where it is the process itself.
    fn source(&self) -> Result<Option<Box<dyn Source>>, ServiceError> {
        let Some(kind) = sources::find(self.kind().0) else { return Ok(None) };
        let source = (kind.parse)(self.source_settings());
        source.map(Some).map_err(|error| ServiceError::Queue(error.to_string()))
    }

    /// What is added to the queue, where it tells.
    fn additions(&self) -> Result<Option<Box<dyn Additions>>, ServiceError> {
        let Some(listen) = sources::find(self.kind().0).and_then(|kind| kind.listen) else {
            return Ok(None);
        };
        let additions = listen(self.source_settings());
        additions.map(Some).map_err(|error| ServiceError::Queue(error.to_string()))
    }

    fn source_settings(&self) -> toml::Table {
        match self {
            Self::Stream { prefix, .. } => {
                let streams = vec![toml::Value::from(format!("{prefix}:jobs"))];
                self.settings(&[("streams", streams.into()), ("group", NAME.into())])
            }
            _ => self.settings(&[]),
        }
    }
}

fn unknown(queue: &Queue) -> ServiceError {
    ServiceError::Queue(format!("this build knows no {}", queue.kind().0))
}

/// A channel from the relay to the worker.
fn embedded(context: &Context) -> (LocalSource, Part<()>) {
    let mut deliveries = context.locals.subscribe(NAME, CHANNEL_MESSAGES);
    let (give, channel) = mpsc::channel(CHANNEL_MESSAGES);
    let forward = Part::start(async move {
        while let Some(delivery) = deliveries.recv().await {
            if give.send(received(delivery)).await.is_err() {
                return;
            }
        }
    });
    (LocalSource::new(NAME, channel), forward)
}

fn received(delivery: Delivery) -> Received {
    Received {
        id: delivery.id,
        topic: delivery.topic,
        key: delivery.key,
        content_type: delivery.content_type,
        enqueued_at: delivery.enqueued_at,
        correlation_id: delivery.correlation_id,
        headers: delivery.headers,
        payload: delivery.payload,
    }
}
