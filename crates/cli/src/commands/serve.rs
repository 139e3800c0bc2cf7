//! `posthaste serve`: the server, the relay and the workers in one process.
//!
//! The server answers from the first moment, also while the database is away: it says so. At the end it goes first, and
//! its end is what lets the others drain, so that nothing is accepted that nobody is left to carry on.

use std::sync::Arc;

use clap::Args;
use posthaste_relay::{ContractLibrary, Relay, sink::Context};
use posthaste_server::{Bound, Server, ServerSettings, Telemetry};
use posthaste_store::{Jobs, Operations, Store};
use posthaste_traces::Tracer;
use posthaste_worker::Worker;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    alerts::Alerts,
    config::Config,
    descriptors,
    exit::Exit,
    failure::{Failure, Result},
    listener::{Listener, Told as _},
    parts::{
        self,
        told::Process,
        workers::{self, Built},
    },
    run,
    signals::{self, Stop},
    store, traces,
};

/// Nothing can be chosen here: the parts stand in the configuration.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {}

/// The parts beside the server.
struct Beside {
    workers: Vec<Worker>,
    relay: Option<Relay>,
    contracts_are_read: watch::Receiver<Option<bool>>,
}

/// Runs everything until told to stop.
pub(crate) async fn run(_: &ServeArgs, config: &Config) -> Result {
    let database = store::open(config, store::Missing::Refuse).await?;
    let store: Arc<dyn Store> = Arc::clone(&database) as _;
    let jobs: Arc<dyn Jobs> = Arc::clone(&database) as _;
    let operations: Arc<dyn Operations> = Arc::clone(&database) as _;
    let library = ContractLibrary::default();
    let (known, contracts_are_read) = (library.known(), library.are_read());
    let (tracer, traces) = traces::start(&config.telemetry.traces)?;
    let (workers, relay) = beside(config, &store, &jobs, &known, tracer.as_ref())?;
    let beside = Beside { workers, relay, contracts_are_read: contracts_are_read.clone() };
    let telemetry = Telemetry::default();
    let told = Process::of(config, &beside.workers, beside.relay.as_ref(), tracer.clone());
    let told = Arc::new(told.with_server(telemetry.clone()));
    let alerts = Alerts::new(&config.alerts, database, Arc::clone(&told))?;
    let connections_max = descriptors::make_room(config.server.connections_max);
    let settings = ServerSettings { connections_max, ..config.server.clone() };
    let server = Server::new(settings, jobs, operations).map_err(failure)?;
    let server = server.with_contracts(known).with_parts(Arc::clone(&told) as _);
    let server = server.once_contracts_are_read(contracts_are_read);
    let mut server = server.with_telemetry(telemetry);
    if let Some(tracer) = tracer {
        server = server.traced(tracer);
    }
    let bound = server.bind().map_err(failure)?;
    let stop = Stop::listen().map_err(|error| no_signals(&error))?;
    let mut background = JoinSet::new();
    if let Some(certificates) = bound.certificates() {
        background.spawn(
            signals::on_hangup(move || certificates.reload())
                .map_err(|error| no_signals(&error))?,
        );
    }
    let listener = Listener::start(&config.telemetry, (*told).clone()).await?;
    if listener.is_none() {
        background.spawn(told.observe(config.telemetry.interval));
    }
    if let Some(alerts) = alerts {
        background.spawn(alerts.run());
    }
    background.spawn(workers::refresh(library, Arc::clone(&store), config.relay.clone()));
    let ran = together(bound, beside, config, &*store, &stop).await;
    background.shutdown().await;
    traces::end(traces).await;
    if let Some(listener) = listener {
        listener.end().await;
    }
    ran?;
    tracing::info!("everything ended");
    Ok(())
}

/// The relay and the workers that the configuration asks for; none of them is no mistake here.
fn beside(
    config: &Config,
    store: &Arc<dyn Store>,
    jobs: &Arc<dyn Jobs>,
    known: &workers::Known,
    tracer: Option<&Tracer>,
) -> Result<(Vec<Worker>, Option<Relay>)> {
    let mut built = Built::default();
    if config.server.workers && !config.workers.is_empty() {
        built = workers::build(config, &[], jobs, known, tracer)?;
    }
    let is_published = config.server.relay && config.relay.enabled;
    if is_published && !config.subscriptions.is_empty() {
        built.subscriptions.extend(run::subscriptions(config, &[])?);
    }
    let Built { workers, subscriptions } = built;
    if subscriptions.is_empty() {
        return Ok((workers, None));
    }
    let relay =
        Relay::new(Arc::clone(store), config.relay.clone(), subscriptions, Context::default());
    Ok((workers, Some(parts::traced(relay, tracer))))
}

/// Runs the server until the stop, and the others until the server has ended. What ends by itself ends all.
async fn together(
    bound: Bound,
    beside: Beside,
    config: &Config,
    store: &dyn Store,
    stop: &Stop,
) -> Result {
    let (has_served, last) = Stop::by_hand();
    let (has_worked, over) = Stop::by_hand();
    tracing::info!(address = %bound.address(), "the server listens");
    let asked = {
        let (stop, over) = (stop.requested(), over.requested());
        async move {
            tokio::select! {
                () = stop => {}
                () = over => {}
            }
        }
    };
    let serving = async {
        let served = bound.run(asked).await.map_err(failure);
        tracing::info!("the server ended");
        has_served.send_replace(true);
        served
    };
    let working = async {
        let worked = work(beside, config, store, &last).await;
        has_worked.send_replace(true);
        worked
    };
    let (served, worked) = tokio::join!(Box::pin(serving), Box::pin(working));
    worked.and(served)
}

async fn work(beside: Beside, config: &Config, store: &dyn Store, stop: &Stop) -> Result {
    let Beside { workers, relay, contracts_are_read } = beside;
    if !run::wait_for(store, config.relay.retry.into(), stop).await? {
        return Ok(());
    }
    if !workers.is_empty() && !workers::may_begin(contracts_are_read, stop).await {
        return Ok(());
    }
    if workers.is_empty() && relay.is_none() {
        tracing::info!(database = store.describe(), "nothing runs beside the server");
        stop.requested().await;
        Ok(())
    } else {
        let names = workers::names(&workers);
        let has_relay = relay.is_some();
        tracing::info!(
            database = store.describe(),
            workers = names,
            relay = has_relay,
            "all parts start"
        );
        parts::run(workers, relay, stop).await
    }
}

fn failure(error: posthaste_server::ServerError) -> Failure {
    use posthaste_server::ServerErrorKind as Kind;
    let exit = if error.kind() == Kind::Settings { Exit::Usage } else { Exit::Failed };
    let what = error.to_string();
    match error.into_source() {
        Some(source) => Failure::caused(exit, what, source),
        None => Failure::new(exit, what),
    }
}

fn no_signals(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot listen for signals: {error}"))
}
