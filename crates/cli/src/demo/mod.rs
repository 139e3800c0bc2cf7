//! `posthaste demo`: a shop writes orders and messages in the same transactions, one in five
//! rolled back; a relay carries them; a consumer checks each arrival. Ends with the count of what
//! was lost, duplicated or reordered.
//!
//! The demo plays an application and its consumer, so its own SQL and its own reading of Redis
//! stand here and nowhere else in the CLI. It reads no configuration file and leaves nothing
//! behind: SQLite works in a temporary directory, PostgreSQL in a schema of its own, Redis under
//! a key of its own.

mod arrivals;
mod ledger;
mod screen;
mod shop;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use clap::Args;
use posthaste_core::TopicFilter;
use posthaste_relay::{
    ContractSettings, FailureSettings, Monitor, Relay, RelayError, RelaySettings, Subscription,
    sink::Context,
};
use posthaste_store::{Start, SubscriptionSpec};
use tokio::{sync::oneshot, task::JoinHandle, time};

use self::{
    arrivals::Arrivals,
    ledger::{Ledger, Summary},
    screen::Screen,
    shop::{Pace, Shop},
};
use crate::{
    config::LogSettings,
    exit::Exit,
    failure::{Failure, Result},
    logging,
    output::Output,
    signals::Stop,
};

/// Name of the demo's subscription and of its local channel.
const NAME: &str = "orders";
/// How long the last messages may take to arrive once the shop has closed.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);
const REFRESH: Duration = Duration::from_millis(200);

/// What the demo runs on, and for how long.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// End by itself after this time, for example 10s [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Database: postgres://… instead of SQLite in a temporary directory
    #[arg(long, value_name = "URL", env = "POSTHASTE_DEMO_STORE", hide_env_values = true)]
    store: Option<String>,
    /// Sink: redis://… or rediss://… instead of a consumer in this process
    #[arg(long, value_name = "URL", env = "POSTHASTE_DEMO_SINK", hide_env_values = true)]
    sink: Option<String>,
    /// Orders a second, those that are rolled back included
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
}

/// The ledger that shop and consumer write to.
#[derive(Clone, Debug, Default)]
struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the demo to its end.
pub(crate) async fn run(args: &DemoArgs, out: &mut Output) -> Result {
    logging::start(&LogSettings { level: "warn".to_owned(), ..LogSettings::default() })?;
    let stop = Stop::listen()
        .map_err(|error| Failure::caused(Exit::Failed, "cannot listen for signals", error))?;
    let shop = Shop::open(args.store.as_deref()).await?;
    let ended = trade(args, &shop, &stop, out).await;
    // Whatever happened: the demo's own schema goes.
    let closed = shop.close().await;
    let summary = ended?;
    closed?;
    out.result(&summary, &summary.sentence())?;
    match summary.fault() {
        None => Ok(()),
        Some(fault) => Err(Failure::new(Exit::Failed, fault)),
    }
}

/// Opens for business, closes again, and counts.
async fn trade(args: &DemoArgs, shop: &Shop, stop: &Stop, out: &mut Output) -> Result<Summary> {
    let context = Context::default();
    let ledger = SharedLedger::default();
    let arrivals = Arrivals::open(args.sink.as_deref(), &context, shop.run_id()).await?;
    let relay = relay(shop, &arrivals, context)?;
    let monitor = relay.monitor();
    let mut screen = Screen::new(out.is_asked_for_json(), shop.describe(), arrivals.describe());
    screen.open();

    let (close_relay, relay_closed) = oneshot::channel::<()>();
    let mut relaying = tokio::spawn(relay.run(async move {
        let _ = relay_closed.await;
    }));
    let watching = arrivals.watch(ledger.clone());
    let mut writing = shop.start(&Pace::new(args.rate), &ledger).await?;

    let ended = open_hours(args.duration, stop, &ledger, &monitor, &mut screen, &mut relaying);
    let ended = tokio::select! {
        ended = ended => ended,
        failed = writing.failed() => Err(failed),
    };
    let written = writing.stop().await;
    let arrived = all_arrived(&ledger).await;
    drop(close_relay);
    let drained = if relaying.is_finished() { Ok(Ok(())) } else { relaying.await };
    watching.abort();
    screen.close();
    arrivals.clean_up().await;
    ended?;
    written?;
    drained.map_err(|error| Failure::caused(Exit::Failed, "the relay's task ended", error))??;
    if !arrived {
        tracing::warn!("messages are missing {ARRIVAL_LIMIT:?} after the shop closed");
    }
    let published = monitor.snapshot().iter().map(|subscription| subscription.published).sum();
    let truth = shop.orders_by_customer().await?;
    let summary = ledger.lock().close(published, &truth);
    Ok(summary)
}

fn relay(shop: &Shop, arrivals: &Arrivals, context: Context) -> Result<Relay> {
    let filter = TopicFilter::all();
    let spec = SubscriptionSpec { name: NAME.to_owned(), filter, start: Start::Beginning };
    let target = arrivals.target().map_err(Failure::usage)?;
    let (failure, contracts) = (FailureSettings::default(), ContractSettings::default());
    let subscription = Subscription { spec, target, failure, contracts };
    Ok(Relay::new(shop.store(), RelaySettings::default(), vec![subscription], context))
}

/// Shows what happens until the time is up, a stop is asked for, or the relay ends by itself.
async fn open_hours(
    duration: Option<Duration>,
    stop: &Stop,
    ledger: &SharedLedger,
    monitor: &Monitor,
    screen: &mut Screen,
    relaying: &mut JoinHandle<Result<(), RelayError>>,
) -> Result {
    let opened = Instant::now();
    let requested = stop.requested();
    tokio::pin!(requested);
    let mut refresh = time::interval(REFRESH);
    loop {
        tokio::select! {
            () = &mut requested => return Ok(()),
            ended = &mut *relaying => {
                let ended = ended
                    .map_err(|error| Failure::caused(Exit::Failed, "the relay's task ended", error))?;
                return Err(ended.map_or_else(
                    Failure::from,
                    |()| Failure::new(Exit::Failed, "the relay ended by itself"),
                ));
            }
            _ = refresh.tick() => {
                let published = monitor.snapshot().iter().map(|s| s.published).sum();
                screen.show(&ledger.lock(), published);
                if duration.is_some_and(|duration| opened.elapsed() >= duration) {
                    return Ok(());
                }
            }
        }
    }
}

/// Waits until as many messages have arrived as were committed; false when the limit is over.
async fn all_arrived(ledger: &SharedLedger) -> bool {
    let deadline = Instant::now() + ARRIVAL_LIMIT;
    while !ledger.lock().is_complete() {
        if Instant::now() >= deadline {
            return false;
        }
        time::sleep(Duration::from_millis(5)).await;
    }
    true
}
