//! What the adapters of PostgreSQL make of the server's errors.

use std::time::Duration;

use posthaste::{EnqueueErrorKind, Message, Outbox};
use posthaste_testkit::eventually_async;

use super::begin;
use crate::support::sessions::Session;

/// No wait takes longer unless something is broken.
const LIMIT: Duration = Duration::from_mins(1);

pub(super) async fn r1_errors_of_the_server_have_their_kinds<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (outbox, message) = (Outbox::default(), Message::new("t"));
    let role = format!("stranger_{}", place.database().name());

    begin(&mut session).await;
    session.execute(&format!("create role {role}; set local role {role}")).await.unwrap();
    let error = session.enqueue(&outbox, &message).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Privilege);
    let error = session.enqueue(&outbox, &message).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::AlreadyAborted);
    session.execute("rollback").await.unwrap();

    let holder = place.database().connect().await;
    holder.batch_execute("begin; lock table posthaste.log in exclusive mode").await.unwrap();
    begin(&mut session).await;
    session.execute("set local lock_timeout = '1ms'").await.unwrap();
    let error = session.enqueue(&outbox, &message).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Conflict);
    assert!(error.transaction_aborted());
}

pub(super) async fn r1_lost_connection_has_its_kind<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    begin(&mut session).await;
    let killer = place.database().connect().await;
    let others = "from pg_stat_activity where datname = current_database() \
                  and pid <> pg_backend_pid() and backend_type = 'client backend'";
    let kill = format!("select pg_terminate_backend(pid) {others}");
    killer.execute(&kill, &[]).await.unwrap();
    let are_gone = format!("select not exists (select {others})");
    let are_gone = async || killer.query_one(&are_gone, &[]).await.unwrap().get(0);
    eventually_async("the end of the other connections", LIMIT, are_gone).await;

    let error = session.enqueue(&Outbox::default(), &Message::new("t")).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Unavailable);
    assert!(error.transaction_aborted(), "a lost connection takes its transaction along");
}
