//! `posthaste replay` and `posthaste erase`: messages that the log still holds.

use clap::Args;

use super::{
    dead_letters::changed,
    selection::{ChangeArgs, SelectionArgs, rate},
};
use crate::{
    config::Config,
    failure::{Failure, Result},
    output::Output,
    store,
};

/// What to publish again.
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// The subscription that published them
    #[arg(long, value_name = "NAME")]
    subscription: String,
    /// The subscription that publishes them again [default: the same]
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// Messages a second [default: at once]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,
    /// How many at most: each is copied out of the log until it is published
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    limit: u32,
    #[command(flatten)]
    change: ChangeArgs,
}

/// What to erase.
#[derive(Args, Debug)]
pub(crate) struct EraseArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(crate) async fn run(args: &ReplayArgs, config: &Config, out: &mut Output) -> Result {
    let which = args.selection.selection(Some(&args.subscription), None)?;
    let target = args.to.as_deref().unwrap_or(&args.subscription);
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let request = args.change.request();
    let count = store.replay(&which, target, args.rate, args.limit, &request).await?;
    changed(out, "replayed", count, &args.change)
}

pub(crate) async fn erase(args: &EraseArgs, config: &Config, out: &mut Output) -> Result {
    let which = args.selection.selection(None, None)?;
    if which.ids.is_empty() && which.key.is_none() {
        return Err(Failure::usage("name the messages to erase, by ids or by --key"));
    }
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let count = store.erase(&which, &args.change.request()).await?;
    changed(out, "erased", count, &args.change)
}
