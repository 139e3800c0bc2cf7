//! SIGTERM and SIGINT: the first asks for a drain, the second ends the process at once.

use std::{future::Future, io};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::exit::Exit;

/// A request to stop, that any number of tasks can wait for.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    requested: watch::Receiver<bool>,
}

impl Stop {
    /// Listens for signals from now on, on a task of its own that lives as long as the runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        let (request, requested) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            let name = next(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "asked to stop; a second signal ends at once");
            request.send_replace(true);
            next(&mut terminate, &mut interrupt).await;
            std::process::exit(Exit::Interrupted.code().into());
        });
        Ok(Self { requested })
    }

    /// Whether a stop has been asked for.
    pub(crate) fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Resolves once a stop has been asked for.
    pub(crate) fn requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut requested = self.requested.clone();
        async move {
            // The sender lives on its task until the process ends.
            let _ = requested.wait_for(|requested| *requested).await;
        }
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
