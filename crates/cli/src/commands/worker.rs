//! `posthaste worker [--only NAME…]`: runs jobs and handles messages until told to stop.

use std::sync::Arc;

use clap::Args;
use posthaste_relay::{ContractLibrary, Relay, sink::Context};
use posthaste_store::{Jobs, Store};
use tokio::task::JoinSet;

use crate::{
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    listener::Listener,
    parts::{
        self,
        told::Process,
        workers::{self, Built},
    },
    run,
    signals::Stop,
    store, traces,
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
    if config.workers.is_empty() {
        return Err(workers::none());
    }
    let database = store::open(config, store::Missing::Refuse).await?;
    let (store, jobs): (Arc<dyn Store>, Arc<dyn Jobs>) = (Arc::clone(&database) as _, database);
    let stop = Stop::listen()
        .map_err(|error| Failure::caused(Exit::Failed, "cannot listen for signals", error))?;
    let library = ContractLibrary::default();
    let (tracer, traces) = traces::start(&config.telemetry.traces)?;
    let Built { workers, subscriptions } =
        workers::build(config, &args.only, &jobs, &library.known(), tracer.as_ref())?;
    let relay = (!subscriptions.is_empty()).then(|| {
        let settings = config.relay.clone();
        let relay = Relay::new(Arc::clone(&store), settings, subscriptions, Context::default());
        parts::traced(relay, tracer.as_ref())
    });
    let told = Process::of(config, &workers, relay.as_ref(), tracer);
    let listener = Listener::start(&config.telemetry, told).await?;
    if !run::wait_for(&*store, config.relay.retry.into(), &stop).await? {
        return Ok(());
    }
    let names = workers::names(&workers);
    tracing::info!(database = store.describe(), workers = names, "workers start");
    let mut background = JoinSet::new();
    let are_read = library.are_read();
    background.spawn(workers::refresh(library, store, config.relay.clone()));
    let ran = if workers::may_begin(are_read, &stop).await {
        parts::run(workers, relay, &stop).await
    } else {
        Ok(())
    };
    background.shutdown().await;
    traces::end(traces).await;
    if let Some(listener) = listener {
        listener.end().await;
    }
    ran?;
    tracing::info!("workers ended");
    Ok(())
}
