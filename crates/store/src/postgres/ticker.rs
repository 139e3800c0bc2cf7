//! Taking ticks: look, find out whether the window holds a message, and commit the tick.
//!
//! A tick's commit is what makes ATOMIC hold: it is logged and synchronous, so once it has
//! returned, every commit that its snapshot shows is durable as well.

use async_trait::async_trait;
use posthaste_core::{Look, LookRule, SequenceState, Snapshot, Tick, TickRef, Window};
use tokio_postgres::SimpleQueryMessage;
use uuid::Uuid;

use super::{PostgresStore, connect::Loan, log::Bounds, rewound, rows};
use crate::{Advance, Result, StoreError, StoreErrorKind, Ticker, defect};

/// Tries per call when another process keeps ticking first.
const ATTEMPTS: u32 = 3;

/// The ticker of one process and source.
pub(super) struct PostgresTicker {
    store: PostgresStore,
    /// Its own connection, so that looks never wait for pages.
    loan: Option<Loan>,
    rule: LookRule,
    newest: Option<Tick>,
    /// The log was found to be this database's own, on this connection.
    is_confirmed: bool,
    /// A tick's commit was not acknowledged by the synchronous standby: nothing may be published
    /// before another commit was.
    must_confirm: bool,
}

impl PostgresTicker {
    pub(super) fn new(store: PostgresStore) -> Self {
        let rule = LookRule::default();
        Self { store, loan: None, rule, newest: None, is_confirmed: false, must_confirm: false }
    }

    async fn try_advance(&mut self, loan: &Loan) -> Result<Advance> {
        let (sequence, snapshot) = look(&self.store, loan).await?;
        let decision = self.rule.look(sequence, &snapshot);
        match (decision, &self.newest) {
            (Look::Rest, Some(newest)) if !self.must_confirm => {
                return Ok(Advance {
                    tick: newest.at,
                    window: None,
                    busy: self.rule.is_watching(),
                });
            }
            (Look::TakeXid, Some(newest)) if defect::is("look-without-x") => {
                return Ok(Advance { tick: newest.at, window: None, busy: false });
            }
            (Look::TakeXid, _) => self.rule.xid_taken(take_xid(loan).await?),
            _ => {}
        }
        // The snapshot of the look serves as `cur`, unless it is older than the newest tick (read
        // later) or than X.
        let reusable = decision == Look::Tick && self.newest.is_some();
        self.close_window(loan, reusable.then_some(snapshot)).await
    }

    async fn close_window(&mut self, loan: &Loan, look: Option<Snapshot>) -> Result<Advance> {
        if !self.is_confirmed {
            rewound::refuse_copy(&self.store, loan).await?;
            self.is_confirmed = true;
        }
        let mut cur = look;
        for _ in 0..ATTEMPTS {
            let base = match self.newest.clone() {
                Some(newest) => newest,
                None => self.store.newest_tick(loan).await?,
            };
            let snapshot = match cur.take() {
                Some(snapshot) => snapshot,
                None => current_snapshot(loan).await?,
            };
            rewound::refuse_step_back(&self.store, &base, &snapshot)?;
            let Bounds { main, late } = self.store.bounds(loan, &base.snapshot, &snapshot).await?;
            if main.is_none() && late.is_empty() && !self.must_confirm {
                let tick = base.at;
                self.newest = Some(base);
                return Ok(Advance { tick, window: None, busy: self.rule.is_watching() });
            }
            let head = Tick { at: TickRef { n: base.at.n + 1, id: Uuid::new_v4() }, snapshot };
            if self.commit(loan, &head).await? {
                self.newest = Some(head.clone());
                let window = Window { base, head, main, late };
                let tick = window.head.at;
                return Ok(Advance { tick, window: Some(window.into()), busy: true });
            }
            self.newest = None;
        }
        let newest = self.store.newest_tick(loan).await?;
        self.rule.forget();
        Ok(Advance { tick: self.newest.insert(newest).at, window: None, busy: true })
    }

    /// Commits a tick; false when another process has taken that number.
    async fn commit(&mut self, loan: &Loan, tick: &Tick) -> Result<bool> {
        let warnings = loan.warnings();
        let taken = commit_tick(&self.store, loan, tick).await?;
        // With synchronous standbys a cancelled wait ends as a success with a warning.
        self.must_confirm = loan.warnings() != warnings;
        if self.must_confirm {
            let doing = "commit a tick: the server warned that it may not be durable";
            return Err(StoreError::new(StoreErrorKind::Unavailable, doing));
        }
        Ok(taken)
    }
}

#[async_trait]
impl Ticker for PostgresTicker {
    async fn advance(&mut self) -> Result<Advance> {
        let loan = match self.loan.take() {
            Some(loan) => loan,
            None => self.store.shared.connections.lend().await?,
        };
        // Until this call has succeeded, the next one must tick: what a look found, and which
        // tick is the newest, may be lost with the connection or with a dropped future.
        let newest = self.newest.take();
        let rule = std::mem::take(&mut self.rule);
        let is_confirmed = std::mem::take(&mut self.is_confirmed);
        let mut attempt = Self {
            store: self.store.clone(),
            loan: None,
            rule,
            newest,
            is_confirmed,
            must_confirm: self.must_confirm,
        };
        let advanced = attempt.try_advance(&loan).await;
        self.must_confirm = attempt.must_confirm;
        let advance = advanced?;
        self.rule = attempt.rule;
        self.newest = attempt.newest;
        self.is_confirmed = attempt.is_confirmed;
        self.loan = Some(loan);
        Ok(advance)
    }
}

/// Reads the sequence, then takes a snapshot: two autocommit statements, so that the snapshot is
/// the later one under every isolation level and holds no xid of its own.
async fn look(store: &PostgresStore, loan: &Loan) -> Result<(SequenceState, Snapshot)> {
    let sql = format!("select last_value, is_called from {}.log_position_seq", store.schema());
    let rows = loan.bounded("look at the log", loan.client().query_typed(&sql, &[])).await?;
    let row = rows.first().ok_or_else(|| {
        StoreError::new(StoreErrorKind::Unexpected, "look at the log: the sequence has no row")
    })?;
    let sequence = SequenceState { last_value: row.get(0), is_called: row.get(1) };
    Ok((sequence, current_snapshot(loan).await?))
}

/// `cur`: one statement that holds no xid, on the primary. A standby lists no transaction in
/// progress, so windows read there would miss late messages.
pub(super) async fn current_snapshot(loan: &Loan) -> Result<Snapshot> {
    let sql = "select pg_current_snapshot()::text, pg_is_in_recovery()";
    let rows = loan.bounded("take a snapshot", loan.client().query_typed(sql, &[])).await?;
    match rows.first() {
        Some(row) if !row.get::<_, bool>(1) => rows::snapshot(row.get(0)),
        _ => Err(StoreError::new(StoreErrorKind::Standby, "take a snapshot: this is a standby")),
    }
}

/// Takes the transaction id X of the look rule (and of sealing a slot).
pub(super) async fn take_xid(loan: &Loan) -> Result<u64> {
    let sql = "select pg_current_xact_id()::text";
    let rows = loan.bounded("take a transaction id", loan.client().query_typed(sql, &[])).await?;
    rows.first().map_or_else(
        || Err(StoreError::new(StoreErrorKind::Unexpected, "take a transaction id: no answer")),
        |row| rows::xid(row.get(0)),
    )
}

/// Commits a tick in one round trip; false when its number is taken.
///
/// ATOMIC: `synchronous_commit` is set here, for this transaction, because a role or a database
/// may have it off: the tick's commit waits for the log, and with it for every earlier commit.
/// The lock on the meta row orders ticks, so that a higher number never has an older snapshot.
async fn commit_tick(store: &PostgresStore, loan: &Loan, tick: &Tick) -> Result<bool> {
    let schema = store.schema();
    let sql = format!(
        "begin isolation level read committed; \
         set local synchronous_commit = {durable}; \
         select from {schema}.meta for update; \
         insert into {schema}.tick (n, id, snapshot) \
         select {n}, '{id}'::uuid, '{snapshot}'::pg_snapshot \
         where {n} = 1 + coalesce((select n from {schema}.tick order by n desc limit 1), 0); \
         commit",
        durable = if defect::is("tick-after-publish") { "off" } else { "on" },
        n = tick.at.n,
        id = tick.at.id,
        snapshot = tick.snapshot
    );
    let answers = match loan.bounded("commit a tick", loan.client().simple_query(&sql)).await {
        Err(_unknown) if defect::is("swallowed-commit") => return Ok(true),
        answers => answers?,
    };
    let counts: Vec<u64> = answers
        .iter()
        .filter_map(|answer| match answer {
            SimpleQueryMessage::CommandComplete(count) => Some(*count),
            _ => None,
        })
        .collect();
    // begin, set, select, insert, commit
    Ok(counts.get(3) == Some(&1))
}

/// Takes a tick whether or not anything is new, and returns it: where a subscription starts that
/// wants only what comes.
pub(super) async fn force_tick(store: &PostgresStore, loan: &Loan) -> Result<Tick> {
    rewound::refuse_copy(store, loan).await?;
    loop {
        let newest = store.newest_tick(loan).await?;
        let snapshot = current_snapshot(loan).await?;
        rewound::refuse_step_back(store, &newest, &snapshot)?;
        let tick = Tick { at: TickRef { n: newest.at.n + 1, id: Uuid::new_v4() }, snapshot };
        if commit_tick(store, loan, &tick).await? {
            return Ok(tick);
        }
    }
}
