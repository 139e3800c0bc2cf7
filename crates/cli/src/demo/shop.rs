//! The demo's application: customers who order. Each order is one real transaction that counts
//! the customer's orders, stores the order, and enqueues its message; every fifth is rolled back.

mod postgres;
mod sqlite;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use posthaste::Message;
use posthaste_store::Store;
use serde::Serialize;
use tokio::task::JoinSet;

use self::{postgres::PostgresShop, sqlite::SqliteShop};
use super::{SharedLedger, ledger::Truth};
use crate::{
    exit::Exit,
    failure::{Failure, Result},
};

/// Customers, each with an ordering key of its own.
const CUSTOMERS: u32 = 16;
/// Every so many orders one is rolled back.
const ROLLED_BACK_EVERY: u64 = 5;

/// A shop on either database.
pub(super) enum Shop {
    Sqlite(SqliteShop),
    Postgres(PostgresShop),
}

/// The writers of an open shop.
pub(super) struct Writing {
    tasks: JoinSet<Result<()>>,
    closed: Arc<AtomicBool>,
}

/// When the next order is due: orders are handed out by schedule to whichever writer is free.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    opened: Instant,
    interval: Duration,
    claimed: Arc<AtomicU64>,
}

#[derive(Serialize)]
struct Order {
    customer: u32,
    number: u64,
    amount_cents: u64,
}

impl Pace {
    pub(super) fn new(orders_per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / orders_per_second;
        Self { opened: Instant::now(), interval, claimed: Arc::default() }
    }

    /// Claims the next order: its number, and how long to wait for it.
    fn claim(&self) -> (u64, Duration) {
        let nth = self.claimed.fetch_add(1, Ordering::Relaxed);
        let due = self.interval.saturating_mul(u32::try_from(nth).unwrap_or(u32::MAX));
        (nth, due.saturating_sub(self.opened.elapsed()))
    }
}

impl Writing {
    /// Resolves when a writer fails.
    pub(super) async fn failed(&mut self) -> Failure {
        while let Some(ended) = self.tasks.join_next().await {
            if let Some(failure) = failure_of(ended) {
                return failure;
            }
        }
        std::future::pending().await
    }

    /// Closes the shop: each writer finishes its order.
    pub(super) async fn stop(mut self) -> Result {
        self.closed.store(true, Ordering::Relaxed);
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            if let Some(failure) = failure_of(ended) {
                result = Err(failure);
            }
        }
        result
    }
}

fn failure_of(ended: Result<Result<()>, tokio::task::JoinError>) -> Option<Failure> {
    match ended {
        Ok(result) => result.err(),
        Err(error) => Some(Failure::caused(Exit::Failed, "a writer of the demo ended", error)),
    }
}

impl Shop {
    /// Prepares tables, the log and customers: in a temporary directory, or in a schema of its
    /// own of the database at `url`.
    pub(super) async fn open(url: Option<&str>) -> Result<Self> {
        match url {
            None => Ok(Self::Sqlite(SqliteShop::open().await?)),
            Some(url) => Ok(Self::Postgres(PostgresShop::open(url).await?)),
        }
    }

    /// A name that nothing else on a shared server has.
    pub(super) fn run_id(&self) -> &str {
        match self {
            Self::Sqlite(shop) => shop.run_id(),
            Self::Postgres(shop) => shop.run_id(),
        }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(shop) => shop.store(),
            Self::Postgres(shop) => shop.store(),
        }
    }

    pub(super) fn describe(&self) -> String {
        self.store().describe().to_owned()
    }

    /// Starts the writers.
    pub(super) async fn start(&self, pace: &Pace, ledger: &SharedLedger) -> Result<Writing> {
        let closed = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        match self {
            Self::Sqlite(shop) => shop.start(pace, ledger, &closed, &mut tasks),
            Self::Postgres(shop) => shop.start(pace, ledger, &closed, &mut tasks).await?,
        }
        Ok(Writing { tasks, closed })
    }

    /// The committed orders: what must have arrived.
    pub(super) async fn orders_by_customer(&self) -> Result<Truth> {
        match self {
            Self::Sqlite(shop) => shop.orders_by_customer(),
            Self::Postgres(shop) => shop.orders_by_customer().await,
        }
    }

    /// Removes what the demo made.
    pub(super) async fn close(&self) -> Result {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(shop) => shop.close().await,
        }
    }
}

fn is_rolled_back(nth: u64) -> bool {
    nth % ROLLED_BACK_EVERY == ROLLED_BACK_EVERY - 1
}

fn customer_of(nth: u64) -> u32 {
    // Not a multiple of the roll-backs' rhythm, so that every customer has some.
    (nth.wrapping_mul(7) % u64::from(CUSTOMERS)) as u32
}

fn message(customer: u32, number: u64) -> Message {
    let order = Order { customer, number, amount_cents: 100 + number % 9_900 };
    Message::new("orders.created")
        .key(format!("customer-{customer}"))
        .header("shop", "demo")
        .json(&order)
}

fn run_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}
