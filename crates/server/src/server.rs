//! The server's life: made, bound, run, drained.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use posthaste_core::contract::Contracts;
use posthaste_store::{Jobs, Operations, Store};
use posthaste_traces::Tracer;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{
    app::App,
    batches::{Batches, room},
    contracts::KnownContracts,
    error::ServerError,
    listen::{self, Serving},
    outlook::Outlook,
    parts::{NoParts, Parts},
    proxy::Ways,
    routes,
    runner::Runner,
    settings::{OWN_NAMES, ServerSettings},
    streams::Streams,
    telemetry::Telemetry,
    tickets::Tickets,
    tls::Certificates,
    tokens::Tokens,
};

/// Connections that wait to be accepted; the system's own limit is often the same or lower.
const BACKLOG: u32 = 4_096;

/// A server that does not listen yet.
pub struct Server {
    settings: ServerSettings,
    jobs: Arc<dyn Jobs>,
    operations: Arc<dyn Operations>,
    contracts: KnownContracts,
    parts: Arc<dyn Parts>,
    telemetry: Telemetry,
    tracer: Option<Tracer>,
}

/// A server that listens; clients wait until it runs.
pub struct Bound {
    socket: TcpListener,
    address: SocketAddr,
    server: Server,
    certificates: Option<Certificates>,
}

impl Server {
    /// A server on a database, which is both of the arguments.
    ///
    /// # Errors
    /// The settings break a rule, or leave an address open that other machines can reach.
    pub fn new(
        settings: ServerSettings,
        jobs: Arc<dyn Jobs>,
        operations: Arc<dyn Operations>,
    ) -> Result<Self, ServerError> {
        if let Err(text) = settings.validate() {
            return Err(ServerError::settings(format!("server.{text}"), None));
        }
        if let Some(refusal) = settings.refusal() {
            return Err(ServerError::settings(refusal, None));
        }
        Ok(Self {
            settings,
            jobs,
            operations,
            contracts: KnownContracts::default(),
            parts: Arc::new(NoParts),
            telemetry: Telemetry::default(),
            tracer: None,
        })
    }

    /// Holds payloads to these contracts, as they are at the time.
    #[must_use]
    pub fn with_contracts(mut self, contracts: watch::Receiver<Arc<Contracts>>) -> Self {
        self.contracts.known = contracts;
        self
    }

    /// Accepts nothing before they were read, once; `None` says that this was not tried yet.
    #[must_use]
    pub fn once_contracts_are_read(mut self, are_read: watch::Receiver<Option<bool>>) -> Self {
        self.contracts.are_read = are_read;
        self
    }

    /// Tells of the parts that run beside it.
    #[must_use]
    pub fn with_parts(self, parts: Arc<dyn Parts>) -> Self {
        Self { parts, ..self }
    }

    /// Tells of itself there.
    #[must_use]
    pub fn with_telemetry(self, telemetry: Telemetry) -> Self {
        Self { telemetry, ..self }
    }

    /// Has its requests traced.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer: Some(tracer), ..self }
    }

    /// Listens on the address of the settings. To be called within a Tokio runtime.
    ///
    /// # Errors
    /// The address cannot be had, or the certificates cannot be used.
    pub fn bind(self) -> Result<Bound, ServerError> {
        let certificates = Certificates::load(&self.settings.tls)?;
        let listen = self.settings.listen;
        let in_use = |error| {
            let what = format!(
                "server.listen = \"{listen}\" cannot be listened on; end what listens there, or name an address of \
                 this machine and a free port"
            );
            ServerError::address(what, error)
        };
        let socket = listen_on(listen).map_err(in_use)?;
        let address = socket.local_addr().unwrap_or(listen);
        Ok(Bound { socket, address, server: self, certificates })
    }
}

impl Bound {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificates, to have them read again; `None` with http.
    pub fn certificates(&self) -> Option<Certificates> {
        self.certificates.clone()
    }

    /// Answers until `shutdown`, then accepts nothing more, finishes what is in progress within the drain's time, and
    /// ends.
    ///
    /// # Errors
    /// A task that writes submissions or runs operations ended in the middle.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
        let Server { settings, jobs, operations, contracts, parts, telemetry, tracer } =
            self.server;
        let meter = telemetry.meter();
        // One body of the largest size has room in any case.
        let bodies = room(settings.queue_bytes_max.max(settings.body_bytes_max));
        let (room, len_max) = (room(settings.queue_bytes_max), settings.queue_jobs_max);
        let (batches, writing_jobs) =
            Batches::new(Arc::clone(&jobs), len_max, Arc::clone(&room), Arc::clone(&meter.jobs));
        let (messages, writing) =
            Batches::new(Arc::clone(&operations), len_max, room, Arc::clone(&meter.messages));
        let mut writers = JoinSet::new();
        writers.spawn(writing_jobs);
        writers.spawn(writing);
        let [near, anywhere] = OWN_NAMES;
        let anybody = if settings.is_loopback() { near } else { anywhere };
        let tokens = Tokens::new(&settings.tokens, anybody);
        let shared = Arc::new(settings.clone());
        let drain = settings.drain_timeout;
        let outlook = Outlook::default();
        let store: Arc<dyn Store> = Arc::clone(&operations) as _;
        let streams = Streams::new(store, settings.streams(), Arc::clone(&meter.streams));
        let tickets = Tickets::new(settings.ticket_lifetime);
        let runner = Runner::default();
        let (end, ending) = watch::channel(false);
        let mut background = JoinSet::new();
        background.spawn(runner.clone().run(Arc::clone(&operations), ending));
        let (count, counted) = (telemetry.clone(), Arc::clone(&operations));
        let counting = async move { count.meter().census.run(&*counted).await };
        let app = App {
            settings,
            tokens,
            jobs,
            operations,
            batches,
            messages,
            bodies,
            contracts,
            parts,
            streams: streams.clone(),
            tickets,
            description: OnceLock::new(),
            runner,
            outlook,
            telemetry,
            tracer,
        };
        let router = routes::router(&Arc::new(app));
        let ways = Ways::of(&shared);
        let serving = Serving { router, certificates: self.certificates, settings: shared, ways };
        let shutdown = async {
            shutdown.await;
            // Their clients go on elsewhere, or here once the server is back.
            streams.end();
        };
        let serve = listen::serve(self.socket, serving, shutdown);
        tokio::select! {
            // The listener owns the last ways to submit: the writers end after it, or too early.
            () = serve => {}
            never = streams.run() => match never {},
            never = counting => never,
            Some(ended) = writers.join_next() => return Err(broken(ended)),
            Some(ended) = background.join_next() => return Err(broken(ended)),
        }
        end.send_replace(true);
        let written = async { while writers.join_next().await.is_some() {} };
        let _ = timeout(drain, async { tokio::join!(written, background.join_next()) }).await;
        Ok(())
    }
}

/// Listens, with room for a burst: the system drops what finds none, and its clients try again after a second.
fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // The port of a server that has just ended.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn broken(ended: Result<(), tokio::task::JoinError>) -> ServerError {
    let what = "a task that writes submissions or runs operations ended in the middle";
    match ended {
        Ok(()) => ServerError::broken(what, "nobody does its work any more"),
        Err(error) => ServerError::broken(what, error),
    }
}
