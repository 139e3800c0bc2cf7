//! Dead letters, as a relay would leave them.

use std::sync::Arc;

use posthaste_core::{Epoch, Message, MessageId, Place, TickRef, TopicFilter};
use posthaste_store::{
    Acquired, Aside, FailedMessage, Operations, Selection, Settled, Start, SubscriptionSpec,
};

use super::Place as Where;

/// The subscription `orders`, all of whose messages are dead letters.
pub(crate) struct Dead {
    pub(crate) store: Arc<dyn Operations>,
    pub(crate) ids: Vec<MessageId>,
    epoch: Epoch,
    head: TickRef,
}

impl Dead {
    /// One for each reason, of the topic `orders.N` and the key `kN`, with the payload `{"n": N}`.
    pub(crate) async fn of(place: &Where, reasons: &[&str]) -> Self {
        let (_, store) = place.store().await;
        let filter = TopicFilter::new(&["orders.*"]).unwrap();
        let spec = SubscriptionSpec { name: "orders".to_owned(), filter, start: Start::Beginning };
        store.reconcile(&[spec]).await.unwrap();
        let message = |n: usize| {
            let message = Message::new(format!("orders.{n}")).key(format!("k{n}"));
            message.json(&serde_json::json!({ "n": n })).header("h", "v")
        };
        let messages: Vec<Message> = (0..reasons.len()).map(message).collect();
        let ids = store.append(&messages).await.unwrap();
        let mut ticker = store.ticker();
        let mut head = ticker.advance().await.unwrap().tick;
        // What is committed is covered after some looks.
        for _ in 0..5 {
            head = ticker.advance().await.unwrap().tick;
        }
        let lease = std::time::Duration::from_mins(5);
        let Acquired::Taken(epoch, start) =
            store.acquire("orders", "a relay", lease).await.unwrap()
        else {
            panic!("nobody holds it")
        };
        let dead = Self { store, ids, epoch, head };
        let keep = |(n, reason): (usize, &&str)| Aside::Keep(dead.failed(n, reason));
        let changes: Vec<Aside> = reasons.iter().enumerate().map(keep).collect();
        dead.write(&changes, Some(&start.finished(head))).await;
        dead
    }

    /// The `n`th message fails again, for good.
    pub(crate) async fn fails_again(&self, n: usize) {
        self.write(&[Aside::Retried(self.failed(n, "again"))], None).await;
    }

    /// The relay gives the subscription up.
    pub(crate) async fn released(&self) {
        self.store.release("orders", self.epoch).await.unwrap();
    }

    async fn write(&self, changes: &[Aside], place: Option<&Place>) {
        let settled = self.store.set_aside("orders", self.epoch, changes, place).await.unwrap();
        assert_eq!(settled, Settled::Recorded);
    }

    fn failed(&self, n: usize, reason: &str) -> FailedMessage {
        FailedMessage {
            position: n as i64 + 1,
            id: self.ids[n],
            tick: self.head.n,
            attempts: 3,
            reason: reason.to_owned(),
            retry_in: None,
            holds_key: false,
        }
    }

    /// The numbers of those that are dead letters.
    pub(crate) async fn dead(&self) -> Vec<usize> {
        let letters = self.store.dead_letters(&Selection::default(), 1_000).await.unwrap();
        let mut dead: Vec<usize> =
            letters.iter().map(|letter| letter.message.position as usize - 1).collect();
        dead.sort_unstable();
        dead
    }

    /// The numbers of those that are on their way again.
    pub(crate) async fn replayed(&self) -> Vec<usize> {
        let aside = self.store.aside("orders").await.unwrap().messages;
        let is_due = |failed: &&FailedMessage| failed.retry_in.is_some();
        let mut due: Vec<usize> =
            aside.iter().filter(is_due).map(|failed| failed.position as usize - 1).collect();
        due.sort_unstable();
        due
    }
}
