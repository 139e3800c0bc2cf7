//! What a process tells of its relay and its workers: to its listener, and to its server.

use std::{sync::Arc, time::Duration};

use posthaste_relay::{
    Monitor, Relay, State, SubscriptionSnapshot,
    telemetry::{Telemetry as RelayTelemetry, traces},
};
use posthaste_server::{RelayPart, SinkPart, Telemetry as ServerTelemetry, WorkerPart};
use posthaste_traces::Tracer;
use posthaste_worker::{
    Worker,
    telemetry::{Readiness, Telemetry},
};
use serde_json::{Value, json};

use crate::{config::Config, listener::Told};

/// What is told of the parts of this process; clones share it.
#[derive(Clone)]
pub(crate) struct Process {
    workers: Vec<Telemetry>,
    relay: Option<(RelayTelemetry, Monitor)>,
    /// The relay's longest pause between looks.
    poll_interval: Duration,
    server: Option<ServerTelemetry>,
    /// Metrics have a listener of their own.
    is_listened: bool,
    tracer: Option<Tracer>,
}

impl Process {
    pub(crate) fn of(
        config: &Config,
        workers: &[Worker],
        relay: Option<&Relay>,
        tracer: Option<Tracer>,
    ) -> Self {
        Self {
            workers: workers.iter().map(Worker::telemetry).collect(),
            relay: relay.map(|relay| (relay.telemetry(), relay.monitor())),
            poll_interval: config.relay.idle_interval,
            server: None,
            is_listened: config.telemetry.listen.is_some(),
            tracer,
        }
    }

    /// With the server of the same process.
    pub(crate) fn with_server(self, server: ServerTelemetry) -> Self {
        Self { server: Some(server), ..self }
    }

    /// Subscriptions that this process publishes, or would: with what keeps it from that.
    pub(crate) fn published(&self) -> Vec<(String, Option<String>)> {
        let Some((_, monitor)) = &self.relay else { return Vec::new() };
        let own = monitor.snapshot().into_iter();
        let own = own.filter(|it| it.last_error.is_some() || it.state == State::Running);
        own.map(|it| (it.name, it.last_error)).collect()
    }

    /// The workers of this process: with what those wait for that are not at work.
    pub(crate) fn workers(&self) -> Vec<(String, Option<String>)> {
        let told = |worker: Readiness| {
            let waits_for = (!worker.ready).then(|| worker.waits_for.join(", "));
            (worker.worker, waits_for)
        };
        self.workers.iter().map(|worker| told(worker.readiness())).collect()
    }
}

impl Told for Process {
    fn metrics(&self) -> String {
        let page = match &self.relay {
            // What became of spans stands there as well.
            Some((relay, _)) => relay.metrics(),
            None => traces::metrics(self.tracer.as_ref()),
        };
        let server = self.server.as_ref().map(ServerTelemetry::metrics).unwrap_or_default();
        page + &posthaste_worker::telemetry::metrics(&self.workers) + &server
    }

    fn is_alive(&self) -> bool {
        self.workers.iter().all(Telemetry::is_alive)
            && self.relay.as_ref().is_none_or(|(relay, _)| relay.is_alive())
    }

    fn readiness(&self) -> (bool, Value) {
        let workers: Vec<_> = self.workers.iter().map(Telemetry::readiness).collect();
        let relay = self.relay.as_ref().map(|(relay, _)| relay.readiness());
        let is_ready = workers.iter().all(|worker| worker.ready)
            && relay.as_ref().is_none_or(|relay| relay.ready);
        (is_ready, json!({ "ready": is_ready, "workers": workers, "relay": relay }))
    }

    async fn observe(self: Arc<Self>, interval: Duration) {
        match &self.relay {
            Some((relay, _)) => relay.observe(interval).await,
            None => std::future::pending().await,
        }
    }
}

impl posthaste_server::Parts for Process {
    fn metrics(&self) -> Option<String> {
        (!self.is_listened).then(|| Told::metrics(self))
    }

    fn is_alive(&self) -> bool {
        Told::is_alive(self)
    }

    fn readiness(&self) -> (bool, Value) {
        Told::readiness(self)
    }

    fn relay(&self) -> Option<RelayPart> {
        let (relay, monitor) = self.relay.as_ref()?;
        let subscriptions = monitor.snapshot();
        let mut failures = subscriptions.iter().filter_map(|it| it.last_error.clone());
        Some(RelayPart {
            is_alive: relay.is_alive(),
            poll_interval: self.poll_interval,
            processed: subscriptions.iter().map(|it| it.published).sum(),
            failed: subscriptions.iter().map(|it| it.rejections).sum(),
            retries: subscriptions.iter().map(|it| it.retries).sum(),
            batches: subscriptions.iter().map(|it| it.batches).sum(),
            answering: subscriptions.iter().map(|it| it.answering).sum(),
            last_error: monitor.trouble().or_else(|| failures.next_back()),
            sinks: subscriptions.iter().map(sink).collect(),
        })
    }

    fn workers(&self) -> Vec<WorkerPart> {
        let part = |worker: &Telemetry| {
            let counts = worker.counts();
            WorkerPart {
                name: worker.readiness().worker,
                completed: counts.completed,
                failed: counts.failed,
                dead: counts.dead,
                republished: counts.republished,
                mended: counts.mended,
                unmended: counts.unmended,
            }
        };
        self.workers.iter().map(part).collect()
    }
}

fn sink(snapshot: &SubscriptionSnapshot) -> SinkPart {
    let is_away = matches!(snapshot.state, State::BackingOff | State::Stopped);
    let reason = || snapshot.last_error.clone().unwrap_or_else(|| snapshot.state.word().to_owned());
    SinkPart { subscription: snapshot.name.clone(), problem: is_away.then(reason) }
}
