//! Runs operations in the background: looks for those that nobody runs, and does piece after piece of them.
//!
//! What an operation has done stands in its row, so nothing is lost with this process: its lease runs out, and the
//! server that sees that first goes on with it. A drain ends between two pieces and gives up what is left.

use std::{sync::Arc, time::Duration};

use posthaste_store::{
    Advanced, OperationClaim, OperationState, Operations, StoreError, StoreErrorKind,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use uuid::Uuid;

/// Operations that one server runs at a time: each holds a connection for the time of a piece.
const RUNNING_MAX: usize = 4;
/// Messages of a piece: a transaction of some milliseconds, which nobody has to wait for long.
const PIECE_ROWS_MAX: u32 = 1_000;
/// How long an operation is a runner's between two pieces: far above the two seconds that it may rest.
const LEASE: Duration = Duration::from_secs(10);
/// Between two looks for operations of other servers.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// After a failure that passes by itself.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Tells the runner that there is something to do; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runner {
    wake: Arc<Notify>,
}

impl Runner {
    /// There is something to do.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Runs operations until `ending`. Dropped, it ends in the middle of a piece, which the database takes back.
    pub(crate) async fn run(self, store: Arc<dyn Operations>, mut ending: watch::Receiver<bool>) {
        let name = format!("server-{}", Uuid::now_v7());
        let mut running = JoinSet::new();
        while !*ending.borrow() {
            let has_room = running.len() < RUNNING_MAX;
            if has_room && let Some(claim) = claim(&*store, &name).await {
                running.spawn(carry_on(Arc::clone(&store), claim, ending.clone()));
                continue;
            }
            tokio::select! {
                _ = ending.wait_for(|ending| *ending) => {}
                Some(_ended) = running.join_next() => {}
                () = self.wake.notified(), if has_room => {}
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
        while running.join_next().await.is_some() {}
    }
}

async fn claim(store: &dyn Operations, name: &str) -> Option<OperationClaim> {
    match store.claim_operation(name, LEASE).await {
        Ok(claim) => claim,
        // A schema that is missing or older is said by whoever asks the server for something.
        Err(error) => {
            tracing::debug!("look for operations: {}", posthaste_core::describe(&error));
            None
        }
    }
}

/// Does an operation's pieces until it is over, somebody else has it, or the server ends.
async fn carry_on(
    store: Arc<dyn Operations>,
    claim: OperationClaim,
    mut ending: watch::Receiver<bool>,
) {
    let (operation, kind) = (claim.operation.id, claim.operation.spec.kind.as_str());
    tracing::info!(%operation, kind, "an operation is taken up");
    loop {
        let wait = match store.advance_operation(&claim, PIECE_ROWS_MAX, LEASE).await {
            Ok(Advanced::Going(wait)) => wait,
            Ok(Advanced::Over(state)) => {
                tracing::info!(%operation, kind, %state, "an operation is over");
                return;
            }
            Ok(Advanced::Lost) => {
                tracing::warn!(%operation, kind, "another server has taken up this operation");
                return;
            }
            Err(error) if error.kind().is_transient() => {
                let error = posthaste_core::describe(&error);
                tracing::warn!(%operation, kind, "a piece of an operation has to wait: {error}");
                RETRY_PAUSE
            }
            Err(error) => return fail(&*store, &claim, &error).await,
        };
        if timeout(wait, ending.wait_for(|ending| *ending)).await.is_ok() || *ending.borrow() {
            break;
        }
    }
    if let Err(error) = store.release_operation(&claim).await {
        // Its lease runs out.
        tracing::debug!(%operation, "give an operation up: {}", posthaste_core::describe(&error));
    }
}

async fn fail(store: &dyn Operations, claim: &OperationClaim, error: &StoreError) {
    let operation = claim.operation.id;
    let cause = posthaste_core::describe(error);
    tracing::error!(%operation, state = %OperationState::Failed, "an operation cannot go on: {cause}");
    // The database's own words are for the log.
    let problem = if error.kind() == StoreErrorKind::Invalid {
        error.doing()
    } else {
        "the database failed: the server's log has the cause under the operation's id"
    };
    if let Err(error) = store.fail_operation(claim, problem).await {
        tracing::debug!(%operation, "end an operation: {}", posthaste_core::describe(&error));
    }
}
