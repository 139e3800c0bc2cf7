//! From a source to a handler: messages are taken, looked at, and begun.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use posthaste::MessageId;
use posthaste_core::{describe, job::JOB_HEADER};
use posthaste_store::{
    Begun, Handed, JobId, StoreError, StoreErrorKind, WorkerId, defect, failpoint,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    crew::{Counters, Crew, End, InHand},
    run,
    source::{Delivery, Fate},
};

/// Longest wait of one call for the first message.
const WAIT: Duration = Duration::from_secs(1);
/// After a source that did not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// Most messages of one call.
const TAKE_MAX: usize = 500;
/// Jobs of one key that wait here. All further ones the database has wait, which publishes them again when their
/// turn comes: one key must not fill the worker.
const LANE_MAX: usize = 8;
/// Jobs that are begun one by one at a time.
const BEGINS: usize = 2;
/// Between two looks for a job that is not visible yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Takes messages of one source until the drain.
pub(crate) async fn take(crew: Arc<Crew>, source: usize) {
    let mut draining = crew.draining.subscribe();
    let mut is_away = false;
    loop {
        let first = tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => return,
            permit = Arc::clone(&crew.permits).acquire_owned() => permit,
        };
        let Ok(first) = first else { return };
        let mut permits = vec![first];
        while permits.len() < TAKE_MAX
            && let Ok(permit) = Arc::clone(&crew.permits).try_acquire_owned()
        {
            permits.push(permit);
        }
        // Other sources share the permits.
        permits.truncate(permits.len().div_ceil(crew.sources.len()));
        match crew.sources[source].take(permits.len(), WAIT).await {
            Ok(taken) => {
                is_away = false;
                crew.health.source_answers(crew.sources[source].describe());
                if !taken.is_empty() {
                    failpoint::reach("taken", "");
                }
                crew.empty[source].store(taken.is_empty(), Ordering::Relaxed);
                admit(&crew, source, taken, permits).await;
            }
            Err(error) => {
                let error = describe(&error);
                if !std::mem::replace(&mut is_away, true) {
                    tracing::warn!("{error}; tried again");
                }
                crew.health.source_is_away(crew.sources[source].describe(), error);
                crew.empty[source].store(false, Ordering::Relaxed);
                drop(permits);
                sleep(PAUSE).await;
            }
        }
    }
}

/// Buries what is no message, and sends the others on in the order of their keys.
async fn admit(
    crew: &Arc<Crew>,
    source: usize,
    taken: Vec<Delivery>,
    permits: Vec<OwnedSemaphorePermit>,
) {
    Counters::add(&crew.counts.taken, taken.len());
    let mut settled = Vec::new();
    for (delivery, permit) in taken.into_iter().zip(permits) {
        let token = delivery.token;
        let message = match delivery.message {
            Ok(message) => message,
            Err(error) => {
                let reason = format!("unreadable: {}", describe(&error));
                tracing::error!(source = crew.sources[source].describe(), "{reason}");
                settled.push((token, Fate::Bury { reason }));
                continue;
            }
        };
        let job = match message.header(JOB_HEADER).map(str::parse::<JobId>) {
            None => None,
            Some(Ok(job)) => Some(job),
            Some(Err(_)) => {
                let reason = format!("the header {JOB_HEADER} names no job");
                settled.push((token, Fate::Bury { reason }));
                continue;
            }
        };
        let message = Arc::new(message);
        let mut item = InHand {
            source,
            token,
            message,
            job,
            has_turn: true,
            unseen_since: None,
            _permit: permit,
        };
        if !Crew::lock(&crew.in_hand).insert(item.identity()) {
            // Its first delivery is in hand, or waits for its turn.
            Counters::add(&crew.counts.repeats, 1);
            settled.push((item.token, Fate::Done));
            continue;
        }
        if defect::is("ack-before-commit") {
            settled.push((item.token.clone(), Fate::Done));
        }
        let key = item.message.key.clone();
        let mut lanes = Crew::lock(&crew.lanes);
        if job.is_some() && lanes.waiting(key.as_deref()) >= LANE_MAX {
            item.has_turn = false;
            crew.pass_begin(item);
        } else if let Some(item) = lanes.enter(key.as_deref(), item) {
            crew.pass_begin(item);
        }
    }
    if !settled.is_empty() {
        crew.settle(source, &settled).await;
    }
}

/// Begins what was admitted, many at a time, until the last sender is gone.
pub(crate) async fn begin(crew: Arc<Crew>, mut admitted: mpsc::Receiver<InHand>) {
    let mut batch = Vec::with_capacity(TAKE_MAX);
    let mut free_at = Instant::now();
    loop {
        let limit =
            crew.settings.rate.map_or(TAKE_MAX, |rate| (rate.ceil() as usize).clamp(1, TAKE_MAX));
        if admitted.recv_many(&mut batch, limit).await == 0 {
            return;
        }
        if let Some(rate) = crew.settings.rate {
            sleep_until(free_at).await;
            free_at = Instant::now() + Duration::from_secs_f64(batch.len() as f64 / rate);
        }
        let (jobs, plain) = batch.drain(..).partition::<Vec<_>, _>(|item| item.job.is_some());
        tokio::join!(begin_jobs(&crew, jobs), begin_plain(&crew, plain));
    }
}

async fn begin_jobs(crew: &Arc<Crew>, items: Vec<InHand>) {
    // What its contract will refuse is begun all the same, so that its end is an attempt's.
    let handed: Vec<Handed> = items
        .iter()
        .filter_map(|item| item.job.map(|job| Handed { job, message: item.message.id }))
        .collect();
    if handed.is_empty() {
        return;
    }
    match try_begin(crew, &handed, |kind| kind != StoreErrorKind::Held).await {
        Ok((worker, begun)) => go_on(crew, worker, items.into_iter().zip(begun)),
        // Some transaction holds one of them: it waits alone, and nobody for it.
        Err(error) => {
            tracing::warn!("begin jobs: {}; now one by one", describe(&error));
            crew.spawn(begin_one_by_one(Arc::clone(crew), items, handed));
        }
    }
}

async fn begin_one_by_one(crew: Arc<Crew>, items: Vec<InHand>, handed: Vec<Handed>) {
    let crew = &crew;
    let begin = |(item, handed)| async move {
        match try_begin(crew, &[handed], |kind| kind != StoreErrorKind::Held).await {
            Ok((worker, begun)) => {
                go_on(crew, worker, std::iter::once(item).zip(begun));
                None
            }
            Err(_) => Some((item, handed)),
        }
    };
    let mut left: Vec<_> = items.into_iter().zip(handed).collect();
    while !left.is_empty() {
        let alone = stream::iter(left).map(begin).buffer_unordered(BEGINS);
        left = alone.filter_map(std::future::ready).collect().await;
        if !left.is_empty() {
            sleep(PAUSE).await;
        }
    }
}

/// Begins jobs, until the database answers or the refusal is one that does not pass.
async fn try_begin(
    crew: &Crew,
    handed: &[Handed],
    passes: impl Fn(StoreErrorKind) -> bool,
) -> Result<(WorkerId, Vec<Begun>), StoreError> {
    // Each try asks for the id: a worker whose lease has run out has another one afterwards.
    let begin = async || {
        let worker = crew.worker().await.unwrap_or_default();
        let begun = crew.store.begin_jobs(worker, handed).await;
        if begun.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::Conflict) {
            crew.doubted.notify_one();
        }
        begun.map(|begun| (worker, begun))
    };
    loop {
        let passes = |kind: StoreErrorKind| kind.is_transient() && passes(kind);
        match crew.insist_while(passes, "begin jobs", &begin).await {
            Err(error) if !error.kind().is_transient() => {
                tracing::error!("begin jobs: {}", describe(&error));
                sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

fn go_on(crew: &Arc<Crew>, worker: WorkerId, begun: impl Iterator<Item = (InHand, Begun)>) {
    failpoint::reach("begun", "");
    for (item, begun) in begun {
        match begun {
            Begun::Run { attempt, attempts_max } => {
                run::job(crew, item, worker, attempt, attempts_max);
            }
            Begun::Unknown => look_again(crew, item),
            Begun::Over | Begun::Running | Begun::Stale | Begun::Blocked => {
                Counters::add(&crew.counts.repeats, 1);
                crew.pass_finish(item, End::Fate(Fate::Done));
            }
        }
    }
}

/// R34: the message is faster than a database that follows another. A job that never shows up is of another
/// database, or was forgotten.
fn look_again(crew: &Arc<Crew>, mut item: InHand) {
    let since = *item.unseen_since.get_or_insert_with(Instant::now);
    if since.elapsed() > crew.settings.visible_within {
        let reason = format!(
            "the job {} is not in the worker's database: it was forgotten, or is of another one",
            item.job.unwrap_or_default()
        );
        tracing::error!(
            message_id = %item.message.id,
            correlation_id = item.message.correlation_id,
            "{reason}"
        );
        crew.pass_finish(item, End::Fate(Fate::Bury { reason }));
        return;
    }
    let again = Arc::clone(crew);
    crew.spawn(async move {
        sleep(LOOK_INTERVAL).await;
        again.pass_begin(item);
    });
}

async fn begin_plain(crew: &Arc<Crew>, items: Vec<InHand>) {
    if items.is_empty() {
        return;
    }
    let ids: Vec<MessageId> = items.iter().map(|item| item.message.id).collect();
    let consumer = &crew.settings.consumer;
    let known = loop {
        match crew.insist("look into the inbox", || crew.store.handled(consumer, &ids)).await {
            Ok(known) => break known,
            Err(error) => {
                tracing::error!("look into the inbox: {}", describe(&error));
                sleep(PAUSE).await;
            }
        }
    };
    for item in items {
        if known.contains(&item.message.id) && !defect::is("ignored-inbox") {
            Counters::add(&crew.counts.repeats, 1);
            crew.pass_finish(item, End::Fate(Fate::Done));
        } else {
            run::plain(crew, item);
        }
    }
}
