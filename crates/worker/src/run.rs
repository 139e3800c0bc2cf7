//! One task: its handler runs, within its limits, and what became of it goes on to be written down.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use posthaste::Attempt;
use posthaste_core::contract::Breach;
use posthaste_store::{Ended, Outcome, WorkerId};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::Instrument as _;

use crate::{
    checks::said,
    crew::{Counters, Crew, End, InHand, Running},
    handler::{Answer, Done, Failed, Shared, Task},
    source::Fate,
    traces::AttemptSpan,
};

/// Between the word to stop and the end of a handler.
const GRACE: Duration = Duration::from_secs(1);

/// Runs an attempt at a job.
pub(crate) fn job(
    crew: &Arc<Crew>,
    item: InHand,
    worker: WorkerId,
    attempt: u32,
    attempts_max: Option<u32>,
) {
    let Some(job) = item.job else { return };
    let (cancel, cancelled) = watch::channel(false);
    let task = Task {
        message: Arc::clone(&item.message),
        attempt: Some(Attempt { worker, job, number: attempt }),
        number: attempt,
        shared: shared(crew),
        cancelled,
        span: None,
    };
    let shared = Arc::clone(&task.shared);
    let running = Running { worker, attempt, cancel, shared: Arc::clone(&shared) };
    Crew::lock(&crew.running).insert(job, running);
    let team = Arc::clone(crew);
    crew.spawn(async move {
        let crew = team;
        let answer = attempt_at(&crew, task).await;
        Crew::lock(&crew.running).remove(&job);
        let is_settled = shared.is_settled.load(Ordering::Relaxed) && matches!(answer, Some(Ok(_)));
        let (outcome, reason, receipt) = match answer {
            Some(Ok(_)) if is_settled => (
                Outcome::Retry(Duration::ZERO),
                Some("its handler did not commit".to_owned()),
                None,
            ),
            Some(Ok(Done { receipt })) => (Outcome::Completed, None, receipt),
            Some(Err(failed)) => {
                let policy = crew.settings.retry_of(&failed.class);
                let outcome = policy.judge(failed.failure, attempt, attempts_max, rand::random());
                (outcome, Some(failed.reason), None)
            }
            // The worker ends: it hands back what it has.
            None => (Outcome::Lost, Some("its worker ended".to_owned()), None),
        };
        let ended = Ended { job, attempt, outcome, reason, receipt };
        crew.pass_finish(item, End::Attempt { worker, ended, is_settled });
    });
}

/// Handles a message that is no job, as often as its policy allows.
pub(crate) fn plain(crew: &Arc<Crew>, item: InHand) {
    let team = Arc::clone(crew);
    crew.spawn(async move {
        let crew = team;
        let end = handle(&crew, &item).await;
        crew.pass_finish(item, end);
    });
}

async fn handle(crew: &Arc<Crew>, item: &InHand) -> End {
    // Cancelled by nobody; the worker's end is seen beside it.
    let (_cancel, cancelled) = watch::channel(false);
    let mut attempt = 1;
    loop {
        let task = Task {
            message: Arc::clone(&item.message),
            attempt: None,
            number: attempt,
            shared: shared(crew),
            cancelled: cancelled.clone(),
            span: None,
        };
        let shared = Arc::clone(&task.shared);
        let failed = match attempt_at(crew, task).await {
            None => return End::Fate(Fate::GiveBack),
            Some(Ok(_)) if shared.is_settled.load(Ordering::Relaxed) => return End::Settled,
            Some(Ok(_)) => return End::Handled,
            Some(Err(failed)) => failed,
        };
        let policy = crew.settings.retry_of(&failed.class);
        let wait = match policy.judge(failed.failure, attempt, None, rand::random()) {
            Outcome::Retry(wait) => {
                attempt += 1;
                Counters::add(&crew.counts.failed, 1);
                wait
            }
            Outcome::Snooze(wait) => wait,
            _ => {
                tracing::error!(
                    message_id = %item.message.id,
                    correlation_id = item.message.correlation_id,
                    topic = item.message.topic,
                    attempt,
                    "to the dead letters: {}",
                    failed.reason
                );
                return End::Fate(Fate::Bury { reason: failed.reason });
            }
        };
        let mut stopping = crew.stopping.subscribe();
        tokio::select! {
            biased;
            () = raised(&mut stopping) => return End::Fate(Fate::GiveBack),
            () = sleep(wait) => {}
        }
    }
}

fn shared(crew: &Crew) -> Arc<Shared> {
    Arc::new(Shared {
        jobs: crew.jobs.clone(),
        inbox: crew.inbox.clone(),
        is_settled: AtomicBool::new(false),
        progress: Mutex::new(None),
    })
}

/// One attempt, with its spans in log and trace; `None` when the worker ends before it does.
async fn attempt_at(crew: &Crew, mut task: Task) -> Option<Answer> {
    let worker = &crew.settings.name;
    let traced = AttemptSpan::begin(crew.tracer.as_ref(), worker, &task);
    task.span = traced.as_ref().map(AttemptSpan::begun);
    let message = &task.message;
    // Of the highest level, or lines of a stricter filter would be without it.
    let span = tracing::error_span!(
        "attempt",
        worker,
        topic = message.topic,
        message_id = %message.id,
        job = task.job().map(tracing::field::display),
        correlation_id = message.correlation_id,
        attempt = task.number,
    );
    let answer = async {
        let answer = answer(crew, task).await;
        match &answer {
            Some(Ok(_)) => tracing::debug!("done"),
            Some(Err(failed)) => tracing::debug!(class = &*failed.class, "not done"),
            None => tracing::debug!("given up: the worker ends"),
        }
        answer
    };
    let answer = answer.instrument(span).await;
    if let Some(traced) = traced {
        traced.answered(answer.as_ref());
    }
    answer
}

/// What the handler answers; `None` when the worker ends before it does.
async fn answer(crew: &Crew, task: Task) -> Option<Answer> {
    let message = &task.message;
    let contracts = crew.contracts.as_ref().map(|known| Arc::clone(&known.borrow()));
    if let Some(contracts) = contracts
        && let Err(breach) = message.check(&contracts)
    {
        let failed = match breach {
            // Its contract may be deployed yet.
            Breach::UnknownVersion { .. } | Breach::UnknownTopic { .. } => Failed::retry,
            _ => Failed::reject,
        };
        return Some(Err(failed(breach.to_string()).class("contract")));
    }
    let Some(handler) = crew.handlers.get(&message.topic) else {
        let reason = format!("no handler for the topic {:?}", message.topic);
        return Some(Err(Failed::retry(reason).class("no-handler")));
    };
    let limit = crew.settings.timeout;
    crew.checks.look(&task.message, limit, "before its handler", &crew.counts).await;
    let mut cancelled = task.cancelled.clone();
    let mut stopping = crew.stopping.subscribe();
    let run = AssertUnwindSafe(handler.run(task)).catch_unwind();
    tokio::pin!(run);
    let answered = |answered: std::thread::Result<Answer>| match answered {
        Ok(answer) => answer,
        Err(panic) => Err(Failed::panicked(said(&*panic))),
    };
    tokio::select! {
        biased;
        answer = timeout(limit, &mut run) => {
            return Some(answer.map_or_else(|_| Err(Failed::timed_out(limit)), answered));
        }
        () = raised(&mut stopping) => return timeout(GRACE, run).await.ok().map(answered),
        () = raised(&mut cancelled) => {}
    }
    // It is told, and may still be done.
    let answer = timeout(GRACE, run).await;
    Some(answer.map_or_else(|_| Err(Failed::cancelled()), answered))
}

/// Returns once the flag is up.
async fn raised(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|is_up| *is_up).await.is_err() {
        std::future::pending::<()>().await;
    }
}
