//! What every adapter promises about commands, run on all of them.

use std::{error::Error as _, time::Duration};

use ::rusqlite::Connection;
use posthaste::{Begun, Command, CommandErrorKind, Commands, Refusal};

use crate::support::{
    Place,
    sessions::{
        Rusqlite, SqlxPostgres, SqlxSqlite, TokioPostgres,
        commands::CommandSession,
        deadpool::Deadpool,
        diesel::Diesel,
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
    r22_repeat_gets_the_first_answer_byte_for_byte
    r22_another_request_under_the_key_is_a_typed_conflict
    rolled_back_command_is_as_if_it_had_never_begun
    twin_of_a_guarded_command_is_told_that_it_is_in_progress
    r22_twin_that_waits_gets_the_answer
    twin_that_waits_takes_over_when_the_lease_has_run_out
    twin_whose_time_is_up_is_told_that_it_is_in_progress
    attempt_whose_lease_has_run_out_is_taken_over_and_cannot_complete
    renewed_lease_keeps_others_out_and_abandoned_command_lets_them_in
    what_is_no_command_is_refused
    r23_old_commands_are_forgotten_and_those_in_progress_stay
}

/// No wait takes longer unless something is broken.
const LIMIT: Duration = Duration::from_mins(1);
const EVERY_KIND: &[u8] = b"\x00\xff{}\r\n'";

fn attempt() -> Command {
    Command::new("pay", "key", b"5 euros to anna")
}

/// Lets all leases run out, as time would.
async fn run_out<S: CommandSession>(session: &mut S) {
    let on_postgres =
        "update posthaste.command set lease_until = clock_timestamp() - interval '1 ms'";
    let on_sqlite = "update posthaste_command set lease_until = 1";
    let sql = if S::COMMIT_FAILS { on_sqlite } else { on_postgres };
    session.execute(sql).await.unwrap();
}

fn is_taken_over<T: std::fmt::Debug>(outcome: Result<T, posthaste::CommandError>) -> bool {
    *outcome.unwrap_err().kind() == CommandErrorKind::TakenOver
}

async fn r22_repeat_gets_the_first_answer_byte_for_byte<S: CommandSession>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let first = attempt();
    session.execute("begin").await.unwrap();
    assert_eq!(session.begin(&first).await.unwrap(), Begun::First);
    session.execute("insert into orders (id) values (17)").await.unwrap();
    session.complete(&first, EVERY_KIND).await.unwrap();
    session.execute("commit").await.unwrap();
    for attempt in [attempt(), first] {
        assert_eq!(session.begin(&attempt).await.unwrap(), Begun::Repeat(EVERY_KIND.to_vec()));
    }
    assert_eq!(place.orders().await, 1);
}

async fn r22_another_request_under_the_key_is_a_typed_conflict<S: CommandSession>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    session.begin(&attempt()).await.unwrap();
    let other = Command::new("pay", "key", b"6 euros to anna");
    let error = session.begin(&other).await.unwrap_err();
    assert_eq!(*error.kind(), CommandErrorKind::Refused(Refusal::KeyTaken));
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("use a new key") && !shown.contains("anna"), "{shown}");
    let elsewhere = Command::new("refund", "key", b"6 euros to anna");
    assert_eq!(session.begin(&elsewhere).await.unwrap(), Begun::First);
}

async fn rolled_back_command_is_as_if_it_had_never_begun<S: CommandSession>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let first = attempt();
    session.execute("begin").await.unwrap();
    session.begin(&first).await.unwrap();
    session.complete(&first, b"done").await.unwrap();
    session.execute("rollback").await.unwrap();
    assert_eq!(session.begin(&attempt()).await.unwrap(), Begun::First);
}

async fn twin_of_a_guarded_command_is_told_that_it_is_in_progress<S: CommandSession>() {
    let place = S::place().await;
    let (mut session, mut other) = (S::open(&place).await, S::open(&place).await);
    let (first, twin) = (attempt(), attempt());
    assert_eq!(session.begin(&first).await.unwrap(), Begun::First);
    let Begun::InProgress { lease_left } = other.begin(&twin).await.unwrap() else {
        panic!("the twin has begun");
    };
    assert!(lease_left > Duration::from_secs(30) && lease_left <= Duration::from_mins(1));
    // Its own answer was lost on its way: it asks again.
    assert_eq!(session.begin(&first).await.unwrap(), Begun::First);
    assert!(is_taken_over(other.complete(&twin, b"mine").await));
    session.complete(&first, EVERY_KIND).await.unwrap();
    session.complete(&first, EVERY_KIND).await.unwrap();
    assert_eq!(other.begin(&twin).await.unwrap(), Begun::Repeat(EVERY_KIND.to_vec()));
}

async fn r22_twin_that_waits_gets_the_answer<S: CommandSession>() {
    let place = S::place().await;
    let (mut session, mut other) = (S::open(&place).await, S::open(&place).await);
    let (first, twin) = (attempt(), attempt());
    session.begin(&first).await.unwrap();
    let (waited, completed) =
        tokio::join!(other.wait(&twin, LIMIT), session.complete(&first, EVERY_KIND));
    completed.unwrap();
    assert_eq!(waited.unwrap(), Begun::Repeat(EVERY_KIND.to_vec()));
}

async fn twin_that_waits_takes_over_when_the_lease_has_run_out<S: CommandSession>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (first, twin) = (attempt(), attempt());
    session.begin(&first).await.unwrap();
    session.renew(&first, Duration::from_secs(1)).await.unwrap();
    assert_eq!(session.wait(&twin, LIMIT).await.unwrap(), Begun::TakenOver);
    assert!(is_taken_over(session.complete(&first, b"late").await));
    session.complete(&twin, b"done").await.unwrap();
}

async fn twin_whose_time_is_up_is_told_that_it_is_in_progress<S: CommandSession>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    session.begin(&attempt()).await.unwrap();
    for wait in [Duration::ZERO, Duration::from_millis(30)] {
        let begun = session.wait(&attempt(), wait).await.unwrap();
        assert!(matches!(begun, Begun::InProgress { .. }), "{begun:?}");
    }
}

async fn attempt_whose_lease_has_run_out_is_taken_over_and_cannot_complete<S: CommandSession>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (first, second) = (attempt(), attempt());
    session.begin(&first).await.unwrap();
    run_out(&mut session).await;
    assert_eq!(session.begin(&second).await.unwrap(), Begun::TakenOver);
    assert!(is_taken_over(session.complete(&first, b"late").await));
    assert!(is_taken_over(session.renew(&first, Duration::from_mins(1)).await));
    assert!(is_taken_over(session.abandon(&first).await));
    session.complete(&second, b"done").await.unwrap();
    assert!(is_taken_over(session.complete(&second, b"something else").await));
    assert_eq!(session.begin(&first).await.unwrap(), Begun::Repeat(b"done".to_vec()));
}

async fn renewed_lease_keeps_others_out_and_abandoned_command_lets_them_in<S: CommandSession>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (first, second) = (attempt(), attempt());
    session.begin(&first).await.unwrap();
    run_out(&mut session).await;
    session.renew(&first, Duration::from_mins(2)).await.unwrap();
    assert!(matches!(session.begin(&second).await.unwrap(), Begun::InProgress { .. }));
    session.abandon(&first).await.unwrap();
    assert_eq!(session.begin(&second).await.unwrap(), Begun::First);
}

async fn what_is_no_command_is_refused<S: CommandSession>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    for command in [
        Command::new("", "key", b""),
        Command::new("pay", "", b""),
        Command::new("pay", "a\tb", b""),
        Command::new("pay", "k".repeat(513), b""),
    ] {
        let error = session.begin(&command).await.unwrap_err();
        assert_eq!(*error.kind(), CommandErrorKind::Refused(Refusal::Argument), "{command:?}");
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        let causes = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        assert!(causes.contains("1 to 512 bytes"), "{causes}");
    }
    let command = attempt();
    session.begin(&command).await.unwrap();
    let error = session.renew(&command, Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(*error.kind(), CommandErrorKind::Refused(Refusal::Argument));
}

async fn r23_old_commands_are_forgotten_and_those_in_progress_stay<S: CommandSession>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let named = |key: &str| Command::new("pay", key, b"");
    let [done, gone, running, new] = ["done", "gone", "running", "new"].map(named);
    for command in [&done, &gone, &running, &new] {
        session.begin(command).await.unwrap();
    }
    session.complete(&done, b"").await.unwrap();
    session.complete(&new, b"").await.unwrap();
    let aged = if S::COMMIT_FAILS {
        "update posthaste_command set created_at = created_at - 3660000000, \
         lease_until = case key when 'gone' then 1 else lease_until end where key <> 'new'"
    } else {
        "update posthaste.command set created_at = created_at - interval '61 minutes', \
         lease_until = case key when 'gone' then now() else lease_until end where key <> 'new'"
    };
    session.execute(aged).await.unwrap();
    assert_eq!(place.sweep_commands().await, 2);
    assert_eq!(session.begin(&named("done")).await.unwrap(), Begun::First);
    assert_eq!(session.begin(&named("gone")).await.unwrap(), Begun::First);
    assert!(matches!(session.begin(&named("running")).await.unwrap(), Begun::InProgress { .. }));
    assert_eq!(session.begin(&named("new")).await.unwrap(), Begun::Repeat(Vec::new()));
}

#[tokio::test]
async fn twin_that_waits_on_a_thread_gets_the_answer() {
    let place = Place::sqlite().await;
    let session = Connection::open(place.file()).unwrap();
    let commands = Commands::default();
    let (first, lease) = (attempt(), Duration::from_mins(1));
    commands.begin_blocking(&session, &first, lease).unwrap();
    let (file, twins) = (place.file(), commands.clone());
    let (looked, look) = std::sync::mpsc::sync_channel(1);
    let twin = std::thread::spawn(move || {
        let connection = Connection::open(file).unwrap();
        let begun = twins.begin_or_wait_blocking(&connection, &attempt(), lease, Duration::ZERO);
        looked.send(begun.unwrap()).unwrap();
        twins.begin_or_wait_blocking(&connection, &attempt(), lease, LIMIT).unwrap()
    });
    assert!(matches!(look.recv().unwrap(), Begun::InProgress { .. }));
    commands.complete_blocking(&session, &first, EVERY_KIND).unwrap();
    assert_eq!(twin.join().unwrap(), Begun::Repeat(EVERY_KIND.to_vec()));
}
