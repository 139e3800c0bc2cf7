//! The shop on PostgreSQL, in a schema of its own that is dropped at the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use posthaste::Outbox;
use posthaste_core::SchemaName;
use posthaste_store::{
    RingSizes, Store,
    postgres::{PostgresOptions, PostgresStore},
};
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::{Client, Error};

use super::{CUSTOMERS, Pace, customer_of, is_rolled_back, message, run_id};
use crate::{
    demo::{SharedLedger, ledger::Truth},
    exit::Exit,
    failure::{Failure, Result},
};

/// Connections that write side by side.
const WRITERS: usize = 4;
/// A small ring: the demo's tables are made and dropped in a moment.
const RINGS: RingSizes = RingSizes { slots: 4, slot_size: 262_144 };

/// A shop in a schema.
pub(in crate::demo) struct PostgresShop {
    run: String,
    schema: SchemaName,
    store: Arc<PostgresStore>,
}

impl PostgresShop {
    pub(super) async fn open(url: &str) -> Result<Self> {
        let run = run_id();
        let schema: SchemaName = format!("posthaste_demo_{run}").parse().map_err(|error| {
            Failure::caused(Exit::Failed, "the demo's schema has no valid name", error)
        })?;
        let options =
            PostgresOptions { schema: schema.clone(), rings: RINGS, ..PostgresOptions::default() };
        let store = Arc::new(PostgresStore::connect(url, &options)?);
        store.migrate().await?;
        let shop = Self { run, schema, store };
        shop.prepare().await?;
        Ok(shop)
    }

    async fn prepare(&self) -> Result<()> {
        let schema = &self.schema;
        let tables = format!(
            "create table {schema}.customer (id int primary key, orders bigint not null); \
             create table {schema}.demo_order (customer int not null, nth bigint not null, \
             primary key (customer, nth)); \
             insert into {schema}.customer select n, 0 from generate_series(0, {CUSTOMERS} - 1) n"
        );
        self.store.application_client().await?.batch_execute(&tables).await.map_err(failed)
    }

    pub(super) fn run_id(&self) -> &str {
        &self.run
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    pub(super) async fn start(
        &self,
        pace: &Pace,
        ledger: &SharedLedger,
        closed: &Arc<AtomicBool>,
        tasks: &mut JoinSet<Result<()>>,
    ) -> Result<()> {
        for _ in 0..WRITERS {
            let mut client = self.store.application_client().await?;
            let outbox = Outbox::new(self.schema.clone());
            let (schema, pace, ledger) = (self.schema.clone(), pace.clone(), ledger.clone());
            let closed = Arc::clone(closed);
            tasks.spawn(async move {
                while !closed.load(Ordering::Relaxed) {
                    let (nth, wait) = pace.claim();
                    sleep(wait).await;
                    order(&mut client, &outbox, &schema, nth, &ledger).await?;
                }
                Ok(())
            });
        }
        Ok(())
    }

    pub(super) async fn orders_by_customer(&self) -> Result<Truth> {
        let client = self.store.application_client().await?;
        let sql =
            format!("select customer, count(*) from {}.demo_order group by customer", self.schema);
        let rows = client.query(&sql, &[]).await.map_err(failed)?;
        let counts =
            |row: &tokio_postgres::Row| (row.get::<_, i32>(0) as u32, row.get::<_, i64>(1) as u64);
        Ok(rows.iter().map(counts).collect())
    }

    pub(super) async fn close(&self) -> Result<()> {
        let client = self.store.application_client().await?;
        let drop = format!("drop schema if exists {} cascade", self.schema);
        client.batch_execute(&drop).await.map_err(failed)
    }
}

/// One order: three statements and the message in one transaction. The customer's row is locked
/// before the message takes its position, so each customer's messages keep commit order.
async fn order(
    client: &mut Client,
    outbox: &Outbox,
    schema: &SchemaName,
    nth: u64,
    ledger: &SharedLedger,
) -> Result<()> {
    let customer = customer_of(nth);
    let transaction = client.transaction().await.map_err(failed)?;
    let count = format!(
        "update {schema}.customer set orders = orders + 1 where id = {customer} returning orders"
    );
    let order: i64 = transaction.query_one(&count, &[]).await.map_err(failed)?.get(0);
    let store = format!("insert into {schema}.demo_order values ({customer}, {order})");
    transaction.batch_execute(&store).await.map_err(failed)?;
    let id = outbox
        .enqueue(&transaction, &message(customer, order as u64))
        .await
        .map_err(|error| Failure::caused(Exit::Failed, "the demo cannot enqueue", error))?;
    if is_rolled_back(nth) {
        transaction.rollback().await.map_err(failed)?;
        ledger.lock().rolled_back();
    } else {
        transaction.commit().await.map_err(failed)?;
        ledger.lock().committed(id, Instant::now());
    }
    Ok(())
}

fn failed(error: Error) -> Failure {
    Failure::caused(Exit::Failed, "the demo's shop cannot write", error)
}
