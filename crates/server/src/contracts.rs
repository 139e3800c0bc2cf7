//! The contracts that submissions are held to, as whoever made the server keeps them up to date.

use std::{sync::Arc, time::Duration};

use posthaste_core::contract::Contracts;
use tokio::{sync::watch, time::timeout};

/// For contracts that have yet to be read: they are within milliseconds of the start, unless the database is away.
const READ_WAIT: Duration = Duration::from_secs(2);

/// Contracts as they were read last.
pub(crate) struct KnownContracts {
    pub(crate) known: watch::Receiver<Arc<Contracts>>,
    /// Whether they were ever read.
    pub(crate) are_read: watch::Receiver<bool>,
}

impl Default for KnownContracts {
    /// None, and none to be waited for.
    fn default() -> Self {
        let ((_, known), (_, are_read)) = (watch::channel(Arc::default()), watch::channel(true));
        Self { known, are_read }
    }
}

impl KnownContracts {
    /// Those of now. `None` where they were never read: what is accepted then may break them.
    pub(crate) async fn now(&self) -> Option<Arc<Contracts>> {
        let mut are_read = self.are_read.clone();
        let are_read = timeout(READ_WAIT, are_read.wait_for(|are_read| *are_read)).await;
        are_read.is_ok_and(|are_read| are_read.is_ok()).then(|| Arc::clone(&self.known.borrow()))
    }
}
