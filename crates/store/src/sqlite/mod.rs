//! The embedded store: a log in a SQLite file on a local disk, next to the application's tables.
//!
//! SQLite has a single writer, so position order is commit order and the machinery of snapshots
//! shrinks to a number (`ticks`). Three threads own a connection each (`worker`): the writer
//! takes the write lock, the reader looks and reads pages without ever waiting for it, and the
//! observer answers people. Applications write to the same file from their own connections and
//! processes; they must not use `synchronous = off`, and they must be on the same machine.

mod append;
mod application;
mod aside;
mod background;
mod browse;
mod clock;
mod connection;
mod contracts;
mod entities;
mod faults;
mod headers;
mod incidents;
mod jobs;
mod leases;
mod machines;
mod mounts;
mod operations;
mod oversight;
mod pages;
mod rewound;
mod scheduled;
mod schema;
mod session;
mod sizes;
mod status;
mod subscriptions;
mod sweep;
mod ticks;
mod worker;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use posthaste_core::{
    Epoch, Machine, Message, MessageId, Page, PageLimit, Place, Position, RelayView, SchemaName,
    TickRef, Timestamp, TopicFilter, Window,
};
use uuid::Uuid;

pub use self::application::entity_version;
use self::{
    connection::{Opening, Role},
    session::{Scope, Session},
    sizes::Sizes,
    ticks::SqliteTicker,
    worker::Worker,
};
use crate::{
    Acquired, Aside, AsideState, ContractSet, ContractText, ContractsMark, DeadLetter, DueMessages,
    Import, ImportSource, Leases, Lineage, MigrationReport, Moved, Note, Operations, Rebased,
    ReplayChunk, Replayed, Request, Result, RewindTo, Rewound, RoleNames, SchemaState, Selection,
    Settled, Status, Store, StoreError, StoreErrorKind, StoredMessage, SubscriptionSpec,
    SweepReport, TableColumn, TableName, Ticker, Work, WrittenTopic,
};

/// How to open a SQLite log.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// Prefix of the names of all tables.
    pub schema: SchemaName,
    /// Whether to create the file when it does not exist.
    pub create: bool,
    /// Longest wait for one call, with the locks it needs.
    pub operation_timeout: Duration,
    /// How long messages stay readable after every subscription has published them.
    pub retention: Duration,
    /// Bytes of the log's rows above which published messages go earlier, if set.
    pub retention_bytes: Option<u64>,
    /// How long idempotency tokens are kept, at least.
    pub token_retention: Duration,
    /// How long inboxes remember what was handled, at least.
    pub inbox_retention: Duration,
    /// How long commands and their answers are kept, at least.
    pub command_retention: Duration,
    /// How long jobs are kept that are over, with all that belongs to them, at least.
    pub job_retention: Duration,
}

impl Default for SqliteOptions {
    /// Ten seconds are well above a slow disk's sync; the retention is that of PostgreSQL.
    fn default() -> Self {
        Self {
            schema: SchemaName::default(),
            create: false,
            operation_timeout: Duration::from_secs(10),
            retention: Duration::from_hours(1),
            retention_bytes: None,
            token_retention: Duration::from_hours(24),
            inbox_retention: Duration::from_hours(7 * 24),
            command_retention: Duration::from_hours(7 * 24),
            job_retention: Duration::from_hours(7 * 24),
        }
    }
}

/// A log in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    description: String,
    retention: Duration,
    retention_bytes: Option<u64>,
    /// What the sweeps have measured. Written on the observer's thread.
    sizes: Arc<Mutex<Sizes>>,
    token_retention: Duration,
    inbox_retention: Duration,
    command_retention: Duration,
    job_retention: Duration,
    operation_timeout: Duration,
    writer: Arc<Worker>,
    reader: Arc<Worker>,
    observer: Worker,
}

impl SqliteStore {
    /// Opens the file at `path` and switches it to WAL mode. Neither creates nor checks tables:
    /// see [`Store::migrate`] and [`Store::check`].
    ///
    /// # Errors
    /// `MissingSchema` when there is no file and none may be created; `Invalid` for a path in
    /// memory or on a network file system, a file that is no database, and a schema name that
    /// SQLite reserves; `Privilege` when the file is read-only.
    pub async fn open(path: impl AsRef<Path>, options: &SqliteOptions) -> Result<Self> {
        let bound = options.operation_timeout;
        let opening = Opening::new(path.as_ref(), &options.schema, options.create, bound)?;
        let description =
            format!("sqlite:{} (schema {})", opening.path().display(), options.schema);
        let writer = Worker::start(opening.clone(), Role::Writer, bound).await?;
        let reader = Worker::start(opening.clone(), Role::Reader, bound).await?;
        let observer = Worker::start(opening, Role::Observer, bound).await?;
        Ok(Self {
            description,
            retention: options.retention,
            retention_bytes: options.retention_bytes,
            sizes: Arc::default(),
            token_retention: options.token_retention,
            inbox_retention: options.inbox_retention,
            command_retention: options.command_retention,
            job_retention: options.job_retention,
            operation_timeout: bound,
            writer: Arc::new(writer),
            reader: Arc::new(reader),
            observer,
        })
    }

    async fn write<T: Send + 'static>(
        &self,
        doing: &str,
        work: impl FnOnce(&Scope<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.call(doing, |session| session.write(work)).await
    }

    async fn read_page(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        key: Option<&str>,
        limit: PageLimit,
    ) -> Result<Option<Page>> {
        let Some(range) = pages::next_range(window, after, limit.stride) else { return Ok(None) };
        let (filter, key) = (filter.clone(), key.map(str::to_owned));
        let page = self.reader.call("read a page", move |session| {
            session.read(|scope| pages::read(scope, range, &filter, key.as_deref(), limit))
        });
        page.await.map(Some)
    }

    async fn observe<T: Send + 'static>(
        &self,
        doing: &str,
        work: impl FnOnce(&Scope<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.observer.call(doing, |session| session.read(work)).await
    }

    /// Measures what came since the last sweep; answers up to which position messages are too many.
    async fn measure(&self, bytes_max: u64, until: Instant) -> Result<Option<Position>> {
        loop {
            let sizes = Arc::clone(&self.sizes);
            let (is_more, excess) = self
                .observe("measure the log", move |scope| {
                    let mut sizes = sizes.lock().unwrap_or_else(PoisonError::into_inner);
                    Ok((sizes.learn(scope)?, sizes.excess_through(bytes_max)))
                })
                .await?;
            if !is_more || Instant::now() >= until {
                return Ok(excess);
            }
        }
    }

    /// Deletes what is too old and, while the log is above its size, the oldest before that.
    async fn sweep_messages(&self, until: Instant) -> Result<SweepReport> {
        let (retention, bytes_max) = (self.retention, self.retention_bytes);
        let excess = match bytes_max {
            Some(bytes_max) => self.measure(bytes_max, until).await?,
            None => None,
        };
        let rows_deleted = self
            .sweep_all("sweep messages", until, move |scope| {
                sweep::messages(scope, retention, excess.unwrap_or(0))
            })
            .await?;
        let mut report = SweepReport { rows_deleted, ..SweepReport::default() };
        if let (Some(bytes_max), Some(_)) = (bytes_max, excess) {
            let excess = self.measure(bytes_max, until).await?;
            if excess.is_some() {
                let total = self.sizes.lock().unwrap_or_else(PoisonError::into_inner).total();
                report.bytes_over = total.saturating_sub(bytes_max);
                report.pin = self.observe("look at the places", sizes::pin).await?;
            }
        }
        Ok(report)
    }

    /// Deletes chunk after chunk until nothing is left or the time is up; the next sweep goes on.
    async fn sweep_all(
        &self,
        doing: &str,
        until: Instant,
        chunk: impl Fn(&Scope<'_>) -> Result<usize> + Send + Copy + 'static,
    ) -> Result<u64> {
        let mut deleted = 0;
        loop {
            let now = self.write(doing, chunk).await?;
            deleted += now as u64;
            if now == 0 || Instant::now() >= until {
                return Ok(deleted);
            }
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn describe(&self) -> &str {
        &self.description
    }

    async fn schema_state(&self) -> Result<SchemaState> {
        self.observer.call("read the schema version", schema::state).await
    }

    async fn migrate(&self) -> Result<MigrationReport> {
        self.writer.call("migrate", schema::migrate).await
    }

    async fn check(&self) -> Result<()> {
        self.writer.call("check the schema", schema::check).await
    }

    async fn append(&self, messages: &[Message]) -> Result<Vec<MessageId>> {
        let messages = messages.to_vec();
        self.write("append messages", move |scope| append::append(scope, &messages)).await
    }

    async fn incarnation(&self) -> Result<Uuid> {
        self.observe("read the log's id", operations::incarnation).await
    }

    fn ticker(&self) -> Box<dyn Ticker> {
        let (reader, writer) = (Arc::clone(&self.reader), Arc::clone(&self.writer));
        Box::new(SqliteTicker { reader, writer, seen: None })
    }

    async fn window(&self, base: TickRef, head: Option<TickRef>) -> Result<Option<Arc<Window>>> {
        let found = self.reader.call("read the window", move |session| {
            session.read(|scope| ticks::window(scope, base, head))
        });
        Ok(found.await?.map(Arc::new))
    }

    async fn read(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        limit: PageLimit,
    ) -> Result<Option<Page>> {
        self.read_page(window, after, filter, None, limit).await
    }

    async fn read_key(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        key: &str,
        limit: PageLimit,
    ) -> Result<Option<Page>> {
        self.read_page(window, after, filter, Some(key), limit).await
    }

    async fn reconcile(&self, specs: &[SubscriptionSpec]) -> Result<()> {
        let specs = specs.to_vec();
        self.write("reconcile subscriptions", move |scope| subscriptions::reconcile(scope, &specs))
            .await
    }

    async fn acquire(&self, subscription: &str, holder: &str, lease: Duration) -> Result<Acquired> {
        let (name, holder) = (subscription.to_owned(), holder.to_owned());
        self.write("take a subscription over", move |scope| {
            leases::acquire(scope, &name, &holder, lease)
        })
        .await
    }

    async fn renew(&self, relay: &RelayView, lease: Duration) -> Result<Leases> {
        let relay = relay.clone();
        self.write("renew the leases", move |scope| leases::renew(scope, &relay, lease)).await
    }

    async fn confirm(
        &self,
        subscription: &str,
        place: &Place,
        remembered: Option<&Place>,
    ) -> Result<Lineage> {
        let (name, place, remembered) = (subscription.to_owned(), *place, remembered.copied());
        self.observe("compare the log with a place", move |scope| {
            rewound::confirm(scope, &name, &place, remembered.as_ref())
        })
        .await
    }

    async fn tick_before(&self, time: Timestamp) -> Result<TickRef> {
        self.observe("find a tick", move |scope| Ok(ticks::before(scope, time)?.at)).await
    }

    async fn confirm_mark(&self, mark: &Place) -> Result<()> {
        let mark = *mark;
        self.observe("compare the log with a place", move |scope| {
            rewound::confirm_mark(scope, &mark)
        })
        .await
    }

    async fn gone(&self, mark: &Place) -> Result<Option<String>> {
        let mark = *mark;
        // Asked for every page of a stream: it must not wait for those who look at the whole log.
        let gone = self.reader.call("look for what was deleted", move |session| {
            session.read(|scope| sweep::gone(scope, &mark))
        });
        gone.await
    }

    async fn halt(&self, subscription: &str, epoch: Epoch, found: &str) -> Result<()> {
        let (name, found) = (subscription.to_owned(), found.to_owned());
        self.write("halt a subscription", move |scope| rewound::halt(scope, &name, epoch, &found))
            .await
    }

    async fn adopted(&self, subscription: &str, epoch: Epoch) -> Result<()> {
        let name = subscription.to_owned();
        self.write("note that the sink was taken over", move |scope| {
            rewound::adopted(scope, &name, epoch)
        })
        .await
    }

    async fn settle(&self, subscription: &str, epoch: Epoch, place: &Place) -> Result<Settled> {
        let (name, place) = (subscription.to_owned(), *place);
        self.write("settle", move |scope| subscriptions::settle(scope, &name, epoch, &place)).await
    }

    async fn set_aside(
        &self,
        subscription: &str,
        epoch: Epoch,
        changes: &[Aside],
        place: Option<&Place>,
    ) -> Result<Settled> {
        let (name, place) = (subscription.to_owned(), place.copied());
        let changes = changes.to_vec();
        self.write("set messages aside", move |scope| {
            aside::set_aside(scope, &name, epoch, &changes, place.as_ref())
        })
        .await
    }

    async fn aside(&self, subscription: &str) -> Result<AsideState> {
        let name = subscription.to_owned();
        self.observe("read what is set aside", move |scope| aside::aside(scope, &name)).await
    }

    async fn due_messages(&self, subscription: &str, limit: u32) -> Result<DueMessages> {
        let name = subscription.to_owned();
        self.observe("read the due messages", move |scope| aside::due_messages(scope, &name, limit))
            .await
    }

    async fn release(&self, subscription: &str, epoch: Epoch) -> Result<()> {
        let name = subscription.to_owned();
        self.write("release a subscription", move |scope| leases::release(scope, &name, epoch))
            .await
    }

    async fn leave(&self, holder: &str) -> Result<()> {
        let holder = holder.to_owned();
        self.write("leave the relays", move |scope| leases::leave(scope, &holder)).await
    }

    async fn move_due(&self, limit: u32) -> Result<Moved> {
        // The look waits for no lock.
        let look =
            self.reader.call("look for due messages", |session| session.read(scheduled::look));
        match look.await? {
            (false, next_in) => Ok(Moved { count: 0, next_in }),
            (true, _) => {
                self.write("move due messages", move |scope| scheduled::move_due(scope, limit))
                    .await
            }
        }
    }

    async fn sweep(&self) -> Result<SweepReport> {
        let until = Instant::now() + self.operation_timeout;
        let report = self.sweep_messages(until).await?;
        self.sweep_all("sweep ticks", until, sweep::ticks).await?;
        self.sweep_all("sweep settled places", until, sweep::progress).await?;
        let kept = self.token_retention;
        let tokens_deleted =
            self.sweep_all("sweep tokens", until, move |scope| sweep::tokens(scope, kept)).await?;
        let kept = self.inbox_retention;
        let inbox_deleted =
            self.sweep_all("sweep inboxes", until, move |scope| sweep::inbox(scope, kept)).await?;
        let kept = self.command_retention;
        let commands_deleted = self
            .sweep_all("sweep commands", until, move |scope| sweep::commands(scope, kept))
            .await?;
        let kept = self.job_retention;
        let jobs_deleted =
            self.sweep_all("sweep jobs", until, move |scope| sweep::jobs(scope, kept)).await?;
        Ok(SweepReport { tokens_deleted, inbox_deleted, commands_deleted, jobs_deleted, ..report })
    }

    async fn status(&self) -> Result<Status> {
        let bytes_max = self.retention_bytes;
        self.observe("read the status", move |scope| status::status(scope, bytes_max)).await
    }

    async fn recent(&self, after: Option<i64>, limit: u32) -> Result<Vec<StoredMessage>> {
        self.observe("read recent messages", move |scope| status::recent(scope, after, limit)).await
    }

    async fn contracts(&self, known: &ContractsMark) -> Result<Option<ContractSet>> {
        let known = *known;
        self.observe("read the contracts", move |scope| contracts::contracts(scope, &known)).await
    }
}

#[async_trait]
impl Operations for SqliteStore {
    async fn work(&self, work: Box<dyn Work>, note: &Note, request: &Request) -> Result<()> {
        let (action, note, request) = (note.action, note.clone(), request.clone());
        let job = move |session: &mut Session| application::work(session, work, &note, &request);
        self.writer.call(action, job).await
    }

    async fn dead_letters(&self, which: &Selection, limit: u32) -> Result<Vec<DeadLetter>> {
        let which = which.clone();
        self.observe("read the dead letters", move |scope| {
            operations::dead_letters(scope, &which, limit)
        })
        .await
    }

    async fn written_topics(&self, looked_at: u32) -> Result<Vec<WrittenTopic>> {
        self.observe("read the topics", move |scope| operations::written_topics(scope, looked_at))
            .await
    }

    async fn create_compatibility_view(&self, name: &SchemaName) -> Result<()> {
        let name = name.clone();
        self.write("create a view", move |scope| {
            operations::create_compatibility_view(scope, &name)
        })
        .await
    }

    async fn create_compatibility_function(&self, _: &str) -> Result<()> {
        let doing = "SQLite knows no functions: call `posthaste::Machines`";
        Err(StoreError::new(StoreErrorKind::Invalid, doing))
    }

    fn roles_sql(&self, _: &RoleNames) -> Result<String> {
        let doing = "SQLite knows no roles: whoever may open the file may read and write it";
        Err(StoreError::new(StoreErrorKind::Invalid, doing))
    }

    async fn create_roles(&self, names: &RoleNames) -> Result<()> {
        self.roles_sql(names).map(drop)
    }

    async fn replay_dead_letters(
        &self,
        which: &Selection,
        rate: Option<f64>,
        request: &Request,
    ) -> Result<u64> {
        let (which, request) = (which.clone(), request.clone());
        self.write("replay dead letters", move |scope| {
            operations::replay_dead_letters(scope, &which, rate, &request)
        })
        .await
    }

    async fn discard_dead_letters(&self, which: &Selection, request: &Request) -> Result<u64> {
        let (which, request) = (which.clone(), request.clone());
        self.write("discard dead letters", move |scope| {
            operations::discard_dead_letters(scope, &which, &request)
        })
        .await
    }

    async fn replay(
        &self,
        which: &Selection,
        target: &str,
        chunk: &ReplayChunk,
        request: &Request,
    ) -> Result<Replayed> {
        let (which, target) = (which.clone(), target.to_owned());
        let (chunk, request) = (*chunk, request.clone());
        self.write("replay", move |scope| {
            operations::replay(scope, &which, &target, &chunk, &request)
        })
        .await
    }

    async fn cancel(&self, id: MessageId, number: Option<i64>, request: &Request) -> Result<bool> {
        let request = request.clone();
        let cancel = move |scope: &Scope<'_>| operations::cancel(scope, id, number, &request);
        self.write("cancel a message", cancel).await
    }

    async fn erase(&self, which: &Selection, request: &Request) -> Result<u64> {
        let (which, request) = (which.clone(), request.clone());
        self.write("erase", move |scope| operations::erase(scope, &which, &request)).await
    }

    async fn push_machine(&self, machine: &Machine, request: &Request) -> Result<()> {
        let (machine, request) = (machine.clone(), request.clone());
        self.write("push a machine", move |scope| machines::push(scope, &machine, &request)).await
    }

    async fn push_contracts(
        &self,
        contracts: &[ContractText],
        request: &Request,
    ) -> Result<Vec<bool>> {
        crate::contracts::check(contracts)?;
        let (contracts, request) = (contracts.to_vec(), request.clone());
        self.write("push contracts", move |scope| contracts::push(scope, &contracts, &request))
            .await
    }

    async fn remove_contract(&self, topic: &str, version: u32, request: &Request) -> Result<bool> {
        let (topic, request) = (topic.to_owned(), request.clone());
        self.write("remove a contract", move |scope| {
            contracts::remove(scope, &topic, version, &request)
        })
        .await
    }

    async fn table_columns(&self, _: &TableName) -> Result<Vec<TableColumn>> {
        Err(no_import())
    }

    async fn import(&self, _: &ImportSource) -> Result<Box<dyn Import>> {
        Err(no_import())
    }

    async fn pause(&self, subscription: &str, paused: bool, request: &Request) -> Result<()> {
        let (name, request) = (subscription.to_owned(), request.clone());
        self.write("pause", move |scope| operations::pause(scope, &name, paused, &request)).await
    }

    async fn reserve(&self, subscription: &str, time: Duration) -> Result<Option<String>> {
        let name = subscription.to_owned();
        self.write("reserve", move |scope| leases::reserve(scope, &name, time)).await
    }

    async fn rewind(&self, subscription: &str, to: RewindTo, request: &Request) -> Result<Rewound> {
        let (name, request) = (subscription.to_owned(), request.clone());
        self.write("rewind", move |scope| operations::rewind(scope, &name, to, &request)).await
    }

    async fn rebase(&self, subscription: &str, request: &Request) -> Result<Rebased> {
        let (name, request) = (subscription.to_owned(), request.clone());
        self.write("rebase", move |scope| rewound::rebase(scope, &name, &request)).await
    }

    async fn remove(&self, subscription: &str, request: &Request) -> Result<()> {
        let (name, request) = (subscription.to_owned(), request.clone());
        self.write("remove", move |scope| operations::remove(scope, &name, &request)).await
    }
}

fn no_import() -> StoreError {
    let doing = "import reads a table of the same PostgreSQL database; on SQLite write its rows \
                 with an application's own enqueue";
    StoreError::new(StoreErrorKind::Invalid, doing)
}
