//! Incidents in a file.

use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::Timestamp;

use super::{SqliteStore, clock};
use crate::{Incident, IncidentKey, Incidents, Result, Telling};

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[async_trait]
impl Incidents for SqliteStore {
    async fn incidents(&self) -> Result<Vec<Incident>> {
        self.observe("read the incidents", |scope| {
            let now = scope.now_micros()?;
            let sql = "select condition, subject, opened_at, told_at is not null, max(?1 - seen_at, 0) \
                       from @schema@_incident order by condition, subject";
            scope.all(sql, [now], |row| {
                let ago: Option<i64> = row.get(4)?;
                Ok(Incident {
                    key: IncidentKey { condition: row.get(0)?, subject: row.get(1)? },
                    opened_at: Timestamp(row.get(2)?),
                    is_told: row.get(3)?,
                    seen_before: ago.map(|ago| Duration::from_micros(ago.unsigned_abs())),
                })
            })
        })
        .await
    }

    async fn open_incident(&self, key: &IncidentKey, claim: Duration) -> Result<Option<Timestamp>> {
        let key = key.clone();
        self.write("open an incident", move |scope| {
            let now = clock::look(scope)?;
            let sql = "insert into @schema@_incident (condition, subject, opened_at, claimed_until) \
                       values (?1, ?2, ?3, ?4) \
                       on conflict (condition, subject) do update set claimed_until = excluded.claimed_until \
                       where told_at is null and claimed_until < ?3 returning opened_at";
            let until = now.saturating_add(micros(claim));
            let params = (key.condition, key.subject, now, until);
            scope.first(sql, params, |row| row.get(0).map(Timestamp))
        })
        .await
    }

    async fn close_incident(
        &self,
        key: &IncidentKey,
        claim: Duration,
    ) -> Result<Option<Timestamp>> {
        let key = key.clone();
        self.write("close an incident", move |scope| {
            let now = clock::look(scope)?;
            scope.run(
                "delete from @schema@_incident where condition = ?1 and subject = ?2 \
                 and told_at is null and claimed_until = 0",
                (&key.condition, &key.subject),
            )?;
            let sql = "update @schema@_incident set claimed_until = ?4 \
                       where condition = ?1 and subject = ?2 and claimed_until < ?3 returning opened_at";
            let until = now.saturating_add(micros(claim));
            let params = (&key.condition, &key.subject, now, until);
            scope.first(sql, params, |row| row.get(0).map(Timestamp))
        })
        .await
    }

    async fn see_incident(&self, key: &IncidentKey) -> Result<()> {
        let key = key.clone();
        self.write("note an incident", move |scope| {
            let sql =
                "update @schema@_incident set seen_at = ?3 where condition = ?1 and subject = ?2";
            scope.run(sql, (key.condition, key.subject, clock::look(scope)?)).map(drop)
        })
        .await
    }

    async fn tell_incident(&self, key: &IncidentKey, telling: Telling) -> Result<()> {
        let key = key.clone();
        self.write("note what was told", move |scope| {
            let change = match telling {
                Telling::Over => "delete from @schema@_incident",
                Telling::Failed => "update @schema@_incident set claimed_until = 0",
                Telling::Begun => "update @schema@_incident set told_at = ?3, claimed_until = 0",
            };
            let sql = format!("{change} where condition = ?1 and subject = ?2 and ?3 > 0");
            scope.run(&sql, (key.condition, key.subject, clock::look(scope)?)).map(drop)
        })
        .await
    }
}
