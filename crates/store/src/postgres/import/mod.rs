//! Copies an outbox that an application has kept itself into the log.
//!
//! A cursor fixes which rows there are and their order, without payloads. Each batch then reads its
//! rows anew, notes them in `imported_row` and writes their messages, in one transaction: however
//! often it is killed and run again, a row is copied once. Rows that commit while it runs were not
//! in the cursor's snapshot and come with the next pass, whatever their place in the order.

mod plan;
mod rows;
mod scan;

use std::collections::{HashMap, VecDeque};

use async_trait::async_trait;
use posthaste_core::{Limits, Message};
use tokio_postgres::{
    Row, Transaction,
    types::{ToSql, Type},
};

use self::{
    plan::{Column, Plan, TABLE_SQL, Table},
    scan::Scan,
};
use super::{PostgresStore, connect, log};
use crate::{
    Copied, Import, ImportCounts, ImportRow, ImportSource, Result, StoreError, StoreErrorKind,
    TableColumn, TableName,
};

/// Rows of a batch: as many keys as a transaction may lock for strict topics.
const BATCH_ROWS: u32 = 1000;

/// Payload bytes of a batch, beyond which no further row joins it.
const BATCH_BYTES: i64 = 8 * 1024 * 1024;

/// Passes over the table: where writers go on, each is as short as the one before let them write.
const PASSES_MAX: u32 = 10;

/// Lock space of imports ("PHIM"); the second number tells sources apart. Two imports of a table
/// take turns, batch by batch, so that both together keep the order.
const LOCK_SPACE: i32 = 0x5048_494d;

/// An import of one table.
struct PostgresImport {
    store: PostgresStore,
    plan: Plan,
    relation: u32,
    table: String,
    limits: Limits,
    actor: String,
    /// The number of the source; 0, which no source has, before its first import.
    source: i32,
    forgets: bool,
    checking: Option<Scan>,
    copying: Option<Pass>,
    passes: u32,
    /// The import's row in the audit trail, once something was copied.
    audit: Option<i64>,
}

/// One way through the table.
struct Pass {
    scan: Scan,
    /// Ids and payload sizes that were read and not copied yet.
    ahead: VecDeque<(String, i64)>,
    rows: u64,
}

/// The columns of `table`.
pub(super) async fn columns(store: &PostgresStore, table: &TableName) -> Result<Vec<TableColumn>> {
    let found = read_table(store, table).await?;
    let column = |Column { name, type_name, .. }| TableColumn { name, type_name };
    Ok(found.columns.into_iter().map(column).collect())
}

/// Reads what there is, and writes nothing.
pub(super) async fn open(store: &PostgresStore, source: &ImportSource) -> Result<Box<dyn Import>> {
    let table = read_table(store, &source.table).await?;
    let plan = Plan::new(source, &table, store.schema())?;
    let sql = format!(
        "select m.payload_bytes_max, s.id, s.relation from {0}.meta m \
         left join {0}.import_source s on s.name = $1",
        store.schema()
    );
    let loan = store.shared.connections.lend().await?;
    let name: &[(&(dyn ToSql + Sync), Type)] = &[(&table.name, Type::TEXT)];
    let rows = loan.bounded("read the imports", loan.client().query_typed(&sql, name)).await?;
    loan.give_back();
    let row = rows.first();
    let payload_bytes = row.map_or(0, |row| row.get::<_, i32>(0)).cast_unsigned() as usize;
    let known = row.and_then(|row| row.get::<_, Option<i32>>(1).zip(row.get::<_, Option<u32>>(2)));
    if known.is_some_and(|(_, relation)| relation != table.oid) && !source.forgets {
        let doing = format!(
            "the table {} is not the one that rows were imported from before: it was created anew \
             or restored; import with --forget if its ids begin anew as well",
            table.name
        );
        return Err(StoreError::new(StoreErrorKind::Invalid, doing));
    }
    Ok(Box::new(PostgresImport {
        store: store.clone(),
        plan,
        relation: table.oid,
        table: table.name,
        limits: Limits { payload_bytes, ..Limits::DEFAULT },
        actor: source.actor.clone(),
        source: known.filter(|_| !source.forgets).map_or(0, |(id, _)| id),
        forgets: source.forgets,
        checking: None,
        copying: None,
        passes: 0,
        audit: None,
    }))
}

async fn read_table(store: &PostgresStore, name: &TableName) -> Result<Table> {
    let text = name.to_string();
    let params: &[(&(dyn ToSql + Sync), Type)] = &[(&text, Type::TEXT)];
    let loan = store.shared.connections.lend().await?;
    let query = loan.client().query_typed(TABLE_SQL, params);
    let rows = loan.bounded("read the table's columns", query).await?;
    loan.give_back();
    let column =
        |row: &Row| Column { name: row.get(3), type_name: row.get(4), is_unique: row.get(5) };
    let table = rows.first().map(|first| Table {
        oid: first.get(0),
        name: first.get(1),
        holds_rows: first.get(2),
        columns: rows.iter().map(column).collect(),
    });
    table.filter(|table| table.holds_rows).ok_or_else(|| {
        let doing = format!(
            "there is no table {text} in {}; letters stand as SQL stores them, mostly in lower \
             case",
            store.shared.description
        );
        StoreError::new(StoreErrorKind::Invalid, doing)
    })
}

#[async_trait]
impl Import for PostgresImport {
    fn table(&self) -> &str {
        &self.table
    }

    async fn counts(&mut self) -> Result<ImportCounts> {
        // Everybody may look: `pg_locks` shows no statements.
        let open = format!(
            "select count(distinct virtualtransaction) from pg_locks where relation in \
             (select {0}::oid union select inhrelid from pg_inherits where inhparent = {0}) \
             and database = (select oid from pg_database where datname = current_database()) \
             and mode = 'RowExclusiveLock' and granted and pid <> pg_backend_pid()",
            self.relation
        );
        let loan = self.store.shared.connections.lend().await?;
        // Before the rows: who commits in between is counted here or there.
        let writers =
            loan.bounded("look for writers", loan.client().query_typed(&open, &[])).await?;
        let params = self.plan.params(&self.source);
        let query = loan.client().query_typed(&self.plan.count, &params);
        let rows = loan.bounded("count the rows", query).await?;
        loan.give_back();
        let number = |row: Option<&Row>, nth| {
            row.map_or(0, |row: &Row| row.get::<_, i64>(nth)).cast_unsigned()
        };
        Ok(ImportCounts {
            rows: number(rows.first(), 0),
            left_out: number(rows.first(), 1),
            copied_before: number(rows.first(), 2),
            waiting: number(rows.first(), 3),
            open_transactions: number(writers.first(), 0),
        })
    }

    async fn check(&mut self) -> Result<Option<Vec<ImportRow>>> {
        let mut scan = match self.checking.take() {
            Some(scan) => scan,
            None => {
                Scan::open(&self.store, &self.plan.check, &self.plan.params(&self.source)).await?
            }
        };
        let found = scan.next(BATCH_ROWS).await?;
        if found.is_empty() {
            scan.close().await?;
            return Ok(None);
        }
        self.checking = Some(scan);
        found.iter().map(|row| self.read(row)).collect::<Result<_>>().map(Some)
    }

    async fn copy(&mut self) -> Result<Option<Copied>> {
        loop {
            let mut pass = match self.copying.take() {
                Some(pass) => pass,
                None => self.begin_pass().await?,
            };
            if let Some(ids) = pass.next_batch().await? {
                let copied = self.copy_batch(&ids).await?;
                self.copying = Some(pass);
                return Ok(Some(copied));
            }
            pass.scan.close().await?;
            self.passes += 1;
            if pass.rows == 0 || self.passes == PASSES_MAX {
                self.passes = 0;
                return Ok(None);
            }
        }
    }
}

impl Pass {
    /// The ids of the next batch; `None` behind the last row.
    async fn next_batch(&mut self) -> Result<Option<Vec<String>>> {
        if self.ahead.is_empty() {
            let found = self.scan.next(BATCH_ROWS).await?;
            self.ahead.extend(found.iter().map(|row| (row.get(0), row.get(1))));
        }
        let (mut ids, mut bytes) = (Vec::new(), 0);
        while let Some((id, size)) = self.ahead.pop_front() {
            ids.push(id);
            bytes += size;
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        self.rows += ids.len() as u64;
        Ok((!ids.is_empty()).then_some(ids))
    }
}

impl PostgresImport {
    fn read(&self, row: &Row) -> Result<ImportRow> {
        rows::read(row, &self.plan, &self.limits)
            .map_err(|error| super::errors::classify("read a row", error))
    }

    async fn begin_pass(&mut self) -> Result<Pass> {
        if self.source == 0 {
            self.source = self.note_source().await?;
        }
        let params = self.plan.params(&self.source);
        let scan = Scan::open(&self.store, &self.plan.visit, &params).await?;
        Ok(Pass { scan, ahead: VecDeque::new(), rows: 0 })
    }

    /// The number of the source, with what was copied from it before forgotten if that was asked
    /// for.
    async fn note_source(&mut self) -> Result<i32> {
        let schema = self.store.schema();
        let forget = [
            format!(
                "delete from {schema}.imported_row where source = \
                 (select id from {schema}.import_source where name = $1)"
            ),
            format!("delete from {schema}.import_source where name = $1"),
        ];
        // Another import may have noted it in the meantime.
        let note = format!(
            "insert into {schema}.import_source (name, relation) values ($1, $2) \
             on conflict (name) do update set relation = excluded.relation returning id"
        );
        let params: &[(&(dyn ToSql + Sync), Type)] =
            &[(&self.table, Type::TEXT), (&self.relation, Type::OID)];
        let mut loan = self.store.shared.connections.lend().await?;
        let bound = loan.operation_timeout();
        let work = async {
            let transaction = loan.begin().await?;
            for sql in forget.iter().filter(|_| self.forgets) {
                transaction.execute_typed(sql, &params[..1]).await?;
            }
            let rows = transaction.query_typed(&note, params).await?;
            transaction.commit().await?;
            Ok(rows.first().map_or(0, |row| row.get(0)))
        };
        let source = connect::bounded(bound, "note the import", work).await?;
        loan.give_back();
        self.forgets = false;
        Ok(source)
    }

    /// Copies the rows of `ids` that are still to be copied.
    async fn copy_batch(&mut self, ids: &[String]) -> Result<Copied> {
        let lock = format!("select pg_advisory_xact_lock({LOCK_SPACE}, {})", self.source);
        let mut params = self.plan.params(&self.source);
        params.push((&ids, Type::TEXT_ARRAY));
        let mut loan = self.store.shared.connections.lend().await?;
        let bound = loan.operation_timeout();
        let begin = async {
            let transaction = loan.begin().await?;
            // An earlier statement than the one that reads, which then sees what the other import
            // has copied.
            transaction.query_typed(&lock, &[]).await?;
            let found = transaction.query_typed(&self.plan.copy, &params).await?;
            Ok((transaction, found))
        };
        let (transaction, found) = connect::bounded(bound, "read rows", begin).await?;
        let messages = self.messages(&found, ids)?;
        let copied = Copied {
            rows: ids.len() as u64,
            messages: messages.len() as u64,
            marked: if self.plan.marks { found.len() as u64 } else { 0 },
        };
        let write = async {
            let schema = self.store.schema();
            if !messages.is_empty() {
                log::write(&transaction, schema, &messages).await?;
            }
            let audit = self.note(&transaction, copied).await?;
            transaction.commit().await?;
            Ok(audit)
        };
        let audit = connect::bounded(bound, "copy rows", write).await?;
        self.audit = audit;
        loan.give_back();
        Ok(copied)
    }

    /// The messages of the rows that are new, in the order of `ids`.
    fn messages(&self, found: &[Row], ids: &[String]) -> Result<Vec<Message>> {
        let order: HashMap<&str, usize> =
            ids.iter().enumerate().map(|(nth, id)| (id.as_str(), nth)).collect();
        let mut messages = Vec::with_capacity(found.len());
        for row in found.iter().filter(|row| row.get(9)) {
            let ImportRow { id, message, .. } = self.read(row)?;
            let message = message.map_err(|reason| {
                let doing = format!("row {id} of {}: {reason}", self.table);
                StoreError::new(StoreErrorKind::Invalid, doing)
            })?;
            let payload = row.get::<_, Option<&[u8]>>(8).unwrap_or_default();
            let message = message.bytes(&self.plan.content_type, payload);
            messages.push((order.get(id.as_str()).copied(), message));
        }
        messages.sort_by_key(|(nth, _)| *nth);
        Ok(messages.into_iter().map(|(_, message)| message).collect())
    }

    /// Brings the import's row in the audit trail up to what is copied with this transaction.
    async fn note(
        &self,
        transaction: &Transaction<'_>,
        copied: Copied,
    ) -> Result<Option<i64>, tokio_postgres::Error> {
        let (messages, marked) = (copied.messages.cast_signed(), copied.marked.cast_signed());
        let counts: [(&(dyn ToSql + Sync), Type); 2] =
            [(&messages, Type::INT8), (&marked, Type::INT8)];
        let schema = self.store.schema();
        let Some(n) = self.audit else {
            if messages + marked == 0 {
                return Ok(None);
            }
            let sql = format!(
                "insert into {schema}.audit (actor, action, detail) values ($3, 'import', \
                 jsonb_build_object('table', $4::text, 'messages', $1, 'marked', $2)) returning n"
            );
            let [messages, marked] = counts;
            let params = [messages, marked, (&self.actor, Type::TEXT), (&self.table, Type::TEXT)];
            let rows = transaction.query_typed(&sql, &params).await?;
            return Ok(rows.first().map(|row| row.get(0)));
        };
        let sql = format!(
            "update {schema}.audit set detail = detail || jsonb_build_object(\
             'messages', (detail ->> 'messages')::int8 + $1, \
             'marked', (detail ->> 'marked')::int8 + $2) where n = {n}"
        );
        transaction.execute_typed(&sql, &counts).await?;
        Ok(Some(n))
    }
}
