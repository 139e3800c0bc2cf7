//! The store on PostgreSQL 13 and later: the log read by windows between ticks.
//!
//! Every statement is sent unnamed and nothing outlives its transaction (no session settings, no
//! `listen`, no session locks), so a pooler in transaction mode may stand in between. One file per
//! concern; [`PostgresStore`] ties them to the [`Store`] seam.

mod application;
mod aside;
mod background;
mod browse;
mod connect;
mod contracts;
mod entities;
mod errors;
mod import;
mod incidents;
mod indexing;
mod jobs;
mod leases;
mod log;
mod machines;
mod migrate;
mod operations;
mod oversight;
mod preflight;
mod rebase;
mod retention;
mod rewound;
mod rows;
mod scheduled;
mod slots;
mod status;
mod strict;
mod subscriptions;
mod sweep;
mod ticker;
mod tls;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use posthaste_core::{
    Epoch, Limits, Message, MessageId, Page, PageLimit, Place, RelayView, SchemaName, TickRef,
    Timestamp, TopicFilter, Window,
};
use secrecy::SecretString;

use self::{
    connect::Connections,
    log::{Selection, StrideHint},
    slots::Slots,
};
use uuid::Uuid;

use crate::{
    Acquired, Aside, AsideState, ContractSet, ContractsMark, DueMessages, Leases, Lineage,
    MigrationReport, Moved, Result, RingSizes, SchemaState, Settled, Status, Store, StoredMessage,
    SubscriptionSpec, SweepReport, Ticker,
};

/// How to reach and use a PostgreSQL database.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Schema of Posthaste's objects.
    pub schema: SchemaName,
    /// Password, instead of one in the URL.
    pub password: Option<SecretString>,
    /// Certificate authorities in PEM form, instead of the system's; also `sslrootcert` in the URL.
    pub ca_file: Option<PathBuf>,
    /// Longest wait for any answer.
    pub operation_timeout: Duration,
    /// How long published messages stay readable, at least.
    pub retention: Duration,
    /// Bytes of the log's relations above which published messages go earlier, if set.
    pub retention_bytes: Option<u64>,
    /// How long idempotency tokens are kept, at least.
    pub token_retention: Duration,
    /// How long inboxes remember what was handled, at least.
    pub inbox_retention: Duration,
    /// How long commands and their answers are kept, at least.
    pub command_retention: Duration,
    /// How long jobs are kept that are over, with all that belongs to them, at least.
    pub job_retention: Duration,
    /// Transactions that have been open for longer are findings of [`Store::preflight`].
    pub transaction_age_max: Duration,
    /// Sizes of the log's ring, used when the schema is created.
    pub rings: RingSizes,
    /// Payload bytes that a message may have, written to the schema when it is created.
    pub limits: Limits,
    /// Most connections of this store.
    pub connections_max: usize,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            schema: SchemaName::default(),
            password: None,
            ca_file: None,
            operation_timeout: Duration::from_secs(30),
            retention: Duration::from_hours(1),
            retention_bytes: None,
            token_retention: Duration::from_hours(24),
            inbox_retention: Duration::from_hours(7 * 24),
            command_retention: Duration::from_hours(7 * 24),
            job_retention: Duration::from_hours(7 * 24),
            transaction_age_max: Duration::from_mins(15),
            rings: RingSizes::default(),
            limits: Limits::DEFAULT,
            connections_max: 8,
        }
    }
}

/// A log in PostgreSQL. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: PostgresOptions,
    description: String,
    connections: Connections,
    slots: Slots,
    stride: StrideHint,
}

impl PostgresStore {
    /// Checks the URL (`postgres://user@host:5432/database?sslmode=verify-full`) and the options.
    /// Connections are made when they are needed.
    ///
    /// # Errors
    /// `Invalid` for a URL or a certificate file that does not hold up. The password is never
    /// part of an error.
    pub fn connect(url: &str, options: &PostgresOptions) -> Result<Self> {
        let connections = Connections::new(url, options)?;
        let description = format!("{} (schema {})", connections.describe(), options.schema);
        let shared = Shared {
            options: options.clone(),
            description,
            connections,
            slots: Slots::default(),
            stride: StrideHint::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A connection of its own with this store's address, password and TLS settings, for code that
    /// plays the application beside the store, as the demo does.
    pub async fn application_client(&self) -> Result<tokio_postgres::Client> {
        self.shared.connections.detached().await
    }

    fn schema(&self) -> &SchemaName {
        &self.shared.options.schema
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn describe(&self) -> &str {
        &self.shared.description
    }

    async fn schema_state(&self) -> Result<SchemaState> {
        migrate::state(self).await
    }

    async fn migrate(&self) -> Result<MigrationReport> {
        migrate::migrate(self).await
    }

    async fn check(&self) -> Result<()> {
        migrate::check(self).await
    }

    async fn preflight(&self) -> Result<Vec<String>> {
        preflight::preflight(self).await
    }

    async fn append(&self, messages: &[Message]) -> Result<Vec<MessageId>> {
        log::append(self, messages).await
    }

    async fn incarnation(&self) -> Result<Uuid> {
        let sql = format!("select incarnation from {}.meta", self.schema());
        let loan = self.shared.connections.lend().await?;
        let rows = loan.bounded("read the log's id", loan.client().query_typed(&sql, &[])).await?;
        loan.give_back();
        Ok(rows.first().map(|row| row.get(0)).unwrap_or_default())
    }

    fn ticker(&self) -> Box<dyn Ticker> {
        Box::new(ticker::PostgresTicker::new(self.clone()))
    }

    async fn window(&self, base: TickRef, head: Option<TickRef>) -> Result<Option<Arc<Window>>> {
        log::window(self, base, head).await
    }

    async fn read(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        limit: PageLimit,
    ) -> Result<Option<Page>> {
        log::read(self, window, after, Selection { filter, key: None }, limit).await
    }

    async fn read_key(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        key: &str,
        limit: PageLimit,
    ) -> Result<Option<Page>> {
        log::read(self, window, after, Selection { filter, key: Some(key) }, limit).await
    }

    async fn reconcile(&self, specs: &[SubscriptionSpec]) -> Result<()> {
        subscriptions::reconcile(self, specs).await
    }

    async fn acquire(&self, subscription: &str, holder: &str, lease: Duration) -> Result<Acquired> {
        leases::acquire(self, subscription, holder, lease).await
    }

    async fn renew(&self, relay: &RelayView, lease: Duration) -> Result<Leases> {
        leases::renew(self, relay, lease).await
    }

    async fn confirm(
        &self,
        subscription: &str,
        place: &Place,
        remembered: Option<&Place>,
    ) -> Result<Lineage> {
        rewound::confirm(self, subscription, place, remembered).await
    }

    async fn tick_before(&self, time: Timestamp) -> Result<TickRef> {
        let sql = format!(
            "select n, id from {}.tick where at < to_timestamp({}::float8 / 1e6) order by n desc limit 1",
            self.schema(),
            time.0
        );
        let loan = self.shared.connections.lend().await?;
        let rows = loan.bounded("find a tick", loan.client().query_typed(&sql, &[])).await?;
        loan.give_back();
        let tick = rows.first().map(|row| TickRef { n: row.get(0), id: row.get(1) });
        Ok(tick.unwrap_or(TickRef::BEGINNING))
    }

    async fn confirm_mark(&self, mark: &Place) -> Result<()> {
        rewound::confirm_mark(self, mark).await
    }

    async fn gone(&self, mark: &Place) -> Result<Option<String>> {
        retention::gone(self, mark).await
    }

    async fn halt(&self, subscription: &str, epoch: Epoch, found: &str) -> Result<()> {
        rewound::halt(self, subscription, epoch, found).await
    }

    async fn adopted(&self, subscription: &str, epoch: Epoch) -> Result<()> {
        rewound::adopted(self, subscription, epoch).await
    }

    async fn settle(&self, subscription: &str, epoch: Epoch, place: &Place) -> Result<Settled> {
        subscriptions::settle(self, subscription, epoch, place).await
    }

    async fn set_aside(
        &self,
        subscription: &str,
        epoch: Epoch,
        changes: &[Aside],
        place: Option<&Place>,
    ) -> Result<Settled> {
        aside::set_aside(self, subscription, epoch, changes, place).await
    }

    async fn aside(&self, subscription: &str) -> Result<AsideState> {
        aside::aside(self, subscription).await
    }

    async fn due_messages(&self, subscription: &str, limit: u32) -> Result<DueMessages> {
        aside::due_messages(self, subscription, limit).await
    }

    async fn release(&self, subscription: &str, epoch: Epoch) -> Result<()> {
        leases::release(self, subscription, epoch).await
    }

    async fn leave(&self, holder: &str) -> Result<()> {
        leases::leave(self, holder).await
    }

    async fn move_due(&self, limit: u32) -> Result<Moved> {
        scheduled::move_due(self, limit).await
    }

    async fn sweep(&self) -> Result<SweepReport> {
        sweep::sweep(self).await
    }

    async fn status(&self) -> Result<Status> {
        status::status(self).await
    }

    async fn recent(&self, after: Option<i64>, limit: u32) -> Result<Vec<StoredMessage>> {
        status::recent(self, after, limit).await
    }

    async fn contracts(&self, known: &ContractsMark) -> Result<Option<ContractSet>> {
        contracts::contracts(self, known).await
    }
}
