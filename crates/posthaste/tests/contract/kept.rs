//! Contracts: what breaks one is refused before anything is written.

use std::{error::Error as _, sync::Arc};

use posthaste::{
    EnqueueError, EnqueueErrorKind, Message, Outbox,
    contract::{Breach, CONTRACT_HEADER, Contract, Contracts},
};
use serde_json::json;

use super::{begin, commit_in_vain};
use crate::support::{Row, sessions::Session};

/// Of two versions of a topic: an order is a number, and from the second on has a customer.
pub(crate) fn contracts() -> Arc<Contracts> {
    let order = |required: &[&str]| {
        json!({
            "type": "object",
            "required": required,
            "properties": { "order": { "type": "integer" }, "customer": { "type": "string" } },
        })
    };
    let version = |n, required| Contract::new("orders.created", n, order(required)).unwrap();
    let both = [version(1, &["order"]), version(2, &["order", "customer"])];
    Arc::new(Contracts::new(both).unwrap())
}

fn order() -> Message {
    Message::new("orders.created").key("order-17")
}

fn breach(error: &EnqueueError) -> &Breach {
    match error.kind() {
        EnqueueErrorKind::Contract(breach) => breach,
        other => panic!("{other:?} is not a breach of a contract"),
    }
}

pub(super) async fn r3_r31_message_that_breaks_its_contract_is_refused_before_anything_is_written<
    S: Session,
>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default().with_contracts(contracts());
    let good = order().contract(1).json(&json!({ "order": 17 }));
    let cases = [
        (order().json(&json!({ "order": 17 })), "no-version"),
        (order().header(CONTRACT_HEADER, "v1"), "bad-version"),
        (order().contract(3).json(&json!({ "order": 17 })), "unknown-version"),
        (order().contract(2).json(&json!({ "order": 17 })), "violation"),
        (order().contract(1), "violation"),
        (order().contract(1).text("secret"), "violation"),
    ];
    for (message, code) in &cases {
        // Without a transaction, a message written before the refusal would stay.
        let error = session.enqueue(&outbox, message).await.unwrap_err();
        assert_eq!((breach(&error).code(), error.index()), (*code, None));
        assert!(error.source().unwrap().is::<Breach>());
        assert!(error.transaction_aborted(), "nothing is there to abort: {error}");
        let many = [good.clone(), message.clone()];
        let error = session.enqueue_many(&outbox, &many).await.unwrap_err();
        assert_eq!((breach(&error).code(), error.index()), (*code, Some(1)));
    }

    begin(&mut session).await;
    let secret = order().contract(2).json(&json!({ "order": "secret", "customer": "acme" }));
    let error = session.enqueue(&outbox, &secret).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "message refused: topic \"orders.created\" does not keep contract version 2: /order: not \
         of type integer"
    );
    assert!(!format!("{error:?}").contains("secret"));
    commit_in_vain(&mut session).await;
    assert_eq!((place.log().await, place.orders().await), (vec![], 0));
}

pub(super) async fn r31_message_that_keeps_its_contract_is_written_as_it_is<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default().with_contracts(contracts());
    let first = order().contract(1).bytes("application/json", "{ \"order\" : 17 }");
    let second = order().contract(2).json(&json!({ "customer": "acme", "order": 18 }));
    // Nobody has said what these look like.
    let other = Message::new("orders.paid").text("anything");

    begin(&mut session).await;
    let mut rows = vec![Row::of(session.enqueue(&outbox, &first).await.unwrap(), &first)];
    let many = [second, other];
    let ids = session.enqueue_many(&outbox, &many).await.unwrap();
    rows.extend(ids.into_iter().zip(&many).map(|(id, message)| Row::of(id, message)));
    session.execute("commit").await.unwrap();
    assert_eq!(place.log().await, rows);
}
