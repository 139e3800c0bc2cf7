//! Posthaste beside the application: the server with the streams, and a relay where there is a Redis.

use std::{net::SocketAddr, sync::Arc};

use posthaste_core::TopicFilter;
use posthaste_relay::{
    ContractSettings, FailureSettings, Relay, RelayError, RelaySettings, Subscription,
    sink::{Context, Target},
    sinks,
};
use posthaste_server::{NewSecret, Scope, Server, ServerError, ServerSettings, TokenSettings};
use posthaste_store::{Start, Store, SubscriptionSpec};
use tokio::{sync::watch, task::JoinHandle};

use crate::{database::Database, runs::TOPIC};

/// The token of the application's page.
const TOKEN: &str = "page";
/// The subscription.
const NAME: &str = "runs";

/// Why a part cannot begin, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A setting of the sink.
    #[error("REDIS_URL: {0}")]
    Sink(String),
    /// The server.
    #[error("the server")]
    Server(#[from] ServerError),
    /// The relay.
    #[error("the relay")]
    Relay(#[from] RelayError),
    /// A part panicked.
    #[error("a part of the service panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

/// A part that runs until it is stopped. Dropping it stops it as a crash does.
#[derive(Debug)]
pub struct Part<E> {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), E>>,
}

impl<E> Drop for Part<E> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E> Part<E>
where
    E: Send + 'static,
    ServiceError: From<E>,
{
    /// Ends it in order.
    ///
    /// # Errors
    /// It had ended before, by itself.
    pub async fn stop(mut self) -> Result<(), ServiceError> {
        self.stop.send_replace(true);
        Ok((&mut self.task).await??)
    }
}

/// The server, and what the application needs to call it.
#[derive(Debug)]
pub struct Api {
    /// Where it listens.
    pub address: SocketAddr,
    part: Part<ServerError>,
}

impl Api {
    /// Serves the API at an address, to the page's token and to browsers of its origin. `secret` is the token's.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn start(
        database: &Database,
        address: SocketAddr,
        page: SocketAddr,
        secret: &NewSecret,
    ) -> Result<Self, ServiceError> {
        let token = TokenSettings {
            secret_sha256: vec![secret.sha256.clone()],
            scopes: vec![Scope::View, Scope::Payloads],
            topics: Some(vec![TOPIC.to_owned()]),
            expires: None,
            ..TokenSettings::default()
        };
        let settings = ServerSettings {
            listen: address,
            tokens: [(TOKEN.to_owned(), token)].into(),
            cors_origins: vec![format!("http://{page}")],
            ..ServerSettings::default()
        };
        let (jobs, operations) = (Arc::clone(&database.jobs), Arc::clone(&database.operations));
        let bound = Server::new(settings, jobs, operations)?.bind()?;
        let address = bound.address();
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(bound.run(stopped(stopping)));
        Ok(Self { address, part: Part { stop, task } })
    }

    /// Ends it in order: streams end, and their clients come again.
    ///
    /// # Errors
    /// It had ended before, by itself.
    pub async fn stop(self) -> Result<(), ServiceError> {
        self.part.stop().await
    }
}

/// A relay that publishes the events of a run on the channel `PREFIXrun:{runId}`.
///
/// # Errors
/// The URL is none. A Redis that does not answer is waited for.
pub fn relay(
    database: &Database,
    redis: &str,
    prefix: &str,
) -> Result<Part<RelayError>, ServiceError> {
    let channel = format!("{prefix}run:{{key}}");
    // The event itself, as the application writes it.
    let table: toml::Table = [("url", redis), ("channel", &channel), ("format", "payload")]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let kind =
        sinks::find("redis-pubsub").ok_or_else(|| ServiceError::Sink("no such sink".to_owned()))?;
    let target: Box<dyn Target> =
        (kind.parse)(table).map_err(|error| ServiceError::Sink(error.to_string()))?;
    let filter = TopicFilter::from_parts(vec![TOPIC.to_owned()], Vec::new());
    let subscription = Subscription {
        spec: SubscriptionSpec { name: NAME.to_owned(), filter, start: Start::Beginning },
        target: target.into(),
        failure: FailureSettings::default(),
        contracts: ContractSettings::default(),
    };
    let store: Arc<dyn Store> = Arc::clone(&database.operations) as _;
    let relay = Relay::new(store, RelaySettings::default(), vec![subscription], Context::default());
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(async move { relay.run(stopped(stopping)).await });
    Ok(Part { stop, task })
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error is a part that was dropped.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}
