//! Incidents: one statement each, so that two who notice the same never both tell it.

use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::Timestamp;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{PostgresStore, rows::Micros};
use crate::{Incident, IncidentKey, Incidents, Result, Telling};

impl PostgresStore {
    async fn of_incident(
        &self,
        doing: &str,
        sql: &str,
        key: &IncidentKey,
        claim: Duration,
    ) -> Result<Vec<Row>> {
        let params: &[(&(dyn ToSql + Sync), Type)] = &[
            (&key.condition, Type::TEXT),
            (&key.subject, Type::TEXT),
            (&claim.as_secs_f64(), Type::FLOAT8),
        ];
        let loan = self.shared.connections.lend().await?;
        let rows = loan.bounded(doing, loan.client().query_typed(sql, params)).await?;
        loan.give_back();
        Ok(rows)
    }
}

fn time(rows: &[Row]) -> Option<Timestamp> {
    rows.first().map(|row| Timestamp(row.get::<_, Micros>(0).0))
}

#[async_trait]
impl Incidents for PostgresStore {
    async fn incidents(&self) -> Result<Vec<Incident>> {
        let sql = format!(
            "select condition, subject, opened_at, told_at is not null, \
             extract(epoch from clock_timestamp() - seen_at)::float8 from {}.incident order by condition, subject",
            self.schema()
        );
        let loan = self.shared.connections.lend().await?;
        let read = loan.client().query_typed(&sql, &[]);
        let rows = loan.bounded("read the incidents", read).await?;
        loan.give_back();
        let incident = |row: &Row| Incident {
            key: IncidentKey { condition: row.get(0), subject: row.get(1) },
            opened_at: Timestamp(row.get::<_, Micros>(2).0),
            is_told: row.get(3),
            seen_before: row
                .get::<_, Option<f64>>(4)
                .map(|ago| Duration::from_secs_f64(ago.max(0.0))),
        };
        Ok(rows.iter().map(incident).collect())
    }

    async fn open_incident(&self, key: &IncidentKey, claim: Duration) -> Result<Option<Timestamp>> {
        let sql = format!(
            "insert into {}.incident as i (condition, subject, claimed_until) \
             values ($1, $2, clock_timestamp() + make_interval(secs => $3)) \
             on conflict (condition, subject) do update set claimed_until = excluded.claimed_until \
             where i.told_at is null and i.claimed_until < clock_timestamp() returning i.opened_at",
            self.schema()
        );
        Ok(time(&self.of_incident("open an incident", &sql, key, claim).await?))
    }

    async fn close_incident(
        &self,
        key: &IncidentKey,
        claim: Duration,
    ) -> Result<Option<Timestamp>> {
        let schema = self.schema();
        let sql = format!(
            "with untold as (delete from {schema}.incident where condition = $1 and subject = $2 \
             and told_at is null and claimed_until = '-infinity') \
             update {schema}.incident set claimed_until = clock_timestamp() + make_interval(secs => $3) \
             where condition = $1 and subject = $2 and claimed_until < clock_timestamp() \
             and (told_at is not null or claimed_until > '-infinity') returning opened_at"
        );
        Ok(time(&self.of_incident("close an incident", &sql, key, claim).await?))
    }

    async fn see_incident(&self, key: &IncidentKey) -> Result<()> {
        let sql = format!(
            "update {}.incident set seen_at = clock_timestamp() \
             where condition = $1 and subject = $2 and $3::float8 = 0",
            self.schema()
        );
        self.of_incident("note an incident", &sql, key, Duration::ZERO).await.map(drop)
    }

    async fn tell_incident(&self, key: &IncidentKey, telling: Telling) -> Result<()> {
        let of = format!("{}.incident", self.schema());
        let change = match telling {
            Telling::Over => format!("delete from {of}"),
            Telling::Failed => format!("update {of} set claimed_until = '-infinity'"),
            Telling::Begun => {
                format!("update {of} set told_at = clock_timestamp(), claimed_until = '-infinity'")
            }
        };
        let sql = format!("{change} where condition = $1 and subject = $2 and $3::float8 = 0");
        self.of_incident("note what was told", &sql, key, Duration::ZERO).await.map(drop)
    }
}
