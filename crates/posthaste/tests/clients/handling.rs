//! The inbox, by every driver: first deliveries, repeats, and what becomes of the transaction.

use posthaste::{Inbox, MessageId, SchemaName};

use super::{
    open, orders,
    session::{Driver, Failure},
};

fn ids<const N: usize>() -> [MessageId; N] {
    std::array::from_fn(|_| MessageId::now_v7())
}

#[tokio::test]
async fn r28_clients_messages_are_first_until_a_commit_and_repeats_from_then_on() {
    let [one, two] = ids();
    for driver in Driver::ALL {
        let (_database, mut session) = open(driver).await;
        session.transaction("begin").await;
        assert_eq!(session.handle(one).await, Ok(true));
        assert_eq!(session.handle(one).await, Ok(false));
        session.transaction("rollback").await;
        session.transaction("begin").await;
        assert_eq!(session.handle(one).await, Ok(true));
        session.transaction("commit").await;
        session.transaction("begin").await;
        assert_eq!(session.handle(one).await, Ok(false));
        assert_eq!(session.handle(two).await, Ok(true));
        // Another consumer, in another's footsteps.
        session.inbox("Versand \"1\" 🔑", "posthaste").await.unwrap();
        assert_eq!(session.handle(one).await, Ok(true));
        session.transaction("commit").await;
    }
}

#[tokio::test]
async fn r28_clients_bulk_answers_what_is_new_each_once_in_the_order_given() {
    let [a, b, c, d] = ids();
    for driver in Driver::ALL {
        let (_database, mut session) = open(driver).await;
        session.transaction("begin").await;
        assert_eq!(session.handle_many(&[]).await, Ok(vec![]));
        assert_eq!(session.handle_many(&[c, a, c]).await, Ok(vec![c, a]));
        session.transaction("commit").await;
        session.transaction("begin").await;
        assert_eq!(session.handle_many(&[d, c, b, a, d]).await, Ok(vec![d, b]));
        assert_eq!(session.handle_many(&[a, b, c, d]).await, Ok(vec![]));
        session.transaction("commit").await;
    }
}

#[tokio::test]
async fn r28_clients_handling_that_fails_aborts_the_transaction() {
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.begin().await;
        let many = vec![MessageId::nil(); 10_001];
        let failure = session.handle_many(&many).await.unwrap_err();
        assert_eq!((failure.kind.as_str(), failure.sqlstate.as_str()), ("database", "22023"));
        let text = "message refused: message_ids must be at most 10000 in one call";
        assert!(failure.text.contains(text), "{failure:?}");
        let failure = session.execute("select 1").await.unwrap_err();
        assert_eq!(failure.sqlstate, "25P02", "{failure:?}");
        session.transaction("commit").await;

        session.inbox("mail", "elsewhere").await.unwrap();
        session.begin().await;
        let failure = session.handle(MessageId::nil()).await.unwrap_err();
        assert_eq!(failure.sqlstate, "3F000", "{failure:?}");
        session.transaction("commit").await;
        assert_eq!(orders(&database).await, 0);
    }
}

#[tokio::test]
async fn r28_clients_refuse_a_consumers_name_with_the_text_of_the_rust_side() {
    let long = "ö".repeat(128);
    for driver in Driver::ALL {
        let (_database, mut session) = open(driver).await;
        for name in ["", "a\nb", "a\0", "a\u{7f}", "\u{85}", &long] {
            let text = Inbox::new(SchemaName::default(), name).unwrap_err().to_string();
            let expected = Failure { kind: "invalid_consumer".into(), text, ..Failure::default() };
            assert_eq!(session.inbox(name, "posthaste").await, Err(expected));
        }
        let failure = session.inbox("mail", "pg_x").await.unwrap_err();
        assert_eq!(failure.kind, "invalid_schema_name", "{failure:?}");
        session.inbox(&"ö".repeat(127), "posthaste").await.unwrap();
    }
}

#[tokio::test]
async fn r28_clients_handle_nothing_outside_a_transaction() {
    // In Go such a call does not compile.
    for driver in Driver::ALL.into_iter().filter(|driver| !driver.is_go()) {
        let (_database, mut session) = open(driver).await;
        assert_eq!(session.handle(MessageId::nil()).await.unwrap_err().kind, "no_transaction");
        assert_eq!(session.handle_many(&[]).await.unwrap_err().kind, "no_transaction");
    }
}
