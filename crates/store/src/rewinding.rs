//! Moving back a subscription that a relay holds.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{Operations, Request, Result, RewindTo, Rewound, StoreError, StoreErrorKind};

/// For how long a subscription is reserved at a time: it stands still for so long if whoever asked has died.
const RESERVED: Duration = Duration::from_secs(10);
/// Pause between two looks at who holds it.
const LOOK: Duration = Duration::from_millis(200);

/// Moves a subscription's place back: asks the relay that holds it to hand it over, waits at most `patience` for that,
/// and lets relays have it again. A dry run disturbs nobody.
///
/// # Errors
/// `Conflict` where the relay has not handed it over in time; it keeps it then.
///
/// # Cancel safety
/// The place is moved back or not; relays leave the subscription alone for ten seconds at most.
pub async fn rewind_handed_over<O: Operations + ?Sized>(
    operations: &O,
    subscription: &str,
    to: RewindTo,
    request: &Request,
    patience: Duration,
) -> Result<Rewound> {
    if request.is_dry_run {
        return operations.rewind(subscription, to, request).await;
    }
    let rewound = match handed_over(operations, subscription, patience).await {
        // What is published again is counted first, which may take longer than a reservation.
        Ok(()) => tokio::select! {
            rewound = operations.rewind(subscription, to, request) => rewound,
            () = keep(operations, subscription) => unreachable!("it is kept for ever"),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = operations.reserve(subscription, Duration::ZERO).await {
        // It runs out by itself.
        tracing::debug!(subscription, %error, "let it go again");
    }
    rewound
}

/// Reserves it until nobody holds it.
async fn handed_over<O: Operations + ?Sized>(
    operations: &O,
    subscription: &str,
    patience: Duration,
) -> Result<()> {
    let asked = Instant::now();
    while let Some(holder) = operations.reserve(subscription, RESERVED).await? {
        if asked.elapsed() >= patience {
            let doing = format!(
                "the relay {holder} holds {subscription:?} and did not hand it over within {} s; \
                 stop that relay first",
                patience.as_secs()
            );
            return Err(StoreError::new(StoreErrorKind::Conflict, doing));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// Keeps it reserved.
async fn keep<O: Operations + ?Sized>(operations: &O, subscription: &str) {
    loop {
        sleep(RESERVED / 4).await;
        if let Err(error) = operations.reserve(subscription, RESERVED).await {
            tracing::debug!(subscription, %error, "keep it reserved");
        }
    }
}
