//! The server's life: made, bound, run, drained.

use std::{net::SocketAddr, sync::Arc};

use posthaste_core::contract::Contracts;
use posthaste_store::{Jobs, Operations, Store};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};

use crate::{
    app::App,
    batches::{Batches, room},
    error::ServerError,
    listen::{self, Serving},
    outlook::Outlook,
    parts::{NoParts, Parts},
    routes,
    settings::ServerSettings,
    streams::Streams,
    tickets::Tickets,
    tls::Certificates,
    tokens::Tokens,
};

/// A server that does not listen yet.
pub struct Server {
    settings: ServerSettings,
    jobs: Arc<dyn Jobs>,
    operations: Arc<dyn Operations>,
    contracts: watch::Receiver<Arc<Contracts>>,
    parts: Arc<dyn Parts>,
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
        let (_, contracts) = watch::channel(Arc::default());
        Ok(Self { settings, jobs, operations, contracts, parts: Arc::new(NoParts) })
    }

    /// Holds payloads to these contracts, as they are at the time.
    #[must_use]
    pub fn with_contracts(self, contracts: watch::Receiver<Arc<Contracts>>) -> Self {
        Self { contracts, ..self }
    }

    /// Tells of the parts that run beside it.
    #[must_use]
    pub fn with_parts(self, parts: Arc<dyn Parts>) -> Self {
        Self { parts, ..self }
    }

    /// Listens on the address of the settings.
    ///
    /// # Errors
    /// The address cannot be had, or the certificates cannot be used.
    pub async fn bind(self) -> Result<Bound, ServerError> {
        let certificates = Certificates::load(&self.settings.tls)?;
        let listen = self.settings.listen;
        let in_use = |error| {
            let what = format!(
                "server.listen = \"{listen}\" cannot be listened on; end what listens there, or name an address of \
                 this machine and a free port"
            );
            ServerError::address(what, error)
        };
        let socket = TcpListener::bind(listen).await.map_err(in_use)?;
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
    /// A task that writes submissions ended in the middle: nothing could be submitted any more.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
        let Server { settings, jobs, operations, contracts, parts } = self.server;
        let (room, len_max) = (room(settings.queue_bytes_max), settings.queue_jobs_max);
        let (batches, writing_jobs) = Batches::new(Arc::clone(&jobs), len_max, Arc::clone(&room));
        let (messages, writing) = Batches::new(Arc::clone(&operations), len_max, room);
        let mut writers = JoinSet::new();
        writers.spawn(writing_jobs);
        writers.spawn(writing);
        let anybody = if settings.is_loopback() { "loopback" } else { "anonymous" };
        let tokens = Tokens::new(&settings.tokens, anybody);
        let shared = Arc::new(settings.clone());
        let drain = settings.drain_timeout;
        let outlook = Outlook::default();
        let store: Arc<dyn Store> = Arc::clone(&operations) as _;
        let streams = Streams::new(store, settings.streams());
        let tickets = Tickets::new(settings.ticket_lifetime);
        let app = App {
            settings,
            tokens,
            jobs,
            operations,
            batches,
            messages,
            contracts,
            parts,
            streams: streams.clone(),
            tickets,
            outlook,
        };
        let router = routes::router(&Arc::new(app));
        let serving = Serving { router, certificates: self.certificates, settings: shared };
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
            Some(ended) = writers.join_next() => return Err(broken(ended)),
        }
        let _ = timeout(drain, async { while writers.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

fn broken(ended: Result<(), tokio::task::JoinError>) -> ServerError {
    let what = "a task that writes submissions ended in the middle";
    match ended {
        Ok(()) => ServerError::broken(what, "nobody can submit any more"),
        Err(error) => ServerError::broken(what, error),
    }
}
