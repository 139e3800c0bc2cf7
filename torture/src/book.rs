//! The application's record, in the database that the log is in, and what Posthaste keeps there:
//! the same questions to both databases.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use posthaste_testkit::failure::{During, Failure, Result};
use rusqlite::{Connection, types::ValueRef};
use tokio_postgres::{Client, SimpleQueryMessage};

/// A connection past everything that is at fault.
pub(crate) enum Book {
    Postgres(Client),
    Sqlite(Connection),
}

impl Book {
    /// Hands each row of a query to `take`, its columns as texts. `posthaste.` before a name is
    /// the schema, whichever way the database writes that.
    pub(crate) async fn each(
        &self,
        doing: &str,
        sql: &str,
        mut take: impl FnMut(&[String]) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Postgres(client) => {
                let mut rows = pin!(client.simple_query_raw(sql).await.during(doing)?);
                while let Some(message) = rows.try_next().await.during(doing)? {
                    if let SimpleQueryMessage::Row(row) = message {
                        let texts = (0..row.len()).map(|at| row.get(at).unwrap_or("").to_owned());
                        take(&texts.collect::<Vec<_>>())?;
                    }
                }
            }
            Self::Sqlite(connection) => {
                let sql = sql.replace("posthaste.", "posthaste_");
                let mut statement = connection.prepare(&sql).during(doing)?;
                let width = statement.column_count();
                let mut rows = statement.query(()).during(doing)?;
                while let Some(row) = rows.next().during(doing)? {
                    let texts: rusqlite::Result<Vec<String>> =
                        (0..width).map(|at| Ok(text(row.get_ref(at)?))).collect();
                    take(&texts.during(doing)?)?;
                }
            }
        }
        Ok(())
    }

    /// The first column of the first row.
    pub(crate) async fn number(&self, doing: &str, sql: &str) -> Result<i64> {
        let mut answer = None;
        let first = |row: &[String]| {
            let read = row.first().map(|text| text.parse()).transpose().during(doing)?;
            answer = answer.or(read);
            Ok(())
        };
        self.each(doing, sql, first).await?;
        answer.ok_or_else(|| Failure::new(format!("cannot {doing}: no row")))
    }

    /// The same, of what is counted.
    pub(crate) async fn count(&self, doing: &str, sql: &str) -> Result<u64> {
        Ok(self.number(doing, sql).await?.cast_unsigned())
    }
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
    }
}
