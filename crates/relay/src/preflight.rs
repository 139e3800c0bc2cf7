//! A look, at the start, at what would lose messages that sinks have accepted. Findings are
//! warnings: nothing waits for them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{drain::Draining, sink::Target};

/// Logs each finding once, however many subscriptions share a server. A sink that is away is left
/// to its pipeline, which says so.
pub(crate) async fn warn(targets: Vec<Arc<dyn Target>>, limit: Duration, mut draining: Draining) {
    let mut said = BTreeSet::new();
    for target in targets {
        let looked = tokio::select! {
            biased;
            () = draining.begun() => return,
            looked = timeout(limit, target.preflight()) => looked,
        };
        for text in looked.ok().and_then(Result::ok).unwrap_or_default() {
            if !said.contains(&text) {
                tracing::warn!("{text}");
                said.insert(text);
            }
        }
    }
}
