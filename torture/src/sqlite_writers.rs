//! The application on SQLite: the same transactions as on a server, in threads, since a file has one
//! writer at a time and no connection that could break.

use std::{path::Path, sync::atomic::Ordering, thread::sleep, time::Duration};

use posthaste::{Outbox, SchemaName};
use posthaste_testkit::history::Entry;
use rand::{Rng as _, rngs::SmallRng};
use rusqlite::{Connection, TransactionBehavior};
use uuid::Uuid;

use crate::{
    stage::open,
    writers::{Ending, PAUSE_MILLIS_MAX, Plan, RECONNECT_INTERVAL, Setup, draft},
};

/// Whoever holds a transaction open holds up all others: this part of the time that was drawn.
const HELD_PART: u32 = 10;

/// Writes until told to stop.
pub(crate) fn write_on(file: &Path, setup: &Setup, nth: u64) {
    let mut rng = setup.rng(nth);
    let mut connection = None;
    while !setup.written.has_ended() {
        if setup.has_backlog() {
            sleep(RECONNECT_INTERVAL);
            continue;
        }
        let Some(open) = &mut connection else {
            connection = open(file).ok();
            continue;
        };
        let mut plan = Plan::draw(&mut rng);
        plan.after /= HELD_PART;
        let is_broken = matches!(plan.ending, Ending::Break(_));
        if transact(open, setup, &mut rng, &plan).is_err() || is_broken {
            connection = None;
        }
        sleep(Duration::from_millis(rng.random_range(0..PAUSE_MILLIS_MAX)));
    }
}

/// Writes one transaction.
pub(crate) fn write_once(file: &Path, setup: &Setup, rng: &mut SmallRng, plan: &Plan) {
    // Whether it came to its end, the mirror knows.
    let _ = open(file).and_then(|mut connection| transact(&mut connection, setup, rng, plan));
}

fn transact(
    connection: &mut Connection,
    setup: &Setup,
    rng: &mut SmallRng,
    plan: &Plan,
) -> rusqlite::Result<()> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let update = "update app_entity set n = n + 1 where k = ? returning n";
    let n = transaction.query_row(update, [plan.key], |row| row.get(0))?;
    let tx = Uuid::from_u128(rng.random());
    let (mut messages, mut publishable) = (0, 0);
    for part in 0..plan.parts {
        let entry = Entry { key: plan.key, n, part, transaction: tx };
        // One in two savepoints is rolled back.
        let is_kept = !plan.savepoints || part % 2 == 0;
        let is_rejected = if plan.savepoints {
            let savepoint = transaction.savepoint()?;
            let is_rejected = record(&savepoint, setup, rng, &entry)?;
            if is_kept {
                savepoint.commit()?;
            }
            is_rejected
        } else {
            record(&transaction, setup, rng, &entry)?
        };
        messages += u64::from(is_kept);
        publishable += u64::from(is_kept && !is_rejected);
    }
    let written = &setup.written;
    written.attempted.fetch_add(messages, Ordering::AcqRel);
    sleep(plan.after);
    if plan.ending == Ending::Commit {
        transaction.commit()?;
        written.acknowledged.fetch_add(messages, Ordering::AcqRel);
        written.committed.fetch_add(publishable, Ordering::AcqRel);
    } else {
        // Also where the connection is to break.
        transaction.rollback()?;
    }
    Ok(())
}

/// Enqueues one message and records it, and answers whether it will be rejected.
fn record(
    connection: &Connection,
    setup: &Setup,
    rng: &mut SmallRng,
    entry: &Entry,
) -> rusqlite::Result<bool> {
    let (message, is_rejected) = draft(entry, rng, setup.bytes_min);
    let outbox = Outbox::new(SchemaName::default());
    let refused = |error: posthaste::EnqueueError| {
        rusqlite::Error::ToSqlConversionFailure(error.to_string().into())
    };
    let id = outbox.enqueue_blocking(connection, &message).map_err(refused)?;
    let Entry { key, n, part, transaction } = entry;
    let record = "insert into app_mirror values (?, ?, ?, ?, ?, ?)";
    let transaction = transaction.to_string();
    connection.execute(record, (key, n, part, transaction, id.as_bytes(), is_rejected))?;
    Ok(is_rejected)
}
