//! `posthaste relay [--once [--timeout TIME]] [--only NAME…]`: publishes until told to stop, or until
//! everything is published.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use posthaste_relay::{Relay, sink::Context};
use posthaste_store::Store;
use tokio::task::JoinSet;

use crate::{
    alerts::Alerts,
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    listener::Listener,
    parts::{self, told::Process},
    run,
    signals::Stop,
    store, traces,
};

/// What to publish.
#[derive(Args, Debug)]
pub(crate) struct RelayArgs {
    /// Publish and settle what is committed now, then exit; fails if a subscription cannot
    #[arg(long)]
    once: bool,
    /// How long `--once` may take before it drains and fails; what it settled stays settled
    #[arg(long, value_name = "TIME", requires = "once", default_value = "1m")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Subscription to publish; may stand several times [default: all]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
}

/// Runs the relay. `relay.enabled` is not read: it is the switch of embedded relays (R17).
pub(crate) async fn run(args: &RelayArgs, config: &Config) -> Result {
    let subscriptions = run::subscriptions(config, &args.only)?;
    let database = store::open(config, store::Missing::Refuse).await?;
    let store: Arc<dyn Store> = Arc::clone(&database) as _;
    let stop = Stop::listen()
        .map_err(|error| Failure::caused(Exit::Failed, "cannot listen for signals", error))?;
    let names: Vec<&str> = subscriptions.iter().map(|it| it.spec.name.as_str()).collect();
    let names = names.join(", ");
    let settings = config.relay.clone();
    let (tracer, traces) = traces::start(&config.telemetry.traces)?;
    let relay = Relay::new(Arc::clone(&store), settings, subscriptions, Context::default());
    let relay = parts::traced(relay, tracer.as_ref());
    if args.once {
        store.check().await?;
        tracing::info!(database = store.describe(), subscriptions = names, "relay starts");
        let ran = once(relay, args.timeout, &stop).await;
        traces::end(traces).await;
        ran?;
    } else {
        // Before the database is there, and until the drain is over: what waits is seen waiting.
        let listener = Listener::start(&config.telemetry, relay.telemetry()).await?;
        let told = Arc::new(Process::of(config, &[], Some(&relay), tracer));
        let mut alerting = JoinSet::new();
        if let Some(alerts) = Alerts::new(&config.alerts, database, told)? {
            alerting.spawn(alerts.run());
        }
        if !run::wait_for(&*store, config.relay.retry.into(), &stop).await? {
            return Ok(());
        }
        tracing::info!(database = store.describe(), subscriptions = names, "relay starts");
        let ran = relay.run(stop.requested()).await;
        alerting.shutdown().await;
        traces::end(traces).await;
        if let Some(listener) = listener {
            listener.end().await;
        }
        ran?;
    }
    tracing::info!("relay ended");
    Ok(())
}

/// Publishes what there is, within `limit` and the drain's own limit.
async fn once(relay: Relay, limit: Duration, stop: &Stop) -> Result {
    let is_late = AtomicBool::new(false);
    let shutdown = async {
        tokio::select! {
            () = stop.requested() => {}
            () = tokio::time::sleep(limit) => is_late.store(true, Ordering::Relaxed),
        }
    };
    let ran = relay.run_once(shutdown).await;
    match ran {
        Err(error) if is_late.load(Ordering::Relaxed) && error.store_error().is_none() => {
            let limit = humantime::format_duration(limit);
            let text = format!("{error} (ended by --timeout {limit}; run it again, or allow more)");
            Err(Failure::new(Exit::Failed, text))
        }
        ran => Ok(ran?),
    }
}
