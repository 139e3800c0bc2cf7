//! `posthaste subscriptions list|show|pause|resume|rewind|rebase|remove`.

use std::{fmt::Write as _, time::Duration};

use clap::{Args, Subcommand};
use posthaste_core::Timestamp;
use posthaste_store::{
    Operations, Rebased, Request, RewindTo, SubscriptionStatus, rewind_handed_over,
};
use serde_json::json;

use super::{
    selection::{ChangeArgs, time},
    status::{as_json_of, lag, place, state},
};
use crate::{
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    progress, store,
};

/// How long to wait for a relay to hand a subscription over.
const HANDOVER_MAX: Duration = Duration::from_mins(1);

/// What to do with subscriptions.
#[derive(Debug, Subcommand)]
pub(crate) enum SubscriptionsCommand {
    /// List the subscriptions of the database, those without a configuration too
    List,
    /// Show one subscription
    Show(Name),
    /// Publish nothing more until it is resumed; a running relay stops within ten seconds
    Pause(ChangeOf),
    /// Let a paused subscription go on
    Resume(ChangeOf),
    /// Move a subscription's place back, so that it publishes again what lies behind it
    ///
    /// A running relay finishes what it has in hand, hands it over for that, and goes on by itself.
    Rewind(RewindArgs),
    /// Go on with a log that was restored, copied or exchanged
    ///
    /// What the log says is settled stays settled, all else is published. So what was published
    /// after the backup was taken is published again if the log holds it, and stays in the sink if
    /// it does not. The relay has to be stopped first; --dry-run counts.
    Rebase(RemoveArgs),
    /// Remove a subscription with its place, its parked messages and its dead letters
    ///
    /// Its relay has to be stopped first; a relay that is configured for it creates it anew. One
    /// that is still held by a relay that was killed needs --force.
    Remove(RemoveArgs),
}

/// Which subscription.
#[derive(Args, Debug)]
pub(crate) struct Name {
    /// Name of the subscription
    name: String,
}

/// Which subscription, and how.
#[derive(Args, Debug)]
pub(crate) struct ChangeOf {
    /// Name of the subscription
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Which subscription, and whether whatever holds it matters.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Name of the subscription
    name: String,
    /// Also while a relay is named as its holder, as one that was killed is for ever
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Where to.
#[derive(Args, Debug)]
pub(crate) struct RewindArgs {
    /// Name of the subscription
    name: String,
    /// To the oldest message that the log holds, or before a time: RFC 3339, or how long ago
    #[arg(long, value_name = "beginning|TIME", value_parser = rewind_to)]
    to: RewindTo,
    #[command(flatten)]
    change: ChangeArgs,
}

fn rewind_to(text: &str) -> Result<RewindTo, String> {
    if text == "beginning" {
        return Ok(RewindTo::Beginning);
    }
    time(text).map(|Timestamp(at)| RewindTo::Time(Timestamp(at)))
}

pub(crate) async fn run(
    command: &SubscriptionsCommand,
    config: &Config,
    out: &mut Output,
) -> Result {
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    match command {
        SubscriptionsCommand::List => list(config, &*store, out).await,
        SubscriptionsCommand::Show(args) => show(&args.name, config, &*store, out).await,
        SubscriptionsCommand::Pause(args) => {
            store.pause(&args.name, true, &args.change.request()).await?;
            done(out, &args.name, "paused", &args.change)
        }
        SubscriptionsCommand::Resume(args) => {
            store.pause(&args.name, false, &args.change.request()).await?;
            done(out, &args.name, "resumed", &args.change)
        }
        SubscriptionsCommand::Rewind(args) => {
            let request = args.change.request();
            let rewind = rewind_handed_over(&*store, &args.name, args.to, &request, HANDOVER_MAX);
            let rewound = progress::wait(out, "rewinding", rewind).await?;
            let is_dry_run = args.change.is_dry_run();
            let result = json!({
                "subscription": args.name,
                "tick": rewound.place.base.n,
                "messages": rewound.messages,
                "dry_run": is_dry_run,
            });
            let will = if is_dry_run { "would be" } else { "will be" };
            let at = place(&rewound.place);
            let messages = match rewound.messages {
                Some(messages) => messages.to_string(),
                None => "many".to_owned(),
            };
            let text = if rewound.is_moved {
                format!("{} {will} at {at}; {messages} messages {will} published again", args.name)
            } else {
                format!("{} stands no further than that: it stays at {at}", args.name)
            };
            Ok(out.result(&result, &text)?)
        }
        SubscriptionsCommand::Rebase(args) => {
            let request = Request { is_forced: args.force, ..args.change.request() };
            let rebased = progress::wait(out, "rebasing", store.rebase(&args.name, &request));
            told(out, args, &rebased.await?)
        }
        SubscriptionsCommand::Remove(args) => {
            let request = Request { is_forced: args.force, ..args.change.request() };
            progress::wait(out, "removing", store.remove(&args.name, &request)).await?;
            done(out, &args.name, "removed", &args.change)
        }
    }
}

async fn list(config: &Config, store: &dyn Operations, out: &mut Output) -> Result {
    let subscriptions = store.status().await?.subscriptions;
    if out.is_json() {
        for subscription in &subscriptions {
            out.object(&as_json_of(subscription, config))?;
        }
        return Ok(());
    }
    if subscriptions.is_empty() {
        return Ok(out.line("No subscription yet: `posthaste relay` creates those configured.")?);
    }
    let row = |it: &SubscriptionStatus| {
        vec![
            it.name.clone(),
            state(it, config).to_owned(),
            it.filter.to_string(),
            it.backlog.to_string(),
            lag(it.lag_micros),
            it.parked_keys.to_string(),
            it.parked_messages.to_string(),
            it.dead_letters.to_string(),
            it.holder.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let header = [
        "SUBSCRIPTION",
        "STATE",
        "TOPICS",
        "BACKLOG",
        "LAG",
        "PARKED KEYS",
        "PARKED",
        "DEAD",
        "HOLDER",
    ];
    Ok(out.table(&header, subscriptions.iter().map(row).collect())?)
}

async fn show(name: &str, config: &Config, store: &dyn Operations, out: &mut Output) -> Result {
    let subscriptions = store.status().await?.subscriptions;
    let Some(found) = subscriptions.iter().find(|it| it.name == name) else {
        let message = format!(
            "the subscription {name:?} does not exist; `posthaste subscriptions list` shows those \
             that do"
        );
        return Err(Failure::new(Exit::Failed, message));
    };
    let aside = store.aside(name).await?;
    let mut whole = as_json_of(found, config);
    let key = |it: &posthaste_store::ParkedKey| {
        json!({
            "key": it.key,
            "attempts": it.attempts,
            "reason": it.reason,
            "retry_in_ms": it.retry_in.map(|wait| wait.as_millis() as u64),
            "parked_for_ms": it.parked_for.as_millis() as u64,
        })
    };
    whole["keys"] = aside.keys.iter().map(key).collect();
    if out.is_json() {
        return Ok(out.object(&whole)?);
    }
    Ok(out.line(&format!("{whole:#}"))?)
}

fn told(out: &mut Output, args: &RemoveArgs, rebased: &Rebased) -> Result {
    let Rebased { pending, was_copied, rewritten, .. } = *rebased;
    let is_dry_run = args.change.is_dry_run();
    let result = json!({
        "subscription": args.name,
        "tick": rebased.place.base.n,
        "messages": pending,
        "copied": was_copied,
        "rewritten": rewritten,
        "dry_run": is_dry_run,
    });
    let would = if is_dry_run { "would go" } else { "goes" };
    let mut text = format!(
        "{} {would} on at {}. {pending} messages of the log are not settled and are published: what \
         the sink has of them comes again. What it has from after the backup is not in this log.",
        args.name,
        place(&rebased.place)
    );
    if was_copied {
        let _ = write!(
            text,
            " The log was copied from another database: {rewritten} rows get transaction ids of \
             this one, and every other subscription has to be rebased as well."
        );
    }
    Ok(out.result(&result, &text)?)
}

fn done(out: &mut Output, name: &str, what: &str, change: &ChangeArgs) -> Result {
    let is_dry_run = change.is_dry_run();
    let result = json!({ "subscription": name, "change": what, "dry_run": is_dry_run });
    let would = if is_dry_run { "would be " } else { "" };
    Ok(out.result(&result, &format!("{name} {would}{what}"))?)
}
