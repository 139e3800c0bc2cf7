//! What a subscription sets aside: parked keys, parked messages, dead letters.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Epoch, Message, MessageId, Place, TickRef, TopicFilter};
use posthaste_store::{Aside, FailedMessage, ParkedKey, Settled, Start, Store};

use tokio::time::sleep;

use super::{
    harness::{Harness, LONG, migrated},
    reader::{Received, WIDE, publish_all, subscription, tick},
};
use crate::taking::taken;

/// Longer than the step of a clock.
const MOMENT: Duration = Duration::from_millis(5);

/// Five messages, of the keys a, b, a, none, a, seen by one tick; and who reads them.
struct Scene {
    store: Arc<dyn Store>,
    ids: Vec<MessageId>,
    head: TickRef,
    epoch: Epoch,
    start: Place,
}

async fn scene<H: Harness>() -> (H, Scene) {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    let messages: Vec<Message> = [Some("a"), Some("b"), Some("a"), None, Some("a")]
        .into_iter()
        .map(|key| {
            let message = Message::new("t").bytes("a/b", b"p\0".as_slice()).header("h", "1");
            if let Some(key) = key { message.key(key) } else { message }
        })
        .collect();
    let ids = store.append(&messages).await.unwrap();
    let head = tick(store.ticker().as_mut()).await;
    let (epoch, start) = taken(&*store, "s", "one").await;
    (harness, Scene { store, ids, head, epoch, start })
}

impl Scene {
    /// The place before the message at `position`.
    fn before(&self, position: i64) -> Place {
        self.start.moved_to(self.head, position - 1, None)
    }

    fn parked(&self, key: &str, position: i64, retry_in: Option<Duration>) -> ParkedKey {
        ParkedKey {
            key: key.to_owned(),
            place: self.before(position),
            message: self.ids[position as usize - 1],
            attempts: 1,
            reason: "no".to_owned(),
            retry_in,
            parked_for: Duration::ZERO,
        }
    }

    fn failed(&self, position: i64, retry_in: Option<Duration>, holds_key: bool) -> FailedMessage {
        let id = self.ids[position as usize - 1];
        let reason = format!("no {position}");
        let tick = self.head.n;
        FailedMessage { position, id, tick, attempts: 2, reason, retry_in, holds_key }
    }

    async fn change(&self, changes: &[Aside]) {
        let changed = self.store.set_aside("s", self.epoch, changes, None).await.unwrap();
        assert_eq!(changed, Settled::Recorded);
    }
}

pub(crate) async fn what_is_set_aside_comes_back_as_it_was_written<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let mut parked = scene.parked("a", 3, None);
    let dead = scene.failed(3, None, true);
    let alone = scene.failed(4, Some(Duration::from_hours(1)), false);
    let changes = [
        Aside::ParkKey(parked.clone()),
        Aside::ParkKey(scene.parked("b", 2, Some(Duration::ZERO))),
        Aside::Keep(dead.clone()),
        Aside::Keep(alone),
    ];
    scene.change(&changes).await;
    // A relay that ended before its place had moved says the same again.
    scene.change(&changes).await;
    let mut aside = scene.store.aside("s").await.unwrap();
    aside.keys.sort_by(|a, b| a.key.cmp(&b.key));
    aside.messages.sort_by_key(|message| message.position);
    assert_eq!(aside.keys.len(), 2);
    parked.parked_for = aside.keys[0].parked_for;
    assert_eq!(aside.keys[0], parked);
    assert_eq!(aside.keys[1].retry_in, Some(Duration::ZERO));
    assert_eq!((aside.messages.len(), &aside.messages[0]), (2, &dead));
    let wait = aside.messages[1].retry_in.unwrap();
    assert!((Duration::from_mins(59)..=Duration::from_hours(1)).contains(&wait), "{wait:?}");

    let status = scene.store.status().await.unwrap().subscriptions.remove(0);
    let counts = (status.parked_keys, status.parked_messages, status.dead_letters);
    assert_eq!(counts, (2, 1, 1));
    scene.change(&[Aside::UnparkKey("b".to_owned())]).await;
    assert_eq!(scene.store.aside("s").await.unwrap().keys.len(), 1);
}

pub(crate) async fn due_messages_come_byte_for_byte_and_those_that_wait_do_not<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let later = Some(Duration::from_hours(1));
    scene
        .change(&[
            Aside::Keep(scene.failed(5, Some(Duration::ZERO), false)),
            Aside::Keep(scene.failed(2, Some(Duration::ZERO), false)),
            Aside::Keep(scene.failed(3, later, false)),
            Aside::Keep(scene.failed(4, None, false)),
        ])
        .await;
    let window = scene.store.window(scene.start.base, None).await.unwrap().unwrap();
    let all = scene.store.read(&window, 0, &TopicFilter::all(), WIDE).await.unwrap().unwrap();
    let due = scene.store.due_messages("s", 10).await.unwrap();
    let received: Vec<Received> = due.page.iter().map(Received::from).collect();
    assert_eq!(received, [Received::from(all.get(1)), Received::from(all.get(4))]);
    assert_eq!(due.failures.iter().map(|f| f.position).collect::<Vec<_>>(), [2, 5]);
    assert_eq!(due.failures[0].reason, "no 2");

    let retried = FailedMessage { attempts: 3, ..scene.failed(2, later, false) };
    scene.change(&[Aside::Retried(retried)]).await;
    let due = scene.store.due_messages("s", 10).await.unwrap();
    assert_eq!(due.failures.iter().map(|f| f.position).collect::<Vec<_>>(), [5]);
    scene.change(&[Aside::Published { position: 5, id: scene.ids[4] }]).await;
    assert!(scene.store.due_messages("s", 10).await.unwrap().page.is_empty());
    assert_eq!(scene.store.aside("s").await.unwrap().messages.len(), 3);
}

pub(crate) async fn status_tells_for_how_long_something_is_set_aside<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let aside = async || scene.store.status().await.unwrap().subscriptions[0].aside_micros;
    let later = Some(Duration::from_hours(1));
    // A dead letter with its key, and what a replay has copied, wait for nobody's sink.
    let copied = FailedMessage { reason: "replay".to_owned(), ..scene.failed(2, later, false) };
    let key = scene.parked("a", 3, None);
    let kept = [Aside::Keep(scene.failed(3, None, true)), Aside::ParkKey(key), Aside::Keep(copied)];
    scene.change(&kept).await;
    sleep(MOMENT).await;
    assert_eq!(aside().await, 0);
    let key = || Aside::ParkKey(ParkedKey { attempts: 0, ..scene.parked("b", 2, later) });
    let message = || Aside::Keep(FailedMessage { attempts: 0, ..scene.failed(4, later, false) });
    let published = Aside::Published { position: 4, id: scene.ids[3] };
    let what: [(&dyn Fn() -> Aside, Aside); 2] =
        [(&key, Aside::UnparkKey("b".to_owned())), (&message, published)];
    for (what, over) in what {
        scene.change(&[what()]).await;
        sleep(MOMENT).await;
        let first = aside().await;
        assert!(first > 0, "{first}");
        // It is as old as its first failure.
        scene.change(&[what()]).await;
        sleep(MOMENT).await;
        assert!(aside().await > first);
        scene.change(&[over]).await;
        assert_eq!(aside().await, 0);
    }
}

pub(crate) async fn key_is_due_behind_the_dead_letter_that_held_it<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let held = scene.parked("a", 3, None);
    scene
        .change(&[
            Aside::ParkKey(held.clone()),
            Aside::ParkKey(ParkedKey { key: "b".to_owned(), ..scene.parked("b", 2, None) }),
            Aside::Keep(scene.failed(3, None, true)),
            Aside::Keep(scene.failed(2, None, false)),
        ])
        .await;
    // One that holds no key wakes none.
    scene.change(&[Aside::Published { position: 2, id: scene.ids[1] }]).await;
    scene.change(&[Aside::Published { position: 3, id: scene.ids[2] }]).await;
    let mut aside = scene.store.aside("s").await.unwrap();
    assert!(aside.messages.is_empty());
    aside.keys.sort_by(|a, b| a.key.cmp(&b.key));
    let due = &aside.keys[0];
    assert_eq!((due.retry_in, due.attempts), (Some(Duration::ZERO), 0));
    assert_eq!(due.place.within.unwrap().position, 3);
    assert_eq!(due.place.base, held.place.base);
    assert_eq!(aside.keys[1].retry_in, None);
}

pub(crate) async fn nothing_is_set_aside_under_an_older_epoch<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let other = harness.open(LONG).await;
    let (epoch, _) = taken(&*other, "s", "two").await;
    let changes =
        [Aside::ParkKey(scene.parked("a", 3, None)), Aside::Keep(scene.failed(3, None, true))];
    let place = scene.before(4);
    let stale = scene.store.set_aside("s", scene.epoch, &changes, Some(&place)).await.unwrap();
    assert_eq!(stale, Settled::Fenced);
    let aside = other.aside("s").await.unwrap();
    assert!(aside.keys.is_empty() && aside.messages.is_empty(), "{aside:?}");
    assert_eq!(taken(&*other, "s", "three").await.1, scene.start);

    let epoch = epoch + 1;
    let changed = other.set_aside("s", epoch, &changes, Some(&place)).await.unwrap();
    assert_eq!(changed, Settled::Recorded);
    assert_eq!(taken(&*other, "s", "four").await.1, place);
    assert_eq!(other.aside("s").await.unwrap().keys.len(), 1);
}

pub(crate) async fn one_key_is_read_alone<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let window = scene.store.window(scene.start.base, None).await.unwrap().unwrap();
    let read = async |filter: &TopicFilter, key: &str| -> Vec<MessageId> {
        let page = scene.store.read_key(&window, 0, filter, key, WIDE).await.unwrap();
        page.unwrap().iter().map(|message| message.id).collect()
    };
    let all = TopicFilter::all();
    assert_eq!(read(&all, "a").await, [0, 2, 4].map(|at| scene.ids[at]));
    assert_eq!(read(&all, "b").await, [scene.ids[1]]);
    assert!(read(&all, "'").await.is_empty());
    assert!(read(&TopicFilter::new(&["other"]).unwrap(), "a").await.is_empty());
}

pub(crate) async fn views_tell_what_is_parked_and_dead<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    scene
        .change(&[
            Aside::ParkKey(scene.parked("a", 3, Some(Duration::ZERO))),
            Aside::Keep(scene.failed(2, None, false)),
            Aside::Keep(scene.failed(4, Some(Duration::ZERO), false)),
        ])
        .await;
    let states = async || -> Vec<(String, bool)> {
        let rows = harness.messages().await.into_iter();
        rows.map(|row| (row.state, row.published_at.is_some())).collect()
    };
    let pending = ("pending".to_owned(), false);
    assert_eq!(states().await[0], pending);
    publish_all(&*scene.store, "s").await;
    let named = |state: &str| (state.to_owned(), state == "published");
    let expected = ["published", "dead", "parked", "parked", "parked"].map(named);
    assert_eq!(states().await, expected);
    let outbox = harness.outbox().await;
    let dated: Vec<bool> = outbox.iter().map(|(_, at)| at.is_some()).collect();
    assert_eq!(dated, [true, false, false, false, false]);
}
