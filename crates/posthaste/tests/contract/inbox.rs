//! Inboxes: first deliveries, repeats, and what becomes of a transaction.

use std::time::Duration;

use posthaste::{Delivery, EnqueueErrorKind, Inbox, MessageId, SchemaName};
use posthaste_testkit::eventually_async;
use tokio::task::{LocalSet, spawn_local};

use super::{begin, commit_in_vain};
use crate::support::{Place, sessions::Session};

/// No wait takes longer unless something is broken.
const LIMIT: Duration = Duration::from_mins(1);

const NONE: [MessageId; 0] = [];

fn inbox(consumer: &str) -> Inbox {
    Inbox::new(SchemaName::default(), consumer).unwrap()
}

fn ids<const N: usize>() -> [MessageId; N] {
    std::array::from_fn(|_| MessageId::now_v7())
}

/// A delivery: the effect is a row in `orders`.
async fn deliver<S: Session>(session: &mut S, id: MessageId) -> Delivery {
    session.execute("begin").await.unwrap();
    let delivery = session.handle(&inbox("mail"), id).await.unwrap();
    if delivery.is_first() {
        session.execute("insert into orders (id) values (17)").await.unwrap();
    }
    session.execute("commit").await.unwrap();
    delivery
}

pub(super) async fn r28_message_is_handled_the_first_time_and_a_repeat_from_then_on<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (inbox, [one, two]) = (inbox("mail"), ids());

    begin(&mut session).await;
    assert_eq!(session.handle(&inbox, one).await.unwrap(), Delivery::First);
    assert_eq!(session.handle(&inbox, one).await.unwrap(), Delivery::Repeat);
    session.execute("commit").await.unwrap();
    begin(&mut session).await;
    assert_eq!(session.handle(&inbox, one).await.unwrap(), Delivery::Repeat);
    assert_eq!(session.handle(&inbox, two).await.unwrap(), Delivery::First);
    session.execute("commit").await.unwrap();
    let expected = [one, two].map(|id| ("mail".to_owned(), id));
    assert_eq!(place.inbox().await, expected);
}

pub(super) async fn r28_rolled_back_message_is_handled_at_its_next_delivery<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (inbox, [one, two]) = (inbox("mail"), ids());

    begin(&mut session).await;
    assert_eq!(session.handle(&inbox, one).await.unwrap(), Delivery::First);
    assert_eq!(session.handle_many(&inbox, &[two]).await.unwrap(), [two]);
    session.execute("rollback").await.unwrap();
    assert_eq!(place.inbox().await, []);

    begin(&mut session).await;
    session.execute("savepoint attempt").await.unwrap();
    assert_eq!(session.handle(&inbox, one).await.unwrap(), Delivery::First);
    session.execute("rollback to savepoint attempt").await.unwrap();
    assert_eq!(session.handle_many(&inbox, &[two, one]).await.unwrap(), [two, one]);
    session.execute("commit").await.unwrap();
    assert_eq!(place.inbox().await.len(), 2);
}

pub(super) async fn r28_consumers_of_different_names_do_not_see_each_other<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let [id] = ids();
    let longest = "ö".repeat(127);
    for consumer in ["mail", "mail ", "Mail", "' \" \\ $1 ?1 🔑", &longest] {
        begin(&mut session).await;
        assert_eq!(session.handle(&inbox(consumer), id).await.unwrap(), Delivery::First);
        assert_eq!(session.handle_many(&inbox(consumer), &[id]).await.unwrap(), NONE);
        session.execute("commit").await.unwrap();
    }
    assert_eq!(place.inbox().await.len(), 5);
}

pub(super) async fn r28_bulk_answers_what_is_new_each_once_in_the_order_given<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (inbox, [a, b, c, d]) = (inbox("mail"), ids());

    begin(&mut session).await;
    assert_eq!(session.handle_many(&inbox, &[]).await.unwrap(), NONE);
    assert_eq!(session.handle_many(&inbox, &[c, a, c]).await.unwrap(), [c, a]);
    assert_eq!(session.handle_many(&inbox, &[d, c, b, a, d]).await.unwrap(), [d, b]);
    session.execute("commit").await.unwrap();
    assert_eq!(session.handle_many(&inbox, &[a, b, c, d]).await.unwrap(), NONE);

    let many: Vec<_> = (0..10_000).map(|_| MessageId::now_v7()).rev().collect();
    begin(&mut session).await;
    assert_eq!(session.handle_many(&inbox, &many).await.unwrap(), many);
    session.execute("commit").await.unwrap();
    assert_eq!(place.inbox().await.len(), 10_004);
}

pub(super) async fn r28_too_many_messages_at_once_are_refused_and_abort_the_transaction<
    S: Session,
>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    begin(&mut session).await;
    let many = vec![MessageId::nil(); 10_001];
    let error = session.handle_many(&inbox("mail"), &many).await.unwrap_err();
    let text = "message refused: message_ids must be at most 10000 in one call, not \"10001\"";
    assert_eq!(error.to_string(), text);
    assert!(matches!(error.kind(), EnqueueErrorKind::Invalid(_)) && error.transaction_aborted());
    commit_in_vain(&mut session).await;
    assert_eq!((place.inbox().await, place.orders().await), (vec![], 0));
}

pub(super) async fn r28_failed_handling_aborts_the_transaction<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let elsewhere = Inbox::new("elsewhere".parse().unwrap(), "mail").unwrap();
    let [id] = ids();
    for is_bulk in [false, true] {
        begin(&mut session).await;
        assert_eq!(session.handle(&inbox("mail"), id).await.unwrap(), Delivery::First);
        let error = if is_bulk {
            session.handle_many(&elsewhere, &[id]).await.unwrap_err()
        } else {
            session.handle(&elsewhere, id).await.unwrap_err()
        };
        assert_eq!(error.kind(), &EnqueueErrorKind::MissingSchema);
        let text = "message not handled (run `posthaste migrate`, or check the schema name)";
        assert_eq!(error.to_string(), text);
        assert!(error.transaction_aborted());
        assert!(S::is_own(std::error::Error::source(&error).unwrap()), "{error:?}");
        commit_in_vain(&mut session).await;
        assert_eq!((place.inbox().await, place.orders().await), (vec![], 0));
    }
}

/// Waits until a statement in this database waits for another transaction.
async fn somebody_waits(place: &Place) {
    let client = place.database().connect().await;
    let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' \
                 and datname = current_database())";
    let waits = async || client.query_one(waits, &[]).await.unwrap().get(0);
    eventually_async("a wait for a lock", LIMIT, waits).await;
}

/// What a second delivery is that comes while a first one is handled, which ends by `end`.
async fn twin<S: Session + 'static>(end: &'static str) -> Delivery {
    let place = S::place().await;
    let (mut first, mut second) = (S::open(&place).await, S::open(&place).await);
    let [id] = ids();
    first.execute("begin").await.unwrap();
    assert_eq!(first.handle(&inbox("mail"), id).await.unwrap(), Delivery::First);
    let twin = async {
        let twin = spawn_local(async move { deliver(&mut second, id).await });
        somebody_waits(&place).await;
        first.execute(end).await.unwrap();
        twin.await.unwrap()
    };
    LocalSet::new().run_until(twin).await
}

pub(super) async fn r28_twin_waits_and_is_a_repeat_if_the_first_commits<S: Session + 'static>() {
    assert_eq!(twin::<S>("commit").await, Delivery::Repeat);
}

pub(super) async fn r28_twin_waits_and_is_first_if_the_first_rolls_back<S: Session + 'static>() {
    assert_eq!(twin::<S>("rollback").await, Delivery::First);
}

pub(super) async fn r28_fifty_deliveries_at_once_take_effect_once<S: Session + 'static>() {
    const AT_ONCE: usize = 10;
    let place = S::place().await;
    let [id] = ids();
    let mut sessions = Vec::new();
    for _ in 0..AT_ONCE {
        sessions.push(S::open(&place).await);
    }
    let local = LocalSet::new();
    let deliveries = local.run_until(async {
        let mut tasks = Vec::new();
        for mut session in sessions {
            tasks.push(spawn_local(async move {
                let mut first = 0;
                for _ in 0..5 {
                    first += usize::from(deliver(&mut session, id).await.is_first());
                }
                first
            }));
        }
        let mut first = 0;
        for task in tasks {
            first += task.await.unwrap();
        }
        first
    });
    assert_eq!(deliveries.await, 1);
    assert_eq!((place.orders().await, place.inbox().await.len()), (1, 1));
}

pub(super) async fn r28_connection_that_is_killed_before_its_commit_lets_the_redelivery_take_effect<
    S: Session,
>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let [id] = ids();
    begin(&mut session).await;
    assert_eq!(session.handle(&inbox("mail"), id).await.unwrap(), Delivery::First);
    let killer = place.database().connect().await;
    let others = "from pg_stat_activity where datname = current_database() \
                  and pid <> pg_backend_pid() and backend_type = 'client backend'";
    let kill = format!("select pg_terminate_backend(pid) {others}");
    killer.execute(&kill, &[]).await.unwrap();
    let are_gone = format!("select not exists (select {others})");
    let are_gone = async || killer.query_one(&are_gone, &[]).await.unwrap().get(0);
    eventually_async("the end of the other connections", LIMIT, are_gone).await;
    session.execute("commit").await.unwrap_err();
    assert_eq!((place.inbox().await, place.orders().await), (vec![], 0));

    let mut again = S::open(&place).await;
    assert_eq!(deliver(&mut again, id).await, Delivery::First);
    assert_eq!(deliver(&mut again, id).await, Delivery::Repeat);
    assert_eq!(place.orders().await, 1);
}
