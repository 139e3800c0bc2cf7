//! The watch: takes jobs from workers that were lost, and finds out why jobs wait (R27).

use std::{collections::BTreeMap, sync::Arc};

use posthaste_core::{describe, job::Remedy};
use posthaste_store::{JobId, StoreError, defect, failpoint};
use tokio::time::sleep;

use crate::crew::{Counters, Crew};

/// Jobs that one look is about.
const JOBS_MAX: u32 = 200;

/// Looks at an interval until the task is ended. Every worker does: what two find, one mends.
pub(crate) async fn watch(crew: Arc<Crew>) {
    let Some(interval) = crew.settings.watch_interval else { return };
    // What was told of last, so that it is told once.
    let mut told = BTreeMap::new();
    loop {
        sleep(interval).await;
        match look(&crew).await {
            Ok(found) => {
                for ((topic, code), (count, said)) in &found {
                    if !told.contains_key(&(topic.clone(), *code)) {
                        tracing::warn!(topic, cause = code, jobs = count, "jobs wait: {said}");
                    }
                }
                told = found;
            }
            Err(error) => tracing::debug!("watch jobs: {}", describe(&error)),
        }
    }
}

/// How many jobs of a topic wait for one cause, and what is said of it.
type Found = BTreeMap<(String, &'static str), (usize, String)>;

async fn look(crew: &Crew) -> Result<Found, StoreError> {
    let attempts = crew.settings.retry.attempts;
    failpoint::reach("watching", "");
    let taken = crew.store.retire_workers(None, attempts).await?;
    if taken > 0 {
        failpoint::reach("took-over", "");
        tracing::warn!(jobs = taken, "took over the jobs of workers that were lost");
    }
    let waiting = crew.store.waiting_jobs(crew.settings.watch_age, JOBS_MAX).await?;
    let (mut found, mut publish, mut refuse) = (Found::new(), Vec::<JobId>::new(), Vec::new());
    for job in waiting {
        let cause = job.known.cause();
        let entry = found.entry((job.topic, cause.code())).or_default();
        entry.0 += 1;
        entry.1 = cause.to_string();
        match cause.remedy() {
            Remedy::Wait => {}
            Remedy::Publish if defect::is("never-republished") => {}
            Remedy::Publish => publish.push(job.id),
            Remedy::Refuse => refuse.push((job.id, cause.to_string())),
        }
    }
    if !publish.is_empty() {
        failpoint::reach("republishing", "");
        let published = crew.store.republish_jobs(&publish).await?;
        Counters::add(&crew.counts.republished, published.len());
    }
    if !refuse.is_empty() {
        let refused = crew.store.refuse_jobs(&refuse).await?;
        Counters::add(&crew.counts.dead, refused.len());
    }
    Ok(found)
}
