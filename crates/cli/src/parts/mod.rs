//! The parts that a process may run: a relay, workers, the server. How they begin and end together, for the commands
//! `relay`, `worker` and `serve`.

pub(crate) mod told;
pub(crate) mod workers;

use posthaste_relay::Relay;
use posthaste_traces::Tracer;
use posthaste_worker::{Counts, Worker};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    exit::Exit,
    failure::{Failure, Result},
    signals::Stop,
};

/// Has a relay traced if the process exports traces.
pub(crate) fn traced(relay: Relay, tracer: Option<&Tracer>) -> Relay {
    match tracer {
        Some(tracer) => relay.traced(tracer.clone()),
        None => relay,
    }
}

/// Runs a relay and workers until a stop, or until one of them ends by itself, which ends all.
pub(crate) async fn run(workers: Vec<Worker>, relay: Option<Relay>, stop: &Stop) -> Result {
    for worker in &workers {
        worker.preflight().await?;
    }
    let (end, ended) = watch::channel(false);
    let mut running: JoinSet<Result> = JoinSet::new();
    let shutdown = || {
        let (stop, mut ended) = (stop.requested(), ended.clone());
        async move {
            tokio::select! {
                () = stop => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        }
    };
    for worker in workers {
        let shutdown = shutdown();
        running.spawn(async move {
            let name = worker.telemetry().readiness().worker;
            let counts = worker.run(shutdown).await;
            let counts = counts.map_err(|error| Failure::usage(error.to_string()))?;
            let Counts { completed, failed, dead, buried, .. } = counts;
            tracing::info!(worker = name, completed, failed, dead, buried, "the worker ended");
            Ok(())
        });
    }
    if let Some(relay) = relay {
        let shutdown = shutdown();
        running.spawn(async move { Ok(relay.run(shutdown).await?) });
    }
    let mut all = Ok(());
    while let Some(ran) = running.join_next().await {
        end.send_replace(true);
        let ran = ran.unwrap_or_else(|error| {
            Err(Failure::caused(Exit::Failed, "a part ended in the middle", error))
        });
        all = all.and(ran);
    }
    all
}
