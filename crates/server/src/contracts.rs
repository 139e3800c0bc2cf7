//! The contracts that submissions are held to, as whoever made the server keeps them up to date.

use std::sync::Arc;

use posthaste_core::contract::Contracts;
use tokio::sync::watch;

/// Contracts as they were read last.
pub(crate) struct KnownContracts {
    pub(crate) known: watch::Receiver<Arc<Contracts>>,
    /// Whether they were ever read, once that was tried.
    pub(crate) are_read: watch::Receiver<Option<bool>>,
}

impl Default for KnownContracts {
    /// None, and none to be waited for.
    fn default() -> Self {
        let (_, known) = watch::channel(Arc::default());
        let (_, are_read) = watch::channel(Some(true));
        Self { known, are_read }
    }
}

impl KnownContracts {
    /// Those of now, after the first try to read them, which begins with the server and ends within the database's
    /// limits. `None` where they were never read: what is accepted then may break them.
    pub(crate) async fn now(&self) -> Option<Arc<Contracts>> {
        let mut are_read = self.are_read.clone();
        let tried = are_read.wait_for(Option::is_some).await;
        tried
            .is_ok_and(|are_read| *are_read == Some(true))
            .then(|| Arc::clone(&self.known.borrow()))
    }
}
