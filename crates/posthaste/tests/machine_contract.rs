//! What every adapter promises about steps of machines, run on all of them.

use std::{error::Error as _, pin::pin, task::Poll};

use posthaste::{
    CommandError, CommandErrorKind, EnqueueErrorKind, Machines, Message, Refusal, Step, Taken,
    Timestamp,
    machine::{Definition, EntityTable, Machine, TransitionDefinition},
};
use serde_json::{Value, json};

use crate::support::{
    Place,
    sessions::{
        Rusqlite, Session as _, SqlxPostgres, SqlxSqlite, TokioPostgres,
        deadpool::Deadpool,
        diesel::Diesel,
        machines::MachineSession,
        sea_orm::{SeaOrmPostgres, SeaOrmSqlite},
    },
};

macro_rules! contract {
    ($($test:ident)*) => {
        contract!(@of tokio_postgres TokioPostgres $($test)*);
        contract!(@of deadpool_postgres Deadpool $($test)*);
        contract!(@of diesel_async Diesel $($test)*);
        contract!(@of sea_orm_postgres SeaOrmPostgres $($test)*);
        contract!(@of sqlx_postgres SqlxPostgres $($test)*);
        contract!(@of sea_orm_sqlite SeaOrmSqlite $($test)*);
        contract!(@of sqlx_sqlite SqlxSqlite $($test)*);
        contract!(@of rusqlite Rusqlite $($test)*);
    };
    (@of $adapter:ident $session:ident $($test:ident)*) => {
        mod $adapter {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<super::$session>().await;
            })*
        }
    };
}

contract! {
    r20_start_writes_state_event_key_and_messages
    r21_refused_step_says_why_and_its_transaction_cannot_commit
    r22_repeat_of_a_step_gets_the_first_answer
    r23_what_is_known_of_an_entity_goes_with_its_row
    r24_steps_leave_a_trail_and_say_what_happened
    entity_of_another_organisation_is_no_entity
    messages_of_a_step_keep_what_they_ask_for
}

/// Entities are the application's orders.
fn order_machine() -> Machine {
    let definition = Definition {
        entity: Some(EntityTable {
            table: "public.orders".to_owned(),
            key: "id".to_owned(),
            organization: None,
        }),
        states: ["placed", "paid", "shipped"].map(str::to_owned).to_vec(),
        initial: vec!["placed".to_owned()],
        terminal: vec!["shipped".to_owned()],
        transitions: vec![
            TransitionDefinition {
                by: vec!["cashier".to_owned()],
                messages: vec!["orders.paid".to_owned()],
                ..TransitionDefinition::new(["placed"], "paid")
            },
            TransitionDefinition {
                requires: vec!["parcel".to_owned()],
                ..TransitionDefinition::new(["paid"], "shipped")
            },
        ],
        ..Definition::new("order")
    };
    Machine::try_from(definition).unwrap()
}

/// Entities are nowhere else.
fn lamp_machine() -> Machine {
    let definition = Definition {
        states: ["off", "on"].map(str::to_owned).to_vec(),
        initial: vec!["off".to_owned()],
        transitions: vec![
            TransitionDefinition::new(["off"], "on"),
            TransitionDefinition::new(["on"], "off"),
        ],
        ..Definition::new("lamp")
    };
    Machine::try_from(definition).unwrap()
}

async fn place<S: MachineSession>() -> (Place, S) {
    let place = S::place().await;
    place.push(&order_machine()).await;
    place.push(&lamp_machine()).await;
    let mut session = S::open(&place).await;
    session.execute("insert into orders (id) values (17)").await.unwrap();
    (place, session)
}

/// State, events, keys and messages: what a step leaves.
async fn counts(place: &Place) -> [i64; 4] {
    let mut counts = [0; 4];
    for (count, table) in counts.iter_mut().zip(["entity", "state_event", "command", "log"]) {
        *count = place.rows_of(table).await;
    }
    counts
}

fn start() -> Step {
    Step::new("order", "17", "placed")
        .idempotency_key("key")
        .by("shop")
        .user("user-1")
        .correlation_id("corr-1")
        .metadata("total", 5)
        .message(Message::new("jobs.print").json(&json!({ "order": 17 })))
        .message(Message::new("jobs.pick").key("shelf-3").correlation_id("other"))
}

fn pay() -> Step {
    Step::new("order", "17", "paid").by("cashier")
}

async fn taken<S: MachineSession>(
    session: &mut S,
    step: &Step,
    is_start: bool,
) -> Result<Taken, CommandError> {
    let machines = Machines::default();
    if is_start { session.start(&machines, step).await } else { session.go(&machines, step).await }
}

async fn committed<S: MachineSession>(
    session: &mut S,
    step: &Step,
    is_start: bool,
) -> Result<Taken, CommandError> {
    session.execute("begin").await.unwrap();
    let taken = taken(session, step, is_start).await;
    session.execute(if taken.is_ok() { "commit" } else { "rollback" }).await.unwrap();
    taken
}

fn causes(error: &CommandError) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn r20_start_writes_state_event_key_and_messages<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    let taken = committed(&mut session, &start(), true).await.unwrap();
    assert_eq!((taken.state.as_str(), taken.version), ("placed", 1));
    let log = place.log().await;
    assert_eq!(log.iter().map(|row| row.id).collect::<Vec<_>>(), taken.messages);
    let seen =
        log.iter().map(|row| (&*row.topic, row.key.as_deref(), row.correlation_id.as_deref()));
    let expected =
        [("jobs.print", Some("17"), Some("corr-1")), ("jobs.pick", Some("shelf-3"), Some("other"))];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    assert_eq!(log[0].payload, br#"{"order":17}"#);
    let answer: Value = serde_json::from_str(taken.answer()).unwrap();
    assert_eq!(
        answer,
        json!({
            "machine": "order", "entityId": "17", "fsmState": "placed", "version": 1,
            "eventId": taken.event_id,
            "outboxEntries": [
                { "outbox_id": log[0].id, "topic": "jobs.print" },
                { "outbox_id": log[1].id, "topic": "jobs.pick" },
            ],
        })
    );
    assert_eq!(counts(&place).await, [1, 1, 1, 2]);
    let event = "state_event where machine = 'order' and entity_id = '17' and version = 1 \
                 and from_state is null and to_state = 'placed' and initiated_by = 'shop' \
                 and user_id = 'user-1' and organization_id is null and correlation_id = 'corr-1' \
                 and metadata ->> 'total' = '5'";
    let event = if S::COMMIT_FAILS { event.replace("= '5'", "= 5") } else { event.to_owned() };
    assert_eq!(place.rows_of(&event).await, 1);
}

async fn r21_refused_step_says_why_and_its_transaction_cannot_commit<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    committed(&mut session, &start(), true).await.unwrap();
    session.execute("insert into orders (id) values (18)").await.unwrap();
    let step = |entity: &str, state: &str| Step::new("order", entity, state).idempotency_key("k");
    let refused = CommandErrorKind::Refused;
    let cases = [
        (true, step("18", "paid"), Refusal::IllegalStep, "does not begin in paid; allowed: placed"),
        (true, step("18", "lost"), Refusal::Unknown, "machine order has no state \"lost\""),
        (true, step("99", "placed"), Refusal::Unknown, "machine order has no entity \"99\""),
        (true, step("018", "placed"), Refusal::Unknown, "machine order has no entity \"018\""),
        (true, step("x", "placed"), Refusal::Unknown, "machine order has no entity \"x\""),
        (true, step("17", "placed"), Refusal::Begun, "has begun already and is in placed"),
        (true, Step::new("shop", "17", "on"), Refusal::Unknown, "posthaste machines push"),
        (true, step("18", "placed").from("paid"), Refusal::Argument, "from_state is for"),
        (true, step("", "placed"), Refusal::Argument, "entity_id must be 1 to 256 bytes"),
        (true, step("18", "placed").by("a\nb"), Refusal::Argument, "initiated_by must be"),
        (false, step("18", "paid"), Refusal::Unknown, "machine order has no entity \"18\""),
        (false, step("17", "lost"), Refusal::Unknown, "machine order has no state \"lost\""),
        (false, step("18", "lost"), Refusal::Unknown, "machine order has no state \"lost\""),
        (
            false,
            step("17", "shipped"),
            Refusal::IllegalStep,
            "from placed to shipped; allowed: paid",
        ),
        (false, pay().from("paid"), Refusal::Moved, "is in placed, not in paid; allowed"),
        (false, step("17", "paid"), Refusal::Guarded, "from placed to paid is for cashier"),
        (false, pay().metadata("x", "y".repeat(70_000)), Refusal::Argument, "at most 65536 bytes"),
    ];
    let before = (counts(&place).await, place.orders().await);
    for (is_start, step, refusal, said) in cases {
        session.execute("begin").await.unwrap();
        session.execute("insert into orders (id) values (19)").await.unwrap();
        let error = taken(&mut session, &step, is_start).await.unwrap_err();
        assert_eq!(*error.kind(), refused(refusal), "{step:?}: {}", causes(&error));
        assert!(causes(&error).contains(said), "{step:?}: {}", causes(&error));
        let committed = session.execute("commit").await;
        assert_eq!(committed.is_err(), S::COMMIT_FAILS, "{step:?}: {committed:?}");
        if committed.is_err() {
            // Some clients have ended it by then.
            let _ = session.execute("rollback").await;
        }
        assert_eq!((counts(&place).await, place.orders().await), before, "{step:?}");
    }
    let wrong = step("18", "placed").message(Message::new("good")).message(Message::new("a b"));
    let error = committed(&mut session, &wrong, true).await.unwrap_err();
    assert!(
        matches!(error.kind(), CommandErrorKind::Failed(EnqueueErrorKind::Invalid(_))),
        "{error:?}"
    );
    assert!(causes(&error).starts_with("messages[1]: "), "{}", causes(&error));
    // The key was not used up.
    committed(&mut session, &step("18", "placed"), true).await.unwrap();
}

async fn r22_repeat_of_a_step_gets_the_first_answer<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    let first = committed(&mut session, &start(), true).await.unwrap();
    let paid = committed(&mut session, &pay().idempotency_key("pay"), false).await.unwrap();
    assert_eq!(paid.version, 2);
    // The entity has gone on since: the answers have not.
    assert_eq!(committed(&mut session, &start(), true).await.unwrap(), first);
    let repeat = committed(&mut session, &pay().idempotency_key("pay"), false).await.unwrap();
    assert_eq!(repeat.answer(), paid.answer());
    assert_eq!(counts(&place).await, [1, 2, 2, 3]);
    for other in [start().metadata("total", 6), start().message(Message::new("more"))] {
        let error = committed(&mut session, &other, true).await.unwrap_err();
        assert_eq!(*error.kind(), CommandErrorKind::Refused(Refusal::KeyTaken));
    }
    assert_eq!(counts(&place).await, [1, 2, 2, 3]);
}

async fn r23_what_is_known_of_an_entity_goes_with_its_row<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    committed(&mut session, &start(), true).await.unwrap();
    committed(&mut session, &pay(), false).await.unwrap();
    session.execute("delete from orders where id = 17").await.unwrap();
    assert_eq!(counts(&place).await, [0, 0, 0, 3]);
}

async fn r24_steps_leave_a_trail_and_say_what_happened<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    committed(&mut session, &start(), true).await.unwrap();
    let paid = pay().from("placed").metadata("card", true).correlation_id("corr-2");
    let taken = committed(&mut session, &paid.message(Message::new("jobs.thank")), false).await;
    let taken = taken.unwrap();
    assert_eq!((taken.state.as_str(), taken.version, taken.messages.len()), ("paid", 2, 2));
    let shipped = Step::new("order", "17", "shipped").metadata("parcel", 3);
    assert_eq!(committed(&mut session, &shipped, false).await.unwrap().version, 3);
    let step = "state_event a join {} b on a.version = 2 and b.version = 3 \
                where a.from_state = 'placed' and a.to_state = 'paid' and a.user_id = 'user-1' \
                and b.from_state = 'paid' and b.to_state = 'shipped' and a.at <= b.at";
    let table = if S::COMMIT_FAILS { "posthaste_state_event" } else { "posthaste.state_event" };
    assert_eq!(place.rows_of(&step.replace("{}", table)).await, 1);
    assert_eq!(place.rows_of("entity where state = 'shipped' and version = 3").await, 1);
    let log = place.log().await;
    // The machine's own message comes before the caller's.
    assert_eq!((&*log[2].topic, &*log[3].topic), ("orders.paid", "jobs.thank"));
    assert_eq!(
        (log[2].key.as_deref(), log[2].correlation_id.as_deref()),
        (Some("17"), Some("corr-2"))
    );
    let mut told: Value = serde_json::from_slice(&log[2].payload).unwrap();
    let at = told["at"].take();
    assert!(at.as_str().is_some_and(|at| at.len() > 20 && at.as_bytes()[10] == b'T'), "{at}");
    assert_eq!(
        told,
        json!({
            "machine": "order", "entity_id": "17", "event_id": taken.event_id, "version": 2,
            "from": "placed", "to": "paid", "initiated_by": "cashier", "user_id": "user-1",
            "organization_id": null, "metadata": { "card": true }, "at": null,
        })
    );
}

async fn entity_of_another_organisation_is_no_entity<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    let of = |organization: &str, state: &str| {
        Step::new("lamp", "l-1", state).idempotency_key(state).organization(organization)
    };
    committed(&mut session, &of("acme", "off"), true).await.unwrap();
    for (step, is_start) in [
        (of("other", "off"), true),
        (of("other", "on"), false),
        (Step::new("lamp", "l-1", "on"), false),
    ] {
        let error = committed(&mut session, &step, is_start).await.unwrap_err();
        assert_eq!(*error.kind(), CommandErrorKind::Refused(Refusal::Unknown), "{step:?}");
        let said = causes(&error);
        assert!(said.contains("machine lamp has no entity \"l-1\""), "{said}");
    }
    committed(&mut session, &of("acme", "on"), false).await.unwrap();
    assert_eq!(counts(&place).await, [1, 2, 2, 0]);
}

async fn messages_of_a_step_keep_what_they_ask_for<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    let later = Timestamp(4_102_444_800_000_000);
    let bytes = b"\x00\xff{}\r\n'".to_vec();
    let message =
        Message::new("jobs.raw").bytes("image/png", bytes).header("b", "1").header("a", "é\"");
    let step = Step::new("lamp", "l-1", "off")
        .message(message.clone().token("once"))
        .message(message.clone().token("once"))
        .message(message.clone().deliver_at(later));
    let taken = committed(&mut session, &step, true).await.unwrap();
    assert_eq!(taken.messages[0], taken.messages[1]);
    let expected = crate::support::Row::of(taken.messages[0], &message.key("l-1"));
    assert_eq!(place.log().await, std::slice::from_ref(&expected));
    let waiting = place.scheduled().await;
    let expected = crate::support::Row { id: taken.messages[2], ..expected };
    assert_eq!(waiting, [(expected, later)]);
}

#[tokio::test]
async fn step_on_sqlite_without_a_transaction_is_refused() {
    let (place, mut session) = place::<SqlxSqlite>().await;
    let error = session.start(&Machines::default(), &start()).await.unwrap_err();
    assert_eq!(*error.kind(), CommandErrorKind::Refused(Refusal::Argument));
    assert!(causes(&error).contains("needs a transaction"), "{}", causes(&error));
    assert_eq!(counts(&place).await, [0; 4]);
}

#[tokio::test]
async fn refused_step_ends_the_transaction_where_foreign_keys_are_off() {
    let (place, mut session) = place::<Rusqlite>().await;
    session.execute("pragma foreign_keys = off").await.unwrap();
    session.execute("begin").await.unwrap();
    session.execute("insert into orders (id) values (18)").await.unwrap();
    let lost = Step::new("order", "18", "lost").idempotency_key("key");
    session.start(&Machines::default(), &lost).await.unwrap_err();
    assert!(session.execute("commit").await.unwrap_err().contains("no transaction is active"));
    assert_eq!((counts(&place).await, place.orders().await), ([0; 4], 1));
    committed(&mut session, &start(), true).await.unwrap();
    assert_eq!(counts(&place).await, [1, 1, 1, 2]);
}

/// Whatever is committed after a step was dropped, it is all of the step or nothing.
#[tokio::test]
async fn step_on_sqlite_that_is_dropped_in_the_middle_cannot_be_committed() {
    let machines = Machines::default();
    let (mut whole, mut nothing) = (0, 0);
    for polls in 1.. {
        let (place, mut session) = place::<SqlxSqlite>().await;
        session.execute("begin").await.unwrap();
        let is_done = {
            let step = start();
            let mut taking = pin!(session.start(&machines, &step));
            let mut is_done = false;
            for _ in 0..polls {
                let woken = std::future::poll_fn(|context| {
                    is_done = matches!(taking.as_mut().poll(context), Poll::Ready(_));
                    Poll::Ready(())
                });
                woken.await;
                if is_done {
                    break;
                }
                // Whoever executes the statement has time to answer.
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            is_done
        };
        let _ = session.execute("commit").await;
        drop(session);
        match counts(&place).await {
            [0, 0, 0, 0] => nothing += 1,
            [1, 1, 1, 2] => whole += 1,
            partial => panic!("after {polls} polls: {partial:?}"),
        }
        if is_done {
            break;
        }
        assert!(polls < 1_000, "the step never ends");
    }
    assert!(whole > 0 && nothing > 0, "{whole} steps whole, {nothing} without effect");
}
