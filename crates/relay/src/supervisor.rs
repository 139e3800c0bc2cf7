//! Keeps one subscription's pipeline running: after a back-off when the database was away, after
//! a delay when it panicked.

use std::sync::Arc;

use posthaste_core::Backoff;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    jitter::jitter,
    leases::wait_for_turn,
    monitor::State,
    pipeline::{Outcome, Pipeline},
    policy::{self, Directive, describe},
};

/// Runs a pipeline again and again; returns the state it ended in.
pub(crate) async fn supervise(pipeline: Pipeline) -> State {
    let (gauge, source) = (Arc::clone(&pipeline.gauge), Arc::clone(&pipeline.source));
    let mut draining = pipeline.draining.clone();
    let backoff: Backoff = pipeline.settings.retry.into();
    let mut word = pipeline.word.clone();
    let (mut failures, mut waits) = (0, true);
    loop {
        if waits && !wait_for_turn(&mut word, &mut draining).await {
            if gauge.state() != State::Standby {
                gauge.enter(State::Drained);
            }
            return State::Drained;
        }
        waits = false;
        let began = Instant::now();
        // A task of its own, so that a panic ends this run and nothing else.
        let mut task = JoinSet::new();
        task.spawn(pipeline.clone().run());
        let pause = match task.join_next().await {
            Some(Ok(Outcome::Done)) => {
                gauge.enter(State::Drained);
                return State::Drained;
            }
            Some(Ok(Outcome::Paused)) => {
                gauge.enter(State::Paused);
                return State::Paused;
            }
            Some(Ok(Outcome::Lost)) => {
                gauge.standby(word.borrow().holder.as_deref());
                // What was said before tells of the lease that is lost.
                word.mark_unchanged();
                waits = true;
                continue;
            }
            Some(Ok(Outcome::Sink(error))) => {
                gauge.stopped(State::Stopped, describe(&error));
                return State::Stopped;
            }
            Some(Ok(Outcome::Elsewhere)) => {
                tracing::info!(
                    subscription = gauge.name(),
                    "a connection broke with a batch on its way: going on where the sink stands"
                );
                failures = if began.elapsed() > backoff.cap { 0 } else { failures + 1 };
                backoff.delay(failures, jitter()).min(backoff.initial)
            }
            Some(Ok(Outcome::Store(error))) => {
                source.failed(error.kind());
                if policy::after_store_error(error.kind()) == Directive::Stop {
                    gauge.stopped(State::Stopped, describe(&error));
                    return State::Stopped;
                }
                gauge.setback(State::BackingOff, describe(&error));
                // A run that lasted longer than any back-off was healthy: begin with short waits.
                failures = if began.elapsed() > backoff.cap { 1 } else { failures + 1 };
                backoff.delay(failures, jitter())
            }
            Some(Err(panic)) => {
                gauge.panicked();
                gauge.setback(State::BackingOff, format!("the pipeline panicked: {panic}"));
                pipeline.settings.restart_delay
            }
            None => return State::Stopped,
        };
        if draining.sleep(pause).await {
            gauge.enter(State::Drained);
            return State::Drained;
        }
    }
}
