//! `posthaste worker [--only NAME…]`: runs jobs and handles messages until told to stop.

use std::{path::Path, sync::Arc, time::Duration};

use clap::Args;
use posthaste::{Outbox, contract::Contracts};
use posthaste_core::TopicFilter;
use posthaste_relay::{
    ContractLibrary, ContractSettings, FailureSettings, Relay, Subscription, sink::Context,
    telemetry::Telemetry as RelayTelemetry,
};
use posthaste_store::{Jobs, Start, Store, SubscriptionSpec};
use posthaste_worker::{
    Counts, Handler, Worker, command::CommandHandler, http::HttpHandler,
    sources::local::LocalSource, telemetry::Telemetry,
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    config::{self, Config, HandlerTable, WorkerTable},
    exit::Exit,
    failure::{Failure, Result},
    handover::Handover,
    listener::{Listener, Told},
    run,
    signals::Stop,
    store,
};

/// What to run.
#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    /// Worker to run; may stand several times [default: all]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
}

/// Runs the workers, and a relay for those of them that have no queue.
pub(crate) async fn run(args: &WorkerArgs, config: &Config) -> Result {
    let chosen = chosen(config, &args.only)?;
    let database = store::open(config, store::Missing::Refuse).await?;
    let (store, jobs): (Arc<dyn Store>, Arc<dyn Jobs>) = (Arc::clone(&database) as _, database);
    let stop = Stop::listen()
        .map_err(|error| Failure::caused(Exit::Failed, "cannot listen for signals", error))?;
    let (library, contracts) = (ContractLibrary::default(), ContractLibrary::known);
    let contracts = contracts(&library);
    let mut workers = Vec::new();
    let mut subscriptions = Vec::new();
    for (name, table) in &chosen {
        let (worker, subscription) = build(name, table, config, &jobs, &contracts)?;
        workers.push(worker);
        subscriptions.extend(subscription);
    }
    let relay = (!subscriptions.is_empty()).then(|| {
        let settings = config.relay.clone();
        Relay::new(Arc::clone(&store), settings, subscriptions, Context::default())
    });
    let told = Workers {
        workers: workers.iter().map(Worker::telemetry).collect(),
        relay: relay.as_ref().map(Relay::telemetry),
    };
    let listener = Listener::start(&config.telemetry, told).await?;
    if !run::wait_for(&*store, config.relay.retry.into(), &stop).await? {
        return Ok(());
    }
    for worker in &workers {
        worker.preflight().await?;
    }
    let names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
    tracing::info!(database = store.describe(), workers = names.join(", "), "workers start");
    let mut background = JoinSet::new();
    background.spawn(refresh(library, store, config.relay.contracts_interval));
    let ran = work(workers, relay, &stop).await;
    background.shutdown().await;
    if let Some(listener) = listener {
        listener.end().await;
    }
    ran?;
    tracing::info!("workers ended");
    Ok(())
}

fn chosen<'a>(config: &'a Config, only: &[String]) -> Result<Vec<(&'a str, &'a WorkerTable)>> {
    if config.workers.is_empty() {
        return Err(Failure::usage(
            "no worker is configured; add [workers.NAME] with a [workers.NAME.handlers.NAME] to the \
             configuration (see `posthaste config reference`)",
        ));
    }
    if let Some(unknown) = only.iter().find(|name| !config.workers.contains_key(*name)) {
        let known: Vec<&str> = config.workers.keys().map(String::as_str).collect();
        let known = known.join(", ");
        return Err(Failure::usage(format!("--only {unknown}: no such worker; known: {known}")));
    }
    let is_chosen = |name: &String| only.is_empty() || only.contains(name);
    let all = config.workers.iter().filter(|(name, _)| is_chosen(name));
    Ok(all.map(|(name, table)| (name.as_str(), table)).collect())
}

type Known = watch::Receiver<Arc<Contracts>>;

/// A worker, and the subscription that feeds it if it has no queue.
fn build(
    name: &str,
    table: &WorkerTable,
    config: &Config,
    jobs: &Arc<dyn Jobs>,
    contracts: &Known,
) -> Result<(Worker, Option<Subscription>)> {
    let wrong = |text: String| Failure::usage(format!("workers.{name}: {text}"));
    let settings = table.settings(name);
    let concurrency = settings.concurrency;
    let outbox = Outbox::new(config.database.schema.clone());
    let worker =
        Worker::new(Arc::clone(jobs), settings).map_err(|error| wrong(error.to_string()))?;
    let mut worker = worker.with_outbox(outbox);
    if table.contracts {
        worker = worker.with_contracts(contracts.clone());
    }
    for (handler, settings) in &table.handlers {
        let wrong = |error: &dyn std::error::Error| {
            Failure::usage(format!("workers.{name}.handlers.{handler}: {error}"))
        };
        for topic in &settings.topics {
            worker = match &settings.command {
                Some(command) => worker.handle(topic, program(command, settings)),
                None => worker.handle(topic, endpoint(settings).map_err(|error| wrong(&error))?),
            };
        }
    }
    for (name, cron) in &table.cron {
        worker = worker.cron(cron.job(name).map_err(&wrong)?);
    }
    if !table.source.is_empty() {
        let source = config::source(&table.source).map_err(wrong)?;
        return Ok((worker.source(source), None));
    }
    if config.subscriptions.contains_key(name) {
        return Err(wrong(
            "without a source it is a subscription of its own, but there is one of that name; \
             rename one of them, or add a source"
                .to_owned(),
        ));
    }
    let filter = TopicFilter::new(&table.topics()).map_err(|error| wrong(error.to_string()))?;
    let (target, channel) = Handover::new(name, concurrency);
    let subscription = Subscription {
        spec: SubscriptionSpec { name: name.to_owned(), filter, start: Start::Beginning },
        target,
        failure: FailureSettings::default(),
        contracts: ContractSettings::default(),
    };
    Ok((worker.source(LocalSource::new(name, channel)), Some(subscription)))
}

fn program(command: &[String], settings: &HandlerTable) -> impl Handler {
    let (program, arguments) =
        command.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    CommandHandler::new(program).arguments(arguments).output_bytes_max(output_max(settings))
}

fn endpoint(
    settings: &HandlerTable,
) -> Result<HttpHandler, posthaste_worker::http::InvalidEndpoint> {
    let url = settings.url.as_deref().unwrap_or_default();
    let mut handler = HttpHandler::new(url, settings.ca_file.as_deref())?;
    if let Some(path) = &settings.token_file {
        handler = handler.token_file(Path::new(path))?;
    }
    Ok(handler.output_bytes_max(output_max(settings)))
}

fn output_max(settings: &HandlerTable) -> usize {
    usize::try_from(settings.output_max.unwrap_or(1 << 20)).unwrap_or(usize::MAX)
}

/// Reads the contracts now and then; while that fails, what was read last holds.
async fn refresh(mut library: ContractLibrary, store: Arc<dyn Store>, interval: Duration) {
    let mut is_away = false;
    loop {
        match library.look(&*store).await {
            Ok(()) => is_away = false,
            Err(error) if !std::mem::replace(&mut is_away, true) => {
                tracing::warn!("contracts stay as they are: {}", posthaste_core::describe(&error));
            }
            Err(_) => {}
        }
        tokio::time::sleep(interval).await;
    }
}

/// Runs everything until a stop, or until something ends by itself, which ends all.
async fn work(workers: Vec<Worker>, relay: Option<Relay>, stop: &Stop) -> Result {
    let (end, ended) = watch::channel(false);
    let mut running: JoinSet<Result> = JoinSet::new();
    let shutdown = || {
        let (stop, mut ended) = (stop.requested(), ended.clone());
        async move {
            tokio::select! {
                () = stop => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        }
    };
    for worker in workers {
        let shutdown = shutdown();
        running.spawn(async move {
            let name = worker.telemetry().readiness().worker;
            let counts = worker.run(shutdown).await;
            let counts = counts.map_err(|error| Failure::usage(error.to_string()))?;
            let Counts { completed, failed, dead, buried, .. } = counts;
            tracing::info!(worker = name, completed, failed, dead, buried, "the worker ended");
            Ok(())
        });
    }
    if let Some(relay) = relay {
        let shutdown = shutdown();
        running.spawn(async move { Ok(relay.run(shutdown).await?) });
    }
    let mut all = Ok(());
    while let Some(ran) = running.join_next().await {
        end.send_replace(true);
        let ran = ran.unwrap_or_else(|error| {
            Err(Failure::caused(Exit::Failed, "a worker ended in the middle", error))
        });
        all = all.and(ran);
    }
    all
}

/// What the listener tells of.
struct Workers {
    workers: Vec<Telemetry>,
    relay: Option<RelayTelemetry>,
}

impl Told for Workers {
    fn metrics(&self) -> String {
        let relay = self.relay.as_ref().map(RelayTelemetry::metrics).unwrap_or_default();
        relay + &posthaste_worker::telemetry::metrics(&self.workers)
    }

    fn is_alive(&self) -> bool {
        self.workers.iter().all(Telemetry::is_alive)
            && self.relay.as_ref().is_none_or(RelayTelemetry::is_alive)
    }

    fn readiness(&self) -> (bool, serde_json::Value) {
        let workers: Vec<_> = self.workers.iter().map(Telemetry::readiness).collect();
        let relay = self.relay.as_ref().map(RelayTelemetry::readiness);
        let is_ready = workers.iter().all(|worker| worker.ready)
            && relay.as_ref().is_none_or(|relay| relay.ready);
        let body = serde_json::json!({ "ready": is_ready, "workers": workers, "relay": relay });
        (is_ready, body)
    }

    async fn observe(self: Arc<Self>, interval: Duration) {
        match &self.relay {
            Some(relay) => relay.observe(interval).await,
            None => std::future::pending().await,
        }
    }
}
