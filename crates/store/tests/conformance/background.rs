//! Operations in the background: each message once, whoever runs them.

use std::time::Duration;

use posthaste_core::Message;
use posthaste_store::{
    Advanced, DeadLetterFilter, Operation, OperationBegun, OperationCancelled, OperationClaim,
    OperationKind, OperationSpec, OperationState, Operations, ReplayChunk, Request, Selection,
    Start, StoreErrorKind, UNFINISHED_MAX,
};

use super::{
    harness::Harness,
    oversight::Dead,
    reader::{publish_all, subscription},
};

const LEASE: Duration = Duration::from_mins(5);
/// A lease that has run out once it is given.
const NO_LEASE: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_hours(1);

fn request() -> Request {
    Request { actor: "ann".to_owned(), is_dry_run: false, is_forced: false }
}

fn preview() -> Request {
    Request { is_dry_run: true, ..request() }
}

fn replay_all() -> OperationSpec {
    OperationSpec {
        kind: OperationKind::ReplayDeadLetters,
        filter: DeadLetterFilter::default(),
        rate: None,
        target: None,
    }
}

async fn begun(store: &dyn Operations, spec: &OperationSpec) -> Operation {
    match store.begin_operation(spec, &request()).await.unwrap() {
        OperationBegun::Begun(operation) => *operation,
        other => panic!("{other:?}"),
    }
}

async fn claimed(store: &dyn Operations, runner: &str, lease: Duration) -> OperationClaim {
    store.claim_operation(runner, lease).await.unwrap().expect("an operation that nobody runs")
}

/// Runs an operation to its end.
async fn finished(store: &dyn Operations, claim: &OperationClaim, rows: u32) -> Operation {
    while !matches!(store.advance_operation(claim, rows, LEASE).await.unwrap(), Advanced::Over(_)) {
    }
    shown(store, claim).await
}

async fn shown(store: &dyn Operations, claim: &OperationClaim) -> Operation {
    store.operation(claim.operation.id).await.unwrap().unwrap()
}

pub(crate) async fn r14_operation_replays_what_was_dead_when_it_began_and_each_once<H: Harness>() {
    let (harness, mut dead) = Dead::of::<H>(&["a", "b", "c", "d", "e"]).await;
    let store = std::sync::Arc::clone(&dead.store);
    let operation = begun(&*store, &replay_all()).await;
    assert_eq!((operation.total, operation.done), (Some(5), 0));
    assert_eq!((operation.state, operation.actor.as_str()), (OperationState::Waiting, "ann"));
    let claim = claimed(&*store, "one", LEASE).await;
    assert_eq!(claim.operation.spec, replay_all());
    let first = store.advance_operation(&claim, 2, LEASE).await.unwrap();
    assert_eq!(first, Advanced::Going(Duration::ZERO));
    assert_eq!((dead.due(HOUR).await, dead.dead().await), (vec![0, 1], vec![2, 3, 4]));
    assert_eq!((shown(&*store, &claim).await.done), 2);
    // One fails again, and one that was never among them fails for the first time.
    dead.fails_again(0).await;
    dead.add(&["f"]).await;
    let over = finished(&*store, &claim, 2).await;
    assert_eq!((over.state, over.done, over.problem), (OperationState::Done, 5, None));
    assert!(over.ended_at.unwrap() >= over.began_at);
    assert_eq!((dead.due(HOUR).await, dead.dead().await), (vec![1, 2, 3, 4], vec![0, 5]));
    let aside = store.aside("s").await.unwrap().messages;
    assert!(aside.iter().filter(|it| it.retry_in.is_some()).all(|it| it.attempts == 0));
    let action = ("ann".to_owned(), "replay dead letters".to_owned());
    assert_eq!(harness.audit().await, [action.clone(), action]);
    // Nobody finds anything more to do.
    assert_eq!(store.claim_operation("two", LEASE).await.unwrap(), None);
    assert_eq!(store.advance_operation(&claim, 2, LEASE).await.unwrap(), Advanced::Lost);
}

pub(crate) async fn operation_of_a_killed_runner_goes_on_with_the_next_and_never_with_both<
    H: Harness,
>() {
    let (_harness, dead) = Dead::of::<H>(&["a", "b", "c", "d", "e"]).await;
    let store = &*dead.store;
    begun(store, &replay_all()).await;
    let first = claimed(store, "one", LEASE).await;
    assert_eq!(store.claim_operation("two", LEASE).await.unwrap(), None);
    store.advance_operation(&first, 2, NO_LEASE).await.unwrap();
    let second = claimed(store, "two", LEASE).await;
    assert_eq!(second.operation.done, 2);
    // The first one was only slow.
    assert_eq!(store.advance_operation(&first, 2, LEASE).await.unwrap(), Advanced::Lost);
    store.fail_operation(&first, "late").await.unwrap();
    store.release_operation(&first).await.unwrap();
    assert_eq!(store.claim_operation("three", LEASE).await.unwrap(), None);
    assert_eq!(dead.due(HOUR).await, [0, 1]);
    dead.fails_again(1).await;
    let over = finished(store, &second, 2).await;
    assert_eq!(
        (over.state, over.done, over.runner.as_deref()),
        (OperationState::Done, 5, Some("two"))
    );
    assert_eq!((dead.due(HOUR).await, dead.dead().await), (vec![0, 2, 3, 4], vec![1]));
}

pub(crate) async fn operation_that_is_given_up_is_taken_up_at_once<H: Harness>() {
    let (_harness, dead) = Dead::of::<H>(&["a"]).await;
    let store = &*dead.store;
    begun(store, &replay_all()).await;
    let first = claimed(store, "one", LEASE).await;
    store.release_operation(&first).await.unwrap();
    let second = claimed(store, "two", LEASE).await;
    assert_eq!(second.epoch, first.epoch + 1);
}

pub(crate) async fn cancelled_operation_ends_before_its_next_piece<H: Harness>() {
    let (harness, dead) = Dead::of::<H>(&["a", "b", "c"]).await;
    let store = &*dead.store;
    let operation = begun(store, &replay_all()).await;
    let claim = claimed(store, "one", LEASE).await;
    store.advance_operation(&claim, 1, LEASE).await.unwrap();
    let wanted = OperationCancelled::Wanted;
    assert_eq!(store.cancel_operation(operation.id, &preview()).await.unwrap(), wanted);
    assert!(!shown(store, &claim).await.is_cancel_wanted);
    assert_eq!(store.cancel_operation(operation.id, &request()).await.unwrap(), wanted);
    assert!(shown(store, &claim).await.is_cancel_wanted);
    let ended = store.advance_operation(&claim, 1, LEASE).await.unwrap();
    assert_eq!(ended, Advanced::Over(OperationState::Cancelled));
    assert_eq!(dead.dead().await, [1, 2]);
    let over = OperationCancelled::Over(OperationState::Cancelled);
    assert_eq!(store.cancel_operation(operation.id, &request()).await.unwrap(), over);
    let unknown = store.cancel_operation(dead.ids[0], &request()).await.unwrap();
    assert_eq!(unknown, OperationCancelled::Unknown);
    let actions: Vec<String> = harness.audit().await.into_iter().map(|(_, it)| it).collect();
    assert_eq!(actions, ["replay dead letters", "cancel operation", "replay dead letters"]);
}

pub(crate) async fn operation_discards_what_its_filter_means<H: Harness>() {
    let (harness, dead) = Dead::of::<H>(&["HTTP 1", "gone", "HTTP 22", "HTTP 3"]).await;
    let store = &*dead.store;
    let group = Some("HTTP #".to_owned());
    let ids = vec![dead.ids[0], dead.ids[1], dead.ids[2]];
    let which = Selection { ids, subscription: Some("s".to_owned()), ..Selection::default() };
    let filter = DeadLetterFilter { which, group };
    let spec = OperationSpec { kind: OperationKind::DiscardDeadLetters, filter, ..replay_all() };
    let would = store.begin_operation(&spec, &preview()).await.unwrap();
    assert_eq!(would, OperationBegun::WouldConcern(Some(2)));
    assert_eq!((dead.dead().await.len(), harness.audit().await.len()), (4, 0));
    assert_eq!(store.operations(None, 10).await.unwrap(), []);
    begun(store, &spec).await;
    let claim = claimed(store, "one", LEASE).await;
    assert_eq!(claim.operation.spec, spec);
    assert_eq!(finished(store, &claim, 10).await.done, 2);
    assert_eq!(dead.dead().await, [1, 3]);
    let trail = store.audit(&posthaste_store::AuditFilter::default(), 10).await.unwrap();
    assert!(trail.iter().all(|entry| entry.subscription.as_deref() == Some("s")), "{trail:?}");
    assert!(trail[0].detail.contains("done") && trail[1].detail.contains("HTTP #"), "{trail:?}");
}

pub(crate) async fn operation_keeps_to_its_rate<H: Harness>() {
    let (_harness, dead) = Dead::of::<H>(&["a", "b", "c"]).await;
    let store = &*dead.store;
    let spec = OperationSpec { rate: Some(0.001), ..replay_all() };
    begun(store, &spec).await;
    let claim = claimed(store, "one", LEASE).await;
    let first = store.advance_operation(&claim, 1_000, LEASE).await.unwrap();
    assert_eq!((first, shown(store, &claim).await.done), (Advanced::Going(Duration::ZERO), 1));
    // The next one is due in a thousand seconds: until then it is looked at, and prolonged.
    for _ in 0..3 {
        let Advanced::Going(wait) = store.advance_operation(&claim, 1_000, LEASE).await.unwrap()
        else {
            panic!("it goes on")
        };
        assert!(!wait.is_zero() && wait <= Duration::from_secs(2), "{wait:?}");
    }
    assert_eq!((shown(store, &claim).await.done, dead.dead().await), (1, vec![1, 2]));
    assert_eq!(dead.due(Duration::from_mins(1)).await, [0]);
}

pub(crate) async fn rate_holds_within_a_piece<H: Harness>() {
    let (harness, dead) = Dead::of::<H>(&["a", "b", "c"]).await;
    let store = &*dead.store;
    let spec = OperationSpec { rate: Some(2.5), ..replay_all() };
    begun(store, &spec).await;
    let claim = claimed(store, "one", LEASE).await;
    store.advance_operation(&claim, 1_000, LEASE).await.unwrap();
    // Two distances of four tenths of a second.
    let spread = if H::HAS_SLOTS {
        "select round(extract(epoch from max(due) - min(due)) * 1000)::bigint \
         from posthaste.failed_message"
    } else {
        "select (max(due) - min(due)) / 1000 from posthaste_failed_message"
    };
    let spread = harness.count(spread).await;
    assert!(spread >= 790, "{spread} ms");
}

pub(crate) async fn r14_operation_replays_messages_of_the_log_in_pieces<H: Harness>() {
    let (_harness, dead) = Dead::of::<H>(&["a"]).await;
    let store = &*dead.store;
    store.release("s", dead.epoch).await.unwrap();
    let messages: Vec<Message> = (0..5).map(|n| Message::new(format!("t{}", n % 2))).collect();
    let ids = store.append(&messages).await.unwrap();
    publish_all(store, "s").await;
    store.reconcile(&[subscription("other", &["nothing"], Start::Now)]).await.unwrap();
    let topics = Some(posthaste_core::TopicFilter::new(&["t*"]).unwrap());
    let which = Selection { subscription: Some("s".to_owned()), topics, ..Selection::default() };
    let spec = OperationSpec {
        kind: OperationKind::ReplayMessages,
        filter: DeadLetterFilter { which, group: None },
        rate: None,
        target: Some("other".to_owned()),
    };
    let would = store.begin_operation(&spec, &preview()).await.unwrap();
    assert_eq!(would, OperationBegun::WouldConcern(Some(5)));
    begun(store, &spec).await;
    // What comes later is none of its business.
    store.append(&[Message::new("t1")]).await.unwrap();
    let first = claimed(store, "one", LEASE).await;
    store.advance_operation(&first, 2, NO_LEASE).await.unwrap();
    let second = claimed(store, "two", LEASE).await;
    let over = finished(store, &second, 2).await;
    assert_eq!((over.state, over.done, over.total), (OperationState::Done, 5, Some(5)));
    let due = store.due_messages("other", 10).await.unwrap();
    assert!(due.page.iter().map(|message| message.id).eq(ids), "each once, in order");
    let nobody = OperationSpec { target: Some("nobody".to_owned()), ..spec };
    let error = store.begin_operation(&nobody, &request()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
}

pub(crate) async fn r14_replay_fails_whose_source_or_target_was_removed<H: Harness>() {
    let (_harness, dead) = Dead::of::<H>(&["a"]).await;
    let store = &*dead.store;
    store.release("s", dead.epoch).await.unwrap();
    for removed in ["target", "source"] {
        let specs = ["target", "source"].map(|name| subscription(name, &["t"], Start::Now));
        store.reconcile(&specs).await.unwrap();
        let which = Selection { subscription: Some("source".to_owned()), ..Selection::default() };
        let spec = OperationSpec {
            kind: OperationKind::ReplayMessages,
            filter: DeadLetterFilter { which: which.clone(), group: None },
            rate: None,
            target: Some("target".to_owned()),
        };
        let operation = begun(store, &spec).await;
        store.remove(removed, &request()).await.unwrap();
        let claim = claimed(store, "one", LEASE).await;
        // As whoever runs it does.
        if let Err(error) = store.advance_operation(&claim, 2, LEASE).await {
            assert_eq!(error.kind(), StoreErrorKind::Invalid);
            store.fail_operation(&claim, error.doing()).await.unwrap();
        }
        let over = store.operation(operation.id).await.unwrap().unwrap();
        assert_eq!(over.state, OperationState::Failed, "{removed}");
        let problem = over.problem.unwrap();
        assert!(problem.contains(&format!("{removed:?} does not exist")), "{problem}");
        let chunk = ReplayChunk {
            limit: 2,
            after: 0,
            through: None,
            rate: None,
            starts_in: Duration::ZERO,
        };
        let error = store.replay(&which, "target", &chunk, &request()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Invalid, "{removed}");
    }
}

pub(crate) async fn operation_that_cannot_go_on_says_why<H: Harness>() {
    let (_harness, dead) = Dead::of::<H>(&["a"]).await;
    let store = &*dead.store;
    begun(store, &replay_all()).await;
    let claim = claimed(store, "one", LEASE).await;
    store.fail_operation(&claim, "the disk\0 is full").await.unwrap();
    let over = shown(store, &claim).await;
    assert_eq!(over.state, OperationState::Failed);
    assert!(over.problem.as_deref().unwrap().starts_with("the disk"), "{over:?}");
    assert_eq!(dead.dead().await, [0]);
    assert_eq!(store.claim_operation("two", LEASE).await.unwrap(), None);
}

pub(crate) async fn operations_are_bounded_and_listed_page_by_page<H: Harness>() {
    let (_harness, dead) = Dead::of::<H>(&["a"]).await;
    let store = &*dead.store;
    let mut begun_ids = Vec::new();
    for _ in 0..UNFINISHED_MAX {
        begun_ids.push(begun(store, &replay_all()).await.id);
    }
    let more = store.begin_operation(&replay_all(), &request()).await.unwrap();
    assert_eq!(more, OperationBegun::TooMany);
    let mut listed = Vec::new();
    let mut before = None;
    loop {
        let page = store.operations(before, 30).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.n);
        listed.extend(page.iter().map(|operation| operation.id));
    }
    listed.reverse();
    assert_eq!(listed, begun_ids, "the newest first");
    // The oldest is taken up first, and its end makes room.
    let claim = claimed(store, "one", LEASE).await;
    assert_eq!(claim.operation.id, begun_ids[0]);
    finished(store, &claim, 10).await;
    begun(store, &replay_all()).await;
}
