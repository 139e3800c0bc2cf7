//! diesel-async with PostgreSQL: inside `connection.transaction(…)`, hand over `&mut *connection`; of
//! a pooled connection, `&mut **connection`.
//!
//! The statement stays prepared under a name, as Diesel's own do: one round trip from its second use
//! on a connection on. Where the connection caches none (`CacheSize::Disabled`) it is prepared and
//! closed for every enqueue, which costs two.
//!
//! Diesel keeps no error codes, so the kinds of [`EnqueueError`] are told from the server's texts. A
//! server whose `lc_messages` is not English answers with other texts: most kinds are
//! [`Database`](EnqueueErrorKind::Database) then, and the cause says what happened.
//!
//! # Cancellation
//! Dropping the future of `connection.transaction(…)` leaves the transaction open on the connection.
//! diesel-async's pools close such a connection when it comes back; drop one of your own.
//!
//! # Examples
//! ```no_run
//! # use posthaste::{Message, Outbox};
//! # async fn example(outbox: Outbox, connection: &mut diesel_async::AsyncPgConnection) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use diesel_async::{AsyncConnection, RunQueryDsl};
//!
//! connection
//!     .transaction(async |connection| {
//!         let order = diesel::sql_query("insert into orders (id) values (17)");
//!         order.execute(connection).await?;
//!         let message = Message::new("orders.created").text("17");
//!         outbox.enqueue(&mut *connection, &message).await?;
//!         Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//!     })
//!     .await?;
//! # Ok(())
//! # }
//! ```

use std::marker::PhantomData;

use ::diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use diesel::{
    QueryResult,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    result::{DatabaseErrorKind, Error},
    sql_types::{self, Array, BigInt, Binary, Bool, Nullable, Text},
};
use posthaste_core::MessageId;
use posthaste_store::statements::PostgresWriter;
use uuid::Uuid;

use super::{columns::Columns, refuse_answered};
use crate::{
    EnqueueError, EnqueueErrorKind, Entry, Statements, Writer,
    caller::{Answer, Caller, Value},
    encode::header_pairs,
};

impl Writer for &mut AsyncPgConnection {
    async fn write(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> Result<(), EnqueueError> {
        let statement: Statement<'_> = match entries {
            [entry] => Statement::new(&statements.postgres.insert, values(*entry)),
            _ => Statement::new(&statements.postgres.insert_many, arrays(Columns::of(entries))),
        };
        statement.execute(*self).await.map(drop).map_err(failed)
    }

    async fn write_each(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let mut columns = Columns::of(entries);
        let tokens = Bind::NullableTexts(std::mem::take(&mut columns.tokens));
        let dues = Bind::Times(std::mem::take(&mut columns.dues));
        let mut binds = arrays(columns);
        binds.extend([tokens, dues]);
        let write: Statement<'_, sql_types::Uuid> =
            Statement::new(&statements.postgres.write_each, binds);
        write.load(*self).await.map_err(failed)
    }

    async fn cancel(
        &mut self,
        statements: &Statements,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        let cancel: Statement<'_, Bool> =
            Statement::new(&statements.postgres.cancel, vec![Bind::Id(id)]);
        cancel.get_result(*self).await.map_err(failed)
    }

    async fn lock_keys(
        &mut self,
        statements: &Statements,
        keys: &[&str],
    ) -> Result<(), EnqueueError> {
        let keys = Bind::Texts(keys.to_vec());
        let lock: Statement<'_> = Statement::new(&statements.postgres.lock_keys, vec![keys]);
        lock.execute(*self).await.map(drop).map_err(failed)
    }

    async fn handle_once(
        &mut self,
        statements: &Statements,
        consumer: &str,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        let binds = vec![Bind::Text(Some(consumer)), Bind::Id(id)];
        let handle: Statement<'_, Bool> = Statement::new(&statements.postgres.handle_once, binds);
        handle.get_result(*self).await.map_err(failed)
    }

    async fn handle_many(
        &mut self,
        statements: &Statements,
        consumer: &str,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let binds = vec![Bind::Text(Some(consumer)), Bind::Ids(ids.to_vec())];
        let handle: Statement<'_, sql_types::Uuid> =
            Statement::new(&statements.postgres.handle_many, binds);
        handle.load(*self).await.map_err(failed)
    }

    async fn abort(&mut self, statements: &Statements, reason: &str) -> Result<(), EnqueueError> {
        let reason = Bind::Text(Some(reason));
        let refuse: Statement<'_> = Statement::new(&statements.postgres.refuse, vec![reason]);
        match refuse.execute(*self).await {
            Ok(_) => Err(refuse_answered()),
            // Any error of the server aborts, and a lost connection takes its transaction along.
            Err(Error::DatabaseError(..)) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// An [`Answer`] and its columns.
type AnswerRow = (Option<String>, Option<Vec<u8>>, Option<i64>);
type AnswerColumns = (Nullable<Text>, Nullable<Binary>, Nullable<BigInt>);

impl Caller for &mut AsyncPgConnection {
    fn is_sqlite(&self) -> Result<bool, EnqueueError> {
        Ok(false)
    }

    async fn call(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Option<Answer>, EnqueueError> {
        let binds = values.iter().map(|value| match value {
            Value::Text(text) => Bind::Text(*text),
            Value::Bytes(bytes) => Bind::Bytes(bytes),
            Value::Id(id) => Bind::Id(*id),
            Value::Number(number) => Bind::Number(*number),
        });
        let call: Statement<'_, AnswerColumns> = Statement::new(sql, binds.collect());
        let rows: Vec<AnswerRow> = call.load(*self).await.map_err(failed)?;
        let answer = |(text, bytes, number)| Answer { text, bytes, number };
        Ok(rows.into_iter().next().map(answer))
    }
}

/// A statement of the store's as Diesel takes it, answering rows of one column of type `A`.
///
/// Not `diesel::sql_query`, which never caches what it prepares.
pub(crate) struct Statement<'a, A = ()> {
    sql: &'a str,
    /// For `$1`, `$2`, … which stand in the text once each and in this order.
    binds: Vec<Bind<'a>>,
    answer: PhantomData<A>,
}

pub(crate) enum Bind<'a> {
    Id(Uuid),
    Number(i64),
    Text(Option<&'a str>),
    Bytes(&'a [u8]),
    Ids(Vec<Uuid>),
    Texts(Vec<&'a str>),
    OwnedTexts(Vec<String>),
    NullableTexts(Vec<Option<&'a str>>),
    ByteArrays(Vec<&'a [u8]>),
    Times(Vec<Option<i64>>),
}

impl<'a, A> Statement<'a, A> {
    pub(crate) fn new(sql: &'a str, binds: Vec<Bind<'a>>) -> Self {
        Self { sql, binds, answer: PhantomData }
    }
}

impl<A> QueryFragment<Pg> for Statement<'_, A> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut rest = self.sql;
        for (number, bind) in (1..).zip(&self.binds) {
            // Diesel writes the placeholder itself.
            let (before, after) = rest
                .split_once(&format!("${number}"))
                .ok_or_else(|| Error::QueryBuilderError("a placeholder is missing".into()))?;
            out.push_sql(before);
            bind.push(&mut out)?;
            rest = after;
        }
        out.push_sql(rest);
        Ok(())
    }
}

/// Cached by its text.
impl<A> QueryId for Statement<'_, A> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<A> Query for Statement<'_, A> {
    type SqlType = A;
}

impl Bind<'_> {
    fn push<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        match self {
            Self::Id(id) => out.push_bind_param::<sql_types::Uuid, _>(id),
            Self::Number(number) => out.push_bind_param::<BigInt, _>(number),
            Self::Text(text) => out.push_bind_param::<Nullable<Text>, _>(text),
            Self::Bytes(bytes) => out.push_bind_param::<Binary, _>(bytes),
            Self::Ids(ids) => out.push_bind_param::<Array<sql_types::Uuid>, _>(ids),
            Self::Texts(texts) => out.push_bind_param::<Array<Text>, _>(texts),
            Self::OwnedTexts(texts) => out.push_bind_param::<Array<Text>, _>(texts),
            Self::NullableTexts(texts) => out.push_bind_param::<Array<Nullable<Text>>, _>(texts),
            Self::ByteArrays(arrays) => out.push_bind_param::<Array<Binary>, _>(arrays),
            Self::Times(times) => out.push_bind_param::<Array<Nullable<BigInt>>, _>(times),
        }
    }
}

/// The parameters of `insert`.
fn values(Entry { id, message }: Entry<'_>) -> Vec<Bind<'_>> {
    vec![
        Bind::Id(id),
        Bind::Text(Some(message.topic())),
        Bind::Text(message.ordering_key()),
        Bind::Bytes(message.payload()),
        Bind::Text(Some(message.media_type())),
        Bind::Texts(header_pairs(message)),
        Bind::Text(message.correlation()),
    ]
}

/// The parameters of `insert_many`.
fn arrays(columns: Columns<'_>) -> Vec<Bind<'_>> {
    vec![
        Bind::Ids(columns.ids),
        Bind::Texts(columns.topics),
        Bind::NullableTexts(columns.keys),
        Bind::ByteArrays(columns.payloads),
        Bind::Texts(columns.content_types),
        Bind::OwnedTexts(columns.headers),
        Bind::NullableTexts(columns.correlation_ids),
    ]
}

pub(crate) fn failed(error: Error) -> EnqueueError {
    let kind = match &error {
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => {
            EnqueueErrorKind::Conflict
        }
        Error::DatabaseError(
            DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection,
            _,
        ) => EnqueueErrorKind::Unavailable,
        Error::DatabaseError(_, fault) => kind_of(fault.message()),
        _ => EnqueueErrorKind::Database,
    };
    EnqueueError::new(kind, error)
}

/// The kind that a server's English text stands for: Diesel drops the error code.
fn kind_of(text: &str) -> EnqueueErrorKind {
    // The parts of a text that tell, and the code that PostgreSQL sends with it.
    const CODES: [(&str, &str, &str); 21] = [
        ("message refused: the topic ", " is strict: ", PostgresWriter::KEY_NOT_LOCKED),
        ("message refused: ", " must be ", "22023"),
        ("machine ", " does not begin in ", "PH010"),
        ("machine ", " does not go from ", "PH010"),
        ("the entity is in ", "allowed from there", "PH011"),
        ("the step from ", " is for ", "PH014"),
        ("the step from ", " asks for ", "PH014"),
        ("the key \"", "stands for another request", "PH012"),
        ("machine ", " has no ", "PH013"),
        ("there is no machine ", "", "PH013"),
        ("entity \"", " has begun already ", "PH015"),
        ("the request with the key ", " is in progress elsewhere", "PH016"),
        ("permission denied for ", "", "42501"),
        ("current transaction is aborted", "", "25P02"),
        ("deadlock detected", "", "40P01"),
        ("canceling statement due to lock timeout", "", "55P03"),
        ("could not obtain lock on ", "", "55P03"),
        ("terminating connection due to ", "", "57P01"),
        ("schema \"", "\" does not exist", "3F000"),
        ("function ", " does not exist", "42883"),
        ("relation \"", "\" does not exist", "42P01"),
    ];
    let known = CODES.iter().find(|(begin, end, _)| text.starts_with(begin) && text.contains(end));
    known.map_or(EnqueueErrorKind::Database, |(.., code)| EnqueueErrorKind::from_sqlstate(code))
}
