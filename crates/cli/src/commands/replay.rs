//! `posthaste replay` and `posthaste erase`: messages that the log still holds.

use std::time::{Duration, Instant};

use clap::Args;
use posthaste_store::{Operations, ReplayChunk, Selection};

use super::{
    dead_letters::changed,
    selection::{ChangeArgs, SelectionArgs, rate},
};
use crate::{
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    progress::{self, Progress},
    signals::Stop,
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
    /// How many at most: each is copied out of the log until it is published [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only messages behind this position: where a replay that was interrupted goes on
    #[arg(long, default_value_t = 0, value_name = "POSITION")]
    after: i64,
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
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let done = in_pieces(args, &which, &*store, out).await?;
    changed(out, "replayed", done.messages, &args.change)?;
    if done.is_all {
        return Ok(());
    }
    let message = format!(
        "interrupted: {} messages are on their way; the same command with --after {} goes on \
         behind them",
        done.messages, done.after
    );
    Err(Failure::new(Exit::Interrupted, message))
}

/// How far a replay has come.
struct Done {
    messages: u64,
    /// The position of the last message.
    after: i64,
    is_all: bool,
}

impl Done {
    /// What stands, before an error is shown.
    fn tell(&self) {
        if self.messages > 0 {
            let Self { messages, after, .. } = self;
            tracing::warn!(messages, after, "these are on their way; --after goes on behind them");
        }
    }
}

/// Replays what the log holds at the start, a bounded piece in each transaction, until all of it
/// is on its way or a signal comes.
async fn in_pieces(
    args: &ReplayArgs,
    which: &Selection,
    store: &dyn Operations,
    out: &Output,
) -> Result<Done> {
    let target = args.to.as_deref().unwrap_or(&args.subscription);
    let (request, stop, started) = (args.change.request(), Stop::listen()?, Instant::now());
    let mut chunk = ReplayChunk { after: args.after, rate: args.rate, ..ReplayChunk::default() };
    let chunk_max = chunk.limit;
    let mut progress = None;
    let mut done = Done { messages: 0, after: args.after, is_all: false };
    while !stop.is_requested() {
        let left = args.limit.map_or(u64::from(chunk_max), |limit| limit - done.messages);
        chunk.limit = chunk_max.min(u32::try_from(left).unwrap_or(chunk_max));
        chunk.starts_in = starts_in(args.rate, done.messages, started.elapsed());
        let piece = store.replay(which, target, &chunk, &request);
        let piece = match &progress {
            None => progress::wait(out, "replaying", piece).await,
            Some(_) => piece.await,
        };
        let piece = piece.inspect_err(|_| done.tell())?;
        // Its length is that of the log: nobody has counted what matches.
        let progress = progress.get_or_insert_with(|| {
            Progress::new(out, "replaying", (piece.through - args.after).max(0).cast_unsigned())
        });
        done.messages += piece.messages;
        let is_full = args.limit.is_some_and(|limit| done.messages >= limit);
        let Some(reached) = piece.reached else {
            done.is_all = true;
            break;
        };
        progress.advance((reached - done.after).cast_unsigned());
        done.after = reached;
        if is_full {
            done.is_all = true;
            break;
        }
        (chunk.after, chunk.through) = (reached, Some(piece.through));
    }
    Ok(done)
}

/// When the next piece is due, so that all pieces together keep the rate.
fn starts_in(rate: Option<f64>, messages: u64, elapsed: Duration) -> Duration {
    let due = rate.map_or(0.0, |rate| messages as f64 / rate);
    Duration::try_from_secs_f64(due).unwrap_or_default().saturating_sub(elapsed)
}

pub(crate) async fn erase(args: &EraseArgs, config: &Config, out: &mut Output) -> Result {
    let which = args.selection.selection(None, None)?;
    if which.ids.is_empty() && which.key.is_none() {
        return Err(Failure::usage("name the messages to erase, by ids or by --key"));
    }
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let request = args.change.request();
    let count = progress::wait(out, "erasing", store.erase(&which, &request)).await?;
    changed(out, "erased", count, &args.change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_at_the_rate() {
        let second = Duration::from_secs(1);
        assert_eq!(starts_in(None, 500, second), Duration::ZERO);
        assert_eq!(starts_in(Some(100.0), 500, second), 4 * second);
        assert_eq!(starts_in(Some(100.0), 500, 9 * second), Duration::ZERO);
    }
}
