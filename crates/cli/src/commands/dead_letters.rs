//! `posthaste dead-letters list|show|replay|discard`: messages out of attempts.

use clap::{Args, Subcommand};
use posthaste_core::MessageId;
use posthaste_relay::clock;
use posthaste_store::{DeadLetter, Operations, Selection};
use serde_json::{Value, json};

use super::{
    selection::{ChangeArgs, SelectionArgs, needs_condition, rate},
    tail,
};
use crate::{
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    progress, store,
};

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List dead letters, the oldest failure first
    List(ListArgs),
    /// Show one dead letter with its payload
    Show(ShowArgs),
    /// Try dead letters again, with all their attempts before them
    ///
    /// A running relay takes them up within a second. A key that waits for its dead letter goes
    /// on behind it.
    Replay(ReplayArgs),
    /// Give dead letters up; keys that wait for them go on
    Discard(DiscardArgs),
}

/// Which dead letters.
#[derive(Args, Debug)]
pub(crate) struct Which {
    #[command(flatten)]
    selection: SelectionArgs,
    /// The subscription whose sink rejected them
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// Text in the reason
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// What to list.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// How many at most
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    limit: u32,
}

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Message id
    id: MessageId,
}

/// What to try again.
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    which: Which,
    /// Every dead letter
    #[arg(long)]
    all: bool,
    /// Messages a second [default: at once]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// What to give up.
#[derive(Args, Debug)]
pub(crate) struct DiscardArgs {
    #[command(flatten)]
    which: Which,
    /// Every dead letter
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

impl Which {
    fn selection(&self) -> Result<Selection> {
        self.selection.selection(self.subscription.as_deref(), self.reason.as_deref())
    }
}

pub(crate) async fn run(command: &DeadLettersCommand, config: &Config, out: &mut Output) -> Result {
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    match command {
        DeadLettersCommand::List(args) => list(args, &*store, out).await,
        DeadLettersCommand::Show(args) => show(args, &*store, out).await,
        DeadLettersCommand::Replay(args) => {
            let which = args.which.selection()?;
            needs_condition(&which, args.all)?;
            let request = args.change.request();
            let replay = store.replay_dead_letters(&which, args.rate, &request);
            let count = progress::wait(out, "replaying", replay).await?;
            changed(out, "replayed", count, &args.change)
        }
        DeadLettersCommand::Discard(args) => {
            let which = args.which.selection()?;
            needs_condition(&which, args.all)?;
            let request = args.change.request();
            let discard = store.discard_dead_letters(&which, &request);
            let count = progress::wait(out, "discarding", discard).await?;
            changed(out, "discarded", count, &args.change)
        }
    }
}

async fn list(args: &ListArgs, store: &dyn Operations, out: &mut Output) -> Result {
    let letters = store.dead_letters(&args.which.selection()?, args.limit).await?;
    if out.is_json() {
        for letter in &letters {
            out.object(&as_json(letter))?;
        }
        return Ok(());
    }
    if letters.is_empty() {
        return Ok(out.line("No dead letter.")?);
    }
    let row = |letter: &DeadLetter| {
        vec![
            letter.message.id.to_string(),
            letter.subscription.clone(),
            letter.message.topic.clone(),
            letter.message.key.clone().unwrap_or_else(|| "-".to_owned()),
            letter.attempts.to_string(),
            clock::rfc3339(letter.failed_at),
            tail::without_controls(&letter.reason),
        ]
    };
    let header = ["ID", "SUBSCRIPTION", "TOPIC", "KEY", "ATTEMPTS", "FAILED", "REASON"];
    Ok(out.table(&header, letters.iter().map(row).collect())?)
}

async fn show(args: &ShowArgs, store: &dyn Operations, out: &mut Output) -> Result {
    let which = Selection { ids: vec![args.id], ..Selection::default() };
    let letters = store.dead_letters(&which, 100).await?;
    if letters.is_empty() {
        let message =
            format!("{} is no dead letter; `posthaste dead-letters list` shows those", args.id);
        return Err(Failure::new(Exit::Failed, message));
    }
    for letter in &letters {
        let mut whole = as_json(letter);
        let message = serde_json::to_value(tail::Line::of(&letter.message))
            .map_err(|error| Failure::caused(Exit::Failed, "cannot write the message", error))?;
        whole["message"] = message;
        if out.is_json() {
            out.object(&whole)?;
        } else {
            out.line(&format!("{whole:#}"))?;
        }
    }
    Ok(())
}

/// Says how many messages a change concerned.
pub(super) fn changed(out: &mut Output, what: &str, count: u64, change: &ChangeArgs) -> Result {
    let is_dry_run = change.is_dry_run();
    let result = json!({ what: count, "dry_run": is_dry_run });
    let would = if is_dry_run { "would be " } else { "" };
    Ok(out.result(&result, &format!("{count} {would}{what}"))?)
}

fn as_json(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.message.id,
        "subscription": letter.subscription,
        "position": letter.message.position,
        "topic": letter.message.topic,
        "key": letter.message.key,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "failed_at": clock::rfc3339(letter.failed_at),
        "holds_key": letter.holds_key,
        "payload_bytes": letter.message.payload.len(),
    })
}
