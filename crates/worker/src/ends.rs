//! What became of messages is written down, and their sources forget them then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use posthaste::{MessageId, Received};
use posthaste_core::describe;
use posthaste_store::{Ended, Outcome, StoreError, StoreErrorKind, WorkerId, failpoint};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    crew::{Counters, Crew, End, InHand},
    source::{Fate, Token},
};

/// Most ends that are written down at a time.
const BATCH: usize = 500;
/// Batches that are written down at once. There is a second one where the first takes long.
const WRITERS: usize = 4;
/// When a batch takes long.
const PATIENCE: Duration = Duration::from_millis(200);
/// Ends of a batch that are tried at once where they are tried one by one.
const FINISHES: usize = 2;
/// Between two rounds of those that somebody holds.
const PAUSE: Duration = Duration::from_millis(200);

/// One attempt of a batch: what it was for, how it ended, and whether its handler says that it has ended it.
type Attempt = (InHand, Ended, bool);

/// Writes ends down, many at a time, and has the sources forget the messages then. What takes long lets others pass:
/// a transaction that somebody has left open may hold a job.
pub(crate) async fn write_down(crew: Arc<Crew>, mut ended: mpsc::Receiver<(InHand, End)>) {
    let mut writing = FuturesUnordered::new();
    let mut open_at = Instant::now();
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        let is_open = writing.is_empty() || open_at <= Instant::now();
        tokio::select! {
            Some(()) = writing.next() => {}
            count = ended.recv_many(&mut batch, BATCH), if is_open && writing.len() < WRITERS => {
                if count == 0 {
                    break;
                }
                open_at = Instant::now() + PATIENCE;
                writing.push(write(&crew, batch));
            }
            () = sleep_until(open_at), if !is_open => {}
        }
    }
    while writing.next().await.is_some() {}
}

/// Writes a batch down. What the database does not take with the others is tried one by one: a transaction that was
/// left open may hold a job, and an end may be refused for good.
async fn write(crew: &Crew, batch: Vec<(InHand, End)>) {
    failpoint::reach("finishing", "");
    let mut left = write_together(crew, batch, false).await;
    while !left.is_empty() {
        let alone = stream::iter(left).map(|end| write_together(crew, vec![end], true));
        left = alone.buffer_unordered(FINISHES).concat().await;
        if !left.is_empty() {
            sleep(PAUSE).await;
        }
    }
}

/// Writes ends down, and answers those that are to be tried again, alone.
async fn write_together(
    crew: &Crew,
    ends: Vec<(InHand, End)>,
    is_alone: bool,
) -> Vec<(InHand, End)> {
    let mut fates: Vec<(InHand, Fate)> = Vec::with_capacity(ends.len());
    let mut attempts: BTreeMap<WorkerId, Vec<Attempt>> = BTreeMap::new();
    let (mut handled, mut settled, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for (item, end) in ends {
        let fate = match end {
            End::Attempt { worker, ended, is_settled } => {
                attempts.entry(worker).or_default().push((item, ended, is_settled));
                continue;
            }
            End::Handled => {
                handled.push(item.message.id);
                Fate::Done
            }
            End::Settled => {
                settled.push(item.message.id);
                Fate::Done
            }
            End::Fate(fate) => fate,
        };
        fates.push((item, fate));
    }
    for (worker, attempts) in attempts {
        match finish(crew, worker, attempts, is_alone).await {
            Ok(items) => fates.extend(items.into_iter().map(|item| (item, Fate::Done))),
            Err(attempts) => left.extend(attempts.into_iter().map(|(item, ended, is_settled)| {
                (item, End::Attempt { worker, ended, is_settled })
            })),
        }
    }
    record(crew, &handled).await;
    let uncommitted = uncommitted(crew, &settled).await;
    for (item, fate) in &mut fates {
        if uncommitted.contains(&item.message.id) {
            tracing::error!(
                message_id = %item.message.id,
                correlation_id = item.message.correlation_id,
                "its handler did not commit"
            );
            *fate = Fate::GiveBack;
        }
    }
    failpoint::reach("finished", "");
    let mut by_source: Vec<Vec<(Token, Fate)>> = vec![Vec::new(); crew.sources.len()];
    for (item, fate) in &fates {
        by_source[item.source].push((item.token.clone(), fate.clone()));
    }
    for (source, settled) in by_source.into_iter().enumerate() {
        if !settled.is_empty() {
            crew.settle(source, &settled).await;
        }
    }
    failpoint::reach("acknowledged", "");
    for (item, _) in fates {
        leave(crew, item);
    }
    left
}

/// What is over makes room, and lets the next of its key go on.
fn leave(crew: &Crew, item: InHand) {
    Crew::lock(&crew.in_hand).remove(&item.identity());
    let key = item.message.key.clone().filter(|_| item.has_turn);
    drop(item);
    if let Some(next) = Crew::lock(&crew.lanes).leave(key.as_deref()) {
        crew.pass_begin(next);
    }
}

/// Ends attempts of one worker, and answers whose they were; or gives them back, where the database does not take them
/// together, or somebody holds the one that is tried alone.
async fn finish(
    crew: &Crew,
    worker: WorkerId,
    attempts: Vec<Attempt>,
    is_alone: bool,
) -> Result<Vec<InHand>, Vec<Attempt>> {
    let mut items = Vec::with_capacity(attempts.len());
    let mut ended = Vec::with_capacity(attempts.len());
    for (item, end, is_settled) in attempts {
        items.push((item, is_settled));
        ended.push(end);
    }
    let mut answer = end(crew, worker, &ended).await;
    if let Err(error) = &answer
        && is_alone
        && !error.kind().is_transient()
    {
        for ended in &mut ended {
            ended.outcome = Outcome::Dead;
            ended.reason = Some(format!("its end was refused: {}", describe(error)));
            ended.receipt = None;
        }
        answer = end(crew, worker, &ended).await;
    }
    match answer {
        Err(error) if !is_alone || is_held(error.kind()) => {
            if !is_alone {
                tracing::warn!("finish jobs: {}; now one by one", describe(&error));
            }
            let again = items.into_iter().zip(ended);
            Err(again.map(|((item, is_settled), ended)| (item, ended, is_settled)).collect())
        }
        answer => {
            let held = answer.unwrap_or_default().into_iter().chain(std::iter::repeat(false));
            for ((ended, (item, is_settled)), is_held) in ended.iter().zip(&items).zip(held) {
                count(crew, item, ended, *is_settled, is_held);
            }
            Ok(items.into_iter().map(|(item, _)| item).collect())
        }
    }
}

/// Until the database takes the ends, refuses them for good, or somebody holds one.
async fn end(crew: &Crew, worker: WorkerId, ended: &[Ended]) -> Result<Vec<bool>, StoreError> {
    let passes = |kind: StoreErrorKind| kind.is_transient() && !is_held(kind);
    crew.insist_while(passes, "finish jobs", || crew.store.finish_jobs(worker, ended)).await
}

/// What takes too long may do so for one of several jobs.
fn is_held(kind: StoreErrorKind) -> bool {
    matches!(kind, StoreErrorKind::Held | StoreErrorKind::Timeout)
}

/// Counts and tells of an end. An answer that was lost counts it twice at most: counts are for people.
fn count(crew: &Crew, item: &InHand, ended: &Ended, is_settled: bool, is_held: bool) {
    let counter = match ended.outcome {
        _ if !is_held && is_settled => &crew.counts.completed,
        _ if !is_held => &crew.counts.lost,
        Outcome::Completed => &crew.counts.completed,
        Outcome::Retry(_) | Outcome::Lost => &crew.counts.failed,
        Outcome::Dead => &crew.counts.dead,
        Outcome::Snooze(_) | Outcome::Cancelled => return,
    };
    Counters::add(counter, 1);
    if is_held {
        told(&item.message, ended);
    }
}

fn told(message: &Received, Ended { job, attempt, outcome, reason, .. }: &Ended) {
    let Some(reason) = reason else { return };
    let (id, correlation_id) = (message.id, &message.correlation_id);
    // One macro call per level: a level is part of a call site.
    match outcome {
        Outcome::Dead => tracing::error!(
            %job, message_id = %id, correlation_id, attempt, "the job is dead: {reason}"
        ),
        Outcome::Retry(wait) => tracing::warn!(
            %job, message_id = %id, correlation_id, attempt, ?wait, "to be tried again: {reason}"
        ),
        _ => tracing::info!(
            %job, message_id = %id, correlation_id, attempt, outcome = outcome.as_str(), "{reason}"
        ),
    }
}

async fn record(crew: &Crew, handled: &[MessageId]) {
    if handled.is_empty() {
        return;
    }
    let consumer = &crew.settings.consumer;
    let doing = "record handled messages";
    match crew.insist(doing, || crew.store.record_handled(consumer, handled)).await {
        Ok(()) => Counters::add(&crew.counts.completed, handled.len()),
        Err(error) => tracing::error!("{doing}: {}", describe(&error)),
    }
}

/// Those of which the inbox knows nothing.
async fn uncommitted(crew: &Crew, settled: &[MessageId]) -> Vec<MessageId> {
    if settled.is_empty() {
        return Vec::new();
    }
    let consumer = &crew.settings.consumer;
    match crew.insist("look into the inbox", || crew.store.handled(consumer, settled)).await {
        Ok(known) => {
            Counters::add(&crew.counts.completed, known.len());
            settled.iter().filter(|id| !known.contains(id)).copied().collect()
        }
        // They come again, and are found then.
        Err(_) => settled.to_vec(),
    }
}
