//! The worker's registration: renewed while it lives, and what it learns by that.

use std::sync::Arc;

use posthaste_core::describe;
use posthaste_store::{JobId, StoreError, WorkerId, WorkerSpec, failpoint};
use tokio::time::{Instant, sleep, timeout};

use crate::crew::Crew;

/// Renewals in the time of a lease.
const RENEWALS: u32 = 3;

/// Registers the worker, and again whenever its lease has run out; renews it until the task is ended.
pub(crate) async fn keep(crew: Arc<Crew>) {
    let lease = crew.settings.lease;
    let interval = lease / RENEWALS;
    let mut is_away = false;
    loop {
        let began = Instant::now();
        let worker = *crew.registered.borrow();
        let renewed = timeout(lease, async {
            match worker {
                Some(worker) => renew(&crew, worker).await,
                None => register(&crew).await,
            }
        });
        match renewed.await {
            Ok(Ok(())) => is_away = false,
            Ok(Err(error)) if !std::mem::replace(&mut is_away, true) => {
                tracing::warn!("renew the worker: {}; tried again", describe(&error));
            }
            Ok(Err(_)) => {}
            Err(_elapsed) => is_away = true,
        }
        crew.health.set_registered(crew.registered.borrow().is_some() && !is_away);
        tokio::select! {
            () = sleep(interval.saturating_sub(began.elapsed())) => {}
            () = crew.doubted.notified() => {}
        }
    }
}

/// Says to a source that the worker is alive, until the task is ended: beside the renewal, which may wait for a
/// database that is away.
pub(crate) async fn beat(crew: Arc<Crew>, source: usize) {
    let source = &crew.sources[source];
    let interval = source.lease().unwrap_or(crew.settings.lease) / RENEWALS;
    loop {
        if let Err(error) = source.beat().await {
            tracing::debug!("say that the worker is alive: {}", describe(&error));
        }
        sleep(interval).await;
    }
}

async fn register(crew: &Crew) -> Result<(), StoreError> {
    let mut topics: Vec<String> = crew.handlers.keys().cloned().collect();
    topics.sort();
    let spec = WorkerSpec {
        name: crew.settings.name.clone(),
        topics,
        sources: crew.sources.iter().map(|source| source.describe().to_owned()).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let id = crew.store.register_worker(&spec, crew.settings.lease).await?;
    crew.registered.send_replace(Some(id));
    Ok(())
}

async fn renew(crew: &Crew, worker: WorkerId) -> Result<(), StoreError> {
    note_progress(crew, worker).await?;
    failpoint::reach("renewing", "");
    let beat = crew.store.renew_worker(worker, crew.settings.lease, crew.is_empty()).await?;
    if beat.is_registered {
        stop(crew, |job, _| beat.cancelled.contains(job));
    } else {
        tracing::warn!("the worker's lease had run out: what it ran is another's");
        stop(crew, |_, of| of == worker);
        crew.registered.send_if_modified(|id| id.take_if(|id| *id == worker).is_some());
        register(crew).await?;
    }
    Ok(())
}

fn stop(crew: &Crew, is_meant: impl Fn(&JobId, WorkerId) -> bool) {
    for (job, running) in &*Crew::lock(&crew.running) {
        if is_meant(job, running.worker) {
            running.cancel.send_replace(true);
        }
    }
}

async fn note_progress(crew: &Crew, worker: WorkerId) -> Result<(), StoreError> {
    let mut notes = Vec::new();
    for (job, running) in &*Crew::lock(&crew.running) {
        let newest = Crew::lock(&running.shared.progress).take();
        if let Some(progress) = newest.filter(|_| running.worker == worker) {
            notes.push((*job, running.attempt, progress.to_string()));
        }
    }
    if notes.is_empty() {
        return Ok(());
    }
    crew.store.note_progress(worker, &notes).await
}
