//! The shop on SQLite, in a temporary directory that goes with the process.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use posthaste::Outbox;
use posthaste_store::{
    Store,
    sqlite::{SqliteOptions, SqliteStore},
};
use rusqlite::{Connection, TransactionBehavior::Immediate, params};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{CUSTOMERS, Pace, customer_of, is_rolled_back, message, run_id};
use crate::{
    demo::{SharedLedger, ledger::Truth},
    exit::Exit,
    failure::{Failure, Result},
};

const TABLES: &str = "
    create table customer (id integer primary key, orders integer not null);
    create table demo_order (customer integer not null, nth integer not null,
                             primary key (customer, nth)) without rowid;";

/// A shop in a file.
pub(in crate::demo) struct SqliteShop {
    run: String,
    path: PathBuf,
    store: Arc<SqliteStore>,
    // Dropped last: the store's threads have the file open.
    _directory: TempDir,
}

impl SqliteShop {
    pub(super) async fn open() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("posthaste-demo-")
            .tempdir()
            .map_err(|error| Failure::caused(Exit::Failed, "cannot make a directory", error))?;
        let path = directory.path().join("shop.db");
        let options = SqliteOptions { create: true, ..SqliteOptions::default() };
        let store = SqliteStore::open(&path, &options).await?;
        store.migrate().await?;
        let connection = connect(&path)?;
        let prepare = || -> rusqlite::Result<()> {
            connection.execute_batch(TABLES)?;
            for customer in 0..CUSTOMERS {
                connection.execute("insert into customer values (?1, 0)", [customer])?;
            }
            Ok(())
        };
        prepare().map_err(failed)?;
        Ok(Self { run: run_id(), path, store: Arc::new(store), _directory: directory })
    }

    pub(super) fn run_id(&self) -> &str {
        &self.run
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    /// One writer: SQLite has no more. It blocks, so it has a thread of its own.
    pub(super) fn start(
        &self,
        pace: &Pace,
        ledger: &SharedLedger,
        closed: &Arc<AtomicBool>,
        tasks: &mut JoinSet<Result<()>>,
    ) {
        let (path, pace, ledger) = (self.path.clone(), pace.clone(), ledger.clone());
        let closed = Arc::clone(closed);
        tasks.spawn_blocking(move || {
            let mut connection = connect(&path)?;
            let outbox = Outbox::default();
            while !closed.load(Ordering::Relaxed) {
                let (nth, wait) = pace.claim();
                std::thread::sleep(wait);
                order(&mut connection, &outbox, nth, &ledger)?;
            }
            Ok(())
        });
    }

    pub(super) fn orders_by_customer(&self) -> Result<Truth> {
        let connection = connect(&self.path)?;
        let read = || -> rusqlite::Result<Truth> {
            connection
                .prepare("select customer, count(*) from demo_order group by customer")?
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?
                .collect()
        };
        read().map_err(failed)
    }
}

/// One order: three statements and the message in one transaction.
fn order(
    connection: &mut Connection,
    outbox: &Outbox,
    nth: u64,
    ledger: &SharedLedger,
) -> Result<()> {
    let customer = customer_of(nth);
    let transaction = connection.transaction_with_behavior(Immediate).map_err(failed)?;
    let order: i64 = transaction
        .query_row(
            "update customer set orders = orders + 1 where id = ?1 returning orders",
            [customer],
            |row| row.get(0),
        )
        .map_err(failed)?;
    transaction
        .execute("insert into demo_order values (?1, ?2)", params![customer, order])
        .map_err(failed)?;
    let id = outbox
        .enqueue_blocking(&transaction, &message(customer, order as u64))
        .map_err(|error| Failure::caused(Exit::Failed, "the demo cannot enqueue", error))?;
    if is_rolled_back(nth) {
        transaction.rollback().map_err(failed)?;
        ledger.lock().rolled_back();
    } else {
        transaction.commit().map_err(failed)?;
        ledger.lock().committed(id, Instant::now());
    }
    Ok(())
}

fn connect(path: &PathBuf) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        // The log's file is in WAL mode; a tick makes the commits before it durable.
        connection.pragma_update(None, "synchronous", "normal")?;
        Ok(connection)
    };
    open().map_err(failed)
}

fn failed(error: rusqlite::Error) -> Failure {
    Failure::caused(Exit::Failed, "the demo's shop cannot write", error)
}
