//! The signal to drain: stop reading, finish what is in flight, settle, release, exit.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

/// The sending half; owned by the relay. Dropping it drains as well.
#[derive(Debug)]
pub(crate) struct Drain {
    sender: watch::Sender<bool>,
}

/// What tasks listen on; clones share the signal.
#[derive(Clone, Debug)]
pub(crate) struct Draining {
    receiver: watch::Receiver<bool>,
}

impl Drain {
    pub(crate) fn new() -> (Self, Draining) {
        let (sender, receiver) = watch::channel(false);
        (Self { sender }, Draining { receiver })
    }

    /// Starts the drain; later calls change nothing.
    pub(crate) fn start(&self) {
        self.sender.send_replace(true);
    }
}

impl Draining {
    /// Whether the drain has begun.
    pub(crate) fn has_begun(&self) -> bool {
        *self.receiver.borrow() || self.receiver.has_changed().is_err()
    }

    /// Returns once the drain has begun.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost by dropping it.
    pub(crate) async fn begun(&mut self) {
        // An error means that the relay is gone, which is a drain as well.
        let _ = self.receiver.wait_for(|begun| *begun).await;
    }

    /// Waits for `pause` or the drain; true when the drain has begun.
    pub(crate) async fn sleep(&mut self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.begun() => true,
            () = sleep(pause) => false,
        }
    }
}
