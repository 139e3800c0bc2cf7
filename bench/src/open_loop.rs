//! A steady load with an open loop: messages are due by the clock, whatever became of those before
//! them, so that a stall is seen by every message that it delays.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use posthaste::{Message, Outbox};
use posthaste_testkit::failure::{During, Result};
use tokio::{task::JoinSet, time::sleep_until};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::{
    messages::{Messages, PAYLOAD_BYTES},
    servers::connect,
};

/// Connections that share the load.
pub(crate) const CONNECTIONS: u32 = 10;
/// Time for all senders to get ready.
const LEAD: Duration = Duration::from_millis(200);

/// When the transaction of one message was due, begun, its commit called and answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) due: Instant,
    pub(crate) begun: Instant,
    pub(crate) called: Instant,
    pub(crate) committed: Instant,
}

/// Writes `rate` messages a second, each in a transaction of its own, for so many seconds.
pub(crate) async fn send_all(url: &str, rate: u32, seconds: u64) -> Result<HashMap<Uuid, Sent>> {
    let count = u64::from(rate) * seconds;
    let mut messages = Messages::new(PAYLOAD_BYTES);
    let mut senders = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(connect(url).await?);
    }
    let mut parts: Vec<Vec<(u64, Message)>> = clients.iter().map(|_| Vec::new()).collect();
    for nth in 0..count {
        parts[(nth % u64::from(CONNECTIONS)) as usize].push((nth, messages.next()));
    }
    let start = Instant::now() + LEAD;
    for (client, part) in clients.into_iter().zip(parts) {
        senders.spawn(send(client, part, start, rate));
    }
    let mut sent = HashMap::new();
    while let Some(part) = senders.join_next().await {
        sent.extend(part.during("send messages")??);
    }
    Ok(sent)
}

/// One connection: each message in a transaction of its own, at its time or, behind a slow
/// predecessor, at once.
async fn send(
    mut client: Client,
    messages: Vec<(u64, Message)>,
    start: Instant,
    rate: u32,
) -> Result<Vec<(Uuid, Sent)>> {
    let outbox = Outbox::default();
    let mut sent = Vec::with_capacity(messages.len());
    for (nth, message) in messages {
        let due = start + Duration::from_secs_f64(nth as f64 / f64::from(rate));
        sleep_until(due.into()).await;
        let begun = Instant::now();
        let transaction = client.transaction().await.during("begin")?;
        let id = outbox.enqueue(&transaction, &message).await.during("enqueue")?;
        let called = Instant::now();
        transaction.commit().await.during("commit")?;
        sent.push((id, Sent { due, begun, called, committed: Instant::now() }));
    }
    Ok(sent)
}

/// Negative where `to` came first.
pub(crate) fn millis(from: Instant, to: Instant) -> f64 {
    let later = to.saturating_duration_since(from).as_secs_f64();
    let earlier = from.saturating_duration_since(to).as_secs_f64();
    (later - earlier) * 1_000.0
}
