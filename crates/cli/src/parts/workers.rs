//! From the configuration to workers, and to the subscriptions that feed those without a queue.

use std::{path::Path, sync::Arc};

use posthaste::{Outbox, contract::Contracts};
use posthaste_core::{Backoff, TopicFilter};
use posthaste_relay::{
    ContractLibrary, ContractSettings, FailureSettings, RelaySettings, Subscription,
};
use posthaste_store::{Jobs, Start, Store, SubscriptionSpec};
use posthaste_traces::Tracer;
use posthaste_worker::{
    Handler, Worker, command::CommandHandler, http::HttpHandler, sources::local::LocalSource,
};
use tokio::sync::watch;

use crate::{
    config::{self, Config, HandlerTable, WorkerTable},
    failure::{Failure, Result},
    handover::Handover,
    signals::Stop,
};

/// Contracts as they were read last.
pub(crate) type Known = watch::Receiver<Arc<Contracts>>;

/// Workers that do not run yet.
#[derive(Default)]
pub(crate) struct Built {
    pub(crate) workers: Vec<Worker>,
    /// What feeds those of them that have no queue.
    pub(crate) subscriptions: Vec<Subscription>,
}

/// The configured workers, or those of them that `only` names.
pub(crate) fn build(
    config: &Config,
    only: &[String],
    jobs: &Arc<dyn Jobs>,
    contracts: &Known,
    tracer: Option<&Tracer>,
) -> Result<Built> {
    let mut built = Built::default();
    for (name, table) in chosen(config, only)? {
        let (mut worker, subscription) = build_one(name, table, config, jobs, contracts)?;
        if let Some(tracer) = tracer {
            worker = worker.traced(tracer.clone());
        }
        built.workers.push(worker);
        built.subscriptions.extend(subscription);
    }
    Ok(built)
}

/// What somebody is told who wants to run workers and has none.
pub(crate) fn none() -> Failure {
    Failure::usage(
        "no worker is configured; add [workers.NAME] with a [workers.NAME.handlers.NAME] to the \
         configuration (see `posthaste config reference`)",
    )
}

/// Their names, for people.
pub(crate) fn names(workers: &[Worker]) -> String {
    let names: Vec<String> =
        workers.iter().map(|worker| worker.telemetry().readiness().worker).collect();
    names.join(", ")
}

fn chosen<'a>(config: &'a Config, only: &[String]) -> Result<Vec<(&'a str, &'a WorkerTable)>> {
    if let Some(unknown) = only.iter().find(|name| !config.workers.contains_key(*name)) {
        let known: Vec<&str> = config.workers.keys().map(String::as_str).collect();
        let known = known.join(", ");
        return Err(Failure::usage(format!("--only {unknown}: no such worker; known: {known}")));
    }
    let is_chosen = |name: &String| only.is_empty() || only.contains(name);
    let all = config.workers.iter().filter(|(name, _)| is_chosen(name));
    Ok(all.map(|(name, table)| (name.as_str(), table)).collect())
}

/// A worker, and the subscription that feeds it if it has no queue.
fn build_one(
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

/// Reads the contracts now and then; while that fails, what was read last holds, and it is tried again sooner.
pub(crate) async fn refresh(
    mut library: ContractLibrary,
    store: Arc<dyn Store>,
    settings: RelaySettings,
) {
    let (backoff, interval): (Backoff, _) = (settings.retry.into(), settings.contracts_interval);
    let mut failures = 0;
    loop {
        let pause = match library.look(&*store).await {
            Ok(()) => {
                failures = 0;
                interval
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    let error = posthaste_core::describe(&error);
                    tracing::warn!("contracts stay as they are: {error}");
                }
                backoff.delay(failures, rand::random()).min(interval)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Waits until the contracts were read, before which no worker may begin. `false` when a stop was asked for first.
pub(crate) async fn may_begin(mut are_read: watch::Receiver<Option<bool>>, stop: &Stop) -> bool {
    tokio::select! {
        read = are_read.wait_for(|are_read| *are_read == Some(true)) => read.is_ok(),
        () = stop.requested() => false,
    }
}
