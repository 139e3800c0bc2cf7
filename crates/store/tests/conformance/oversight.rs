//! What people look into.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Epoch, Message, MessageId, TickRef, Timestamp, TopicFilter, reason::group};
use posthaste_store::{
    Aside, AuditFilter, Census, DeadLetterFilter, DeadLetterPlace, FailedMessage, Operations,
    Order, Request, Selection, Settled, Start, WorkerSpec,
};

use super::{
    harness::Harness,
    reader::{subscription, tick},
};
use crate::taking::{LEASE, taken};

/// The subscription `s`, all of whose messages are dead letters.
pub(crate) struct Dead {
    pub(crate) store: Arc<dyn Operations>,
    pub(crate) ids: Vec<MessageId>,
    pub(crate) epoch: Epoch,
    head: TickRef,
}

impl Dead {
    /// A dead letter for each reason, of the topics `even` and `odd` in turn.
    pub(crate) async fn of<H: Harness>(reasons: &[&str]) -> (H, Self) {
        let harness = H::empty().await;
        let store = harness.operations().await;
        store.migrate().await.unwrap();
        store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
        let (epoch, _) = taken(&*store, "s", "one").await;
        let mut dead = Self { store, ids: Vec::new(), epoch, head: TickRef::BEGINNING };
        dead.add(reasons).await;
        (harness, dead)
    }

    /// As many more.
    pub(crate) async fn add(&mut self, reasons: &[&str]) {
        let first = self.ids.len();
        let message = |n: usize| {
            let topic = if n.is_multiple_of(2) { "even" } else { "odd" };
            Message::new(topic).key(format!("k{n}")).text(format!("{n}")).header("h", "v")
        };
        let messages: Vec<Message> = (first..first + reasons.len()).map(message).collect();
        self.ids.extend(self.store.append(&messages).await.unwrap());
        self.head = tick(self.store.ticker().as_mut()).await;
        let changes: Vec<Aside> = reasons
            .iter()
            .enumerate()
            .map(|(n, reason)| Aside::Keep(self.failed(first + n, reason)))
            .collect();
        let place = self.store.status().await.unwrap().subscriptions[0].progress.place;
        self.write(&changes, Some(&place.finished(self.head))).await;
    }

    /// The `n`th message fails again, for good.
    pub(crate) async fn fails_again(&self, n: usize) {
        self.write(&[Aside::Retried(self.failed(n, "again"))], None).await;
    }

    async fn write(&self, changes: &[Aside], place: Option<&posthaste_core::Place>) {
        let settled = self.store.set_aside("s", self.epoch, changes, place).await.unwrap();
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

    /// The numbers of those that are dead letters, the oldest failure first.
    pub(crate) async fn dead(&self) -> Vec<usize> {
        let letters = self.store.dead_letters(&Selection::default(), 1_000).await.unwrap();
        letters.iter().map(|letter| letter.message.position as usize - 1).collect()
    }

    /// The numbers of those that are due by `within`.
    pub(crate) async fn due(&self, within: Duration) -> Vec<usize> {
        let aside = self.store.aside("s").await.unwrap().messages;
        let is_due = |failed: &&FailedMessage| failed.retry_in.is_some_and(|wait| wait <= within);
        let mut due: Vec<usize> =
            aside.iter().filter(is_due).map(|failed| failed.position as usize - 1).collect();
        due.sort_unstable();
        due
    }
}

fn request() -> Request {
    Request { actor: "ann".to_owned(), is_dry_run: false, is_forced: false }
}

fn all() -> DeadLetterFilter {
    DeadLetterFilter::default()
}

pub(crate) async fn r14_pages_of_dead_letters_hold_each_once_in_both_orders<H: Harness>() {
    let (_harness, mut dead) = Dead::of::<H>(&["a", "b", "c", "d", "e", "f", "g"]).await;
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let (mut after, mut seen) = (None::<DeadLetterPlace>, Vec::new());
        loop {
            let page = dead.store.dead_letter_page(&all(), order, after.as_ref(), 3).await.unwrap();
            seen.extend(page.iter().map(|row| row.place.position - 1));
            let Some(last) = page.last().filter(|_| seen.len() <= 7) else { break };
            after = Some(last.place);
            if seen.len() == 3 {
                // What fails or goes meanwhile moves nothing.
                let first = usize::try_from(seen[0]).unwrap();
                let gone = Selection { ids: vec![dead.ids[first]], ..Selection::default() };
                dead.store.discard_dead_letters(&gone, &request()).await.unwrap();
                if order == Order::NewestFirst {
                    dead.add(&["h"]).await;
                }
            }
        }
        let expected: Vec<i64> = match order {
            Order::OldestFirst => (0..7).collect(),
            Order::NewestFirst => (1..7).rev().collect(),
        };
        assert_eq!(seen, expected, "{order:?}");
    }
    let page = dead.store.dead_letter_page(&all(), Order::OldestFirst, None, 1).await.unwrap();
    let row = &page[0];
    assert_eq!((row.subscription.as_str(), row.topic.as_str()), ("s", "odd"));
    assert_eq!((row.key.as_deref(), row.payload_bytes, row.attempts), (Some("k1"), 1, 3));
    assert_eq!((row.reason.as_str(), row.holds_key, row.place.id), ("b", false, dead.ids[1]));
    let shown = dead.store.dead_letters(&Selection::default(), 1).await.unwrap();
    assert_eq!(row.place.failed_at, shown[0].failed_at);
    assert_eq!(row.enqueued_at, shown[0].message.enqueued_at);
}

pub(crate) async fn r14_dead_letters_whose_reasons_differ_in_numbers_fall_together<H: Harness>() {
    let reasons = [
        "HTTP 503 after 12 ms",
        "no row 018f3c2a-0000-7000-8000-00000000000a",
        "HTTP 404 after 7 ms",
        "timed out",
        "no row 018f3c2a-0000-7000-8000-0000deadbeef",
        "HTTP 500 after 1000 ms",
    ];
    let (_harness, dead) = Dead::of::<H>(&reasons).await;
    let found = dead.store.dead_letter_groups(&all(), 10).await.unwrap();
    let told: Vec<(&str, &str, u64, MessageId)> = found
        .groups
        .iter()
        .map(|it| (it.subscription.as_str(), it.reason.as_str(), it.count, it.example))
        .collect();
    let expected = [
        ("s", "HTTP # after # ms", 3, dead.ids[5]),
        ("s", "no row #", 2, dead.ids[4]),
        ("s", "timed out", 1, dead.ids[3]),
    ];
    // Those that failed within one tick of the clock are as new as each other.
    assert_eq!(told, expected);
    assert!(found.groups.iter().all(|it| it.first <= it.last), "{found:?}");
    assert_eq!((found.groups_total, found.looked_at), (3, 6));
    let largest = dead.store.dead_letter_groups(&all(), 1).await.unwrap();
    assert_eq!((largest.groups.len(), largest.groups_total), (1, 3));
    let odd = TopicFilter::new(&["odd"]).unwrap();
    let odd = Selection { topics: Some(odd), ..Selection::default() };
    let odd = DeadLetterFilter { which: odd, group: None };
    assert_eq!(dead.store.dead_letter_groups(&odd, 10).await.unwrap().looked_at, 3);
    // A group is a condition like any other.
    let of = DeadLetterFilter { group: Some("HTTP # after # ms".to_owned()), ..all() };
    assert_eq!(dead.store.count_dead_letters(&of).await.unwrap(), 3);
    assert_eq!(dead.store.count_dead_letters(&all()).await.unwrap(), 6);
    let page = dead.store.dead_letter_page(&of, Order::OldestFirst, None, 2).await.unwrap();
    assert!(page.iter().map(|row| row.place.id).eq([dead.ids[0], dead.ids[2]]), "{page:?}");
    let next = Some(&page[1].place);
    let page = dead.store.dead_letter_page(&of, Order::OldestFirst, next, 2).await.unwrap();
    assert!(page.iter().map(|row| row.place.id).eq([dead.ids[5]]), "{page:?}");
    assert_eq!(dead.store.dead_letter_groups(&of, 10).await.unwrap().looked_at, 3);
    let none = DeadLetterFilter { group: Some("%".to_owned()), ..all() };
    assert_eq!(dead.store.count_dead_letters(&none).await.unwrap(), 0);
}

/// Every store groups as `posthaste_core::reason` says.
pub(crate) async fn r14_reasons_are_grouped_alike_everywhere<H: Harness>() {
    let long = format!("{}7", "ä 1 ".repeat(100));
    let reasons = [
        "a1b2c3d4e5f6",
        "12345678-1234-1234-1234-123456789abcdef0",
        "x12345678-1234-1234-1234-123456789abc-",
        "00000000-0000-0000-0000-00000000000",
        "abcdefab abcdefa 7abcdefg",
        "code500bad 0xdeadBEEF\n\ttab",
        "größe Ärger ٣ ½",
        "\\ ' \" % _ # $1",
        long.as_str(),
    ];
    let (_harness, dead) = Dead::of::<H>(&reasons).await;
    let found = dead.store.dead_letter_groups(&all(), 100).await.unwrap();
    let mut told: Vec<String> = found.groups.into_iter().map(|group| group.reason).collect();
    let mut expected: Vec<String> = reasons.iter().map(|reason| group(reason)).collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

pub(crate) async fn audit_trail_is_read_by_every_condition_and_page_by_page<H: Harness>() {
    let (_harness, dead) = Dead::of::<H>(&["a", "b"]).await;
    let store = &dead.store;
    let bob = Request { actor: "bob".to_owned(), ..request() };
    store.pause("s", true, &request()).await.unwrap();
    store.pause("s", false, &bob).await.unwrap();
    let one = Selection { ids: vec![dead.ids[0]], ..Selection::default() };
    store.discard_dead_letters(&one, &request()).await.unwrap();
    let read = async |which: AuditFilter, limit| store.audit(&which, limit).await.unwrap();
    let whole = read(AuditFilter::default(), 10).await;
    let told: Vec<(&str, &str, Option<&str>)> = whole
        .iter()
        .map(|it| (it.actor.as_str(), it.action.as_str(), it.subscription.as_deref()))
        .collect();
    let expected = [
        ("ann", "discard dead letters", None),
        ("bob", "resume", Some("s")),
        ("ann", "pause", Some("s")),
    ];
    assert_eq!(told, expected);
    let detail: serde_json::Value = serde_json::from_str(&whole[0].detail).unwrap();
    let selection = serde_json::json!({ "ids": [dead.ids[0].to_string()] });
    assert_eq!((&detail["selection"], &detail["messages"]), (&selection, &serde_json::json!(1)));
    let page = read(AuditFilter::default(), 2).await;
    assert_eq!(page, whole[..2]);
    let before = Some(page[1].n);
    assert_eq!(read(AuditFilter { before, ..AuditFilter::default() }, 2).await, whole[2..]);
    let text = |text: &str| Some(text.to_owned());
    let hour = 3_600_000_000;
    let (at, none) = (whole[0].at.0, AuditFilter::default());
    for (which, expected) in [
        (AuditFilter { actor: text("ann"), ..none.clone() }, vec![0, 2]),
        (AuditFilter { action: text("resume"), ..none.clone() }, vec![1]),
        (AuditFilter { subscription: text("s"), ..none.clone() }, vec![1, 2]),
        (AuditFilter { subscription: text("t"), ..none.clone() }, vec![]),
        (AuditFilter { since: Some(Timestamp(at + hour)), ..none.clone() }, vec![]),
        (AuditFilter { since: Some(Timestamp(at - hour)), ..none.clone() }, vec![0, 1, 2]),
        (AuditFilter { until: Some(Timestamp(at - hour)), ..none.clone() }, vec![]),
        (AuditFilter { until: Some(Timestamp(at + hour)), ..none.clone() }, vec![0, 1, 2]),
    ] {
        let found = read(which.clone(), 10).await;
        assert!(
            found.iter().eq(expected.iter().map(|n: &usize| &whole[*n])),
            "{which:?}: {found:?}"
        );
    }
}

pub(crate) async fn relays_and_workers_are_told_with_what_they_have<H: Harness>() {
    let (harness, dead) = Dead::of::<H>(&[]).await;
    let store = &dead.store;
    store.reconcile(&[subscription("t", &["t"], Start::Now)]).await.unwrap();
    let view = posthaste_core::RelayView {
        holder: "two".to_owned(),
        subscriptions: vec!["s".to_owned(), "t".to_owned()],
    };
    store.renew(&view, LEASE).await.unwrap();
    let (epoch, _) = taken(&**store, "t", "two").await;
    let relays = store.relays().await.unwrap();
    // The first holds what it holds, and has never said that it is alive.
    let [one, two] = &relays[..] else { panic!("{relays:?}") };
    assert_eq!((one.holder.as_str(), one.seen_at, &one.subscriptions), ("one", None, &vec![]));
    assert_eq!((one.holds.len(), one.holds[0].subscription.as_str()), (1, "s"));
    assert_eq!((two.holder.as_str(), &two.subscriptions), ("two", &view.subscriptions));
    assert!(two.silent_micros.unwrap() < 600_000_000 && two.version.is_some(), "{two:?}");
    let held = &two.holds[0];
    assert_eq!((two.holds.len(), held.subscription.as_str(), held.epoch), (1, "t", epoch));
    assert!(held.since.unwrap() < held.until, "{held:?}");
    store.release("s", dead.epoch).await.unwrap();
    let relays = store.relays().await.unwrap();
    assert!(relays.iter().map(|relay| relay.holder.as_str()).eq(["two"]), "{relays:?}");

    assert_eq!(store.workers().await.unwrap(), []);
    let jobs = harness.jobs().await;
    let spec = WorkerSpec {
        name: "post".to_owned(),
        topics: vec!["mail".to_owned()],
        sources: vec!["a queue".to_owned()],
        version: "1".to_owned(),
    };
    let id = jobs.register_worker(&spec, LEASE).await.unwrap();
    let job = posthaste_core::NewJob::of(Message::new("mail").json(&7));
    let submitted = jobs.submit_jobs(&[job]).await.unwrap();
    let message = jobs.job(submitted[0]).await.unwrap().unwrap().job.message_id;
    let handed = posthaste_store::Handed { job: submitted[0], message };
    jobs.begin_jobs(id, &[handed]).await.unwrap();
    let workers = store.workers().await.unwrap();
    let [worker] = &workers[..] else { panic!("{workers:?}") };
    assert_eq!((worker.id, worker.name.as_str(), worker.running), (id, "post", 1));
    assert_eq!((&worker.topics, &worker.sources), (&spec.topics, &spec.sources));
    assert!(worker.is_alive && worker.lease_until.unwrap() > worker.seen_at, "{worker:?}");
}

pub(crate) async fn r39_census_counts_jobs_entities_and_commands<H: Harness>() {
    let harness = H::empty().await;
    let store = harness.operations().await;
    store.migrate().await.unwrap();
    assert_eq!(store.census().await.unwrap(), Census::default());
    let jobs = harness.jobs().await;
    let job = || posthaste_core::NewJob::of(Message::new("mail").json(&7));
    let ids = jobs.submit_jobs(&[job(), job(), job()]).await.unwrap();
    let request = Request { actor: "ann".to_owned(), is_dry_run: false, is_forced: false };
    jobs.cancel_job(ids[1], &request).await.unwrap();
    let prefix = if H::HAS_SLOTS { "posthaste." } else { "posthaste_" };
    let definition = r#"{"name":"order","states":["new","paid"],"initial":["new"],"terminal":["paid"],"transitions":[{"from":"new","to":"paid"}]}"#;
    let definition: posthaste_core::machine::Definition = serde_json::from_str(definition).unwrap();
    let machine = posthaste_core::Machine::try_from(definition).unwrap();
    store.push_machine(&machine, &request).await.unwrap();
    for (id, state, version) in
        [("a", "new", 1), ("b", "paid", 2), ("c", "new", 1), ("d", "paid", 4)]
    {
        let sql = format!(
            "insert into {prefix}entity (machine, entity_id, state, version) \
             values ('order', '{id}', '{state}', {version})"
        );
        assert!(harness.takes(&sql).await);
    }
    let (digest, owner) = if H::HAS_SLOTS {
        (format!("'\\x{}'", "00".repeat(32)), "gen_random_uuid()")
    } else {
        (format!("x'{}'", "00".repeat(32)), "randomblob(16)")
    };
    let (lease, response, now) =
        if H::HAS_SLOTS { ("now()", "''::bytea", "now()") } else { ("1", "x''", "1") };
    for (key, lease, response, now) in [("1", "null", response, now), ("2", lease, "null", "null")]
    {
        let sql = format!(
            "insert into {prefix}command (scope, key, fingerprint, owner, lease_until, response, completed_at) \
             values ('s', '{key}', {digest}, {owner}, {lease}, {response}, {now})"
        );
        assert!(harness.takes(&sql).await, "{sql}");
    }
    let census = store.census().await.unwrap();
    let of = |name: &str, n| (name.to_owned(), n);
    assert_eq!(census.jobs, [of("cancelled", 1), of("created", 2)]);
    let entities: Vec<_> =
        census.entities.iter().map(|it| (it.state.as_str(), it.entities, it.steps)).collect();
    assert_eq!(entities, [("new", 2, 2), ("paid", 2, 6)]);
    assert_eq!((census.commands_completed, census.commands_in_progress), (1, 1));
}
