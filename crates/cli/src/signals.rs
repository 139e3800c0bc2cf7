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

    /// A stop that somebody else asks for, by sending `true`.
    pub(crate) fn by_hand() -> (watch::Sender<bool>, Self) {
        let (request, requested) = watch::channel(false);
        (request, Self { requested })
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

/// Does something whenever SIGHUP comes, which then ends nothing. Never returns.
pub(crate) fn on_hangup<E: std::error::Error + 'static>(
    reload: impl Fn() -> Result<(), E> + Send + 'static,
) -> io::Result<impl Future<Output = ()> + Send> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            match reload() {
                Ok(()) => tracing::info!("certificates were read again"),
                Err(error) => {
                    let error = posthaste_core::describe(&error);
                    tracing::error!("certificates stay as they are: {error}");
                }
            }
        }
    })
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
