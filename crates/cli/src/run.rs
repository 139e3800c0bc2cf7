//! From the configuration to a relay: subscriptions with their targets, and the wait for a
//! database that is away at the start.

use posthaste_core::{Backoff, TopicFilter};
use posthaste_relay::{ContractSettings, Subscription};
use posthaste_store::{Start, Store, SubscriptionSpec};

use crate::{
    config::{self, Config, From, SubscriptionSettings},
    failure::{Failure, Result},
    signals::Stop,
};

/// The configured subscriptions, or those of them that `only` names.
pub(crate) fn subscriptions(config: &Config, only: &[String]) -> Result<Vec<Subscription>> {
    if config.subscriptions.is_empty() {
        return Err(Failure::usage(
            "no subscription is configured; add [subscriptions.NAME] with a \
             [subscriptions.NAME.sink] to the configuration (see `posthaste config reference`)",
        ));
    }
    if let Some(unknown) = only.iter().find(|name| !config.subscriptions.contains_key(*name)) {
        let known: Vec<&str> = config.subscriptions.keys().map(String::as_str).collect();
        let known = known.join(", ");
        return Err(Failure::usage(format!(
            "--only {unknown}: no such subscription; known: {known}"
        )));
    }
    let chosen = |name: &String| only.is_empty() || only.contains(name);
    let all = config.subscriptions.iter().filter(|(name, _)| chosen(name));
    all.map(|(name, settings)| subscription(name, settings)).collect()
}

fn subscription(name: &str, settings: &SubscriptionSettings) -> Result<Subscription> {
    let wrong = |text: String| Failure::usage(format!("subscriptions.{name}: {text}"));
    let filter = TopicFilter::new(&settings.topics).map_err(|error| wrong(error.to_string()))?;
    let start = match settings.from {
        From::Beginning => Start::Beginning,
        From::Now => Start::Now,
    };
    let required = (!settings.contracts_required.is_empty())
        .then(|| TopicFilter::new(&settings.contracts_required))
        .transpose()
        .map_err(|error| wrong(format!("contracts_required: {error}")))?;
    let contracts = ContractSettings { on_breach: settings.contracts, required };
    let target = config::target(&settings.sink).map_err(wrong)?.into();
    let spec = SubscriptionSpec { name: name.to_owned(), filter, start };
    Ok(Subscription { spec, target, failure: settings.failure.clone(), contracts })
}

/// Waits until the store can be used. `false` when a stop was asked for first.
///
/// # Errors
/// What does not pass by itself: a missing schema, a refused login.
pub(crate) async fn wait_for(store: &dyn Store, backoff: Backoff, stop: &Stop) -> Result<bool> {
    let mut failures: u32 = 0;
    loop {
        let checked = tokio::select! {
            checked = store.check() => checked,
            () = stop.requested() => return Ok(false),
        };
        match checked {
            Ok(()) if failures == 0 => return Ok(true),
            Ok(()) => {
                tracing::info!(database = store.describe(), failures, "database is back");
                return Ok(true);
            }
            Err(error) if !error.kind().is_transient() => return Err(error.into()),
            Err(error) => {
                failures = failures.saturating_add(1);
                // One line per change of state; attempts are only worth a look when debugging.
                if failures == 1 {
                    tracing::warn!(error = %chain(&error), "database is away; waiting for it");
                } else {
                    tracing::debug!(error = %chain(&error), failures, "database is still away");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.delay(failures, rand::random())) => {}
            () = stop.requested() => return Ok(false),
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
