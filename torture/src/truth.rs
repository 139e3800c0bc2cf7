//! What is true: the application's own record of what it committed, compared with what arrived and
//! with what Posthaste says of the rest.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
};

use futures_util::TryStreamExt as _;
use posthaste_testkit::{
    failure::{During, Result},
    history::{Entry, Verdict, check},
};
use serde::Serialize;
use tokio_postgres::{Client, Row};

use crate::arrivals::{Arrivals, Digest};

/// Messages whose application has not asked for what the sink rejects.
const RECORDED: &str = "select k, n, part, tx from app.mirror where not rejected";

/// What is wrong, in messages, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Findings {
    /// Committed, and neither arrived nor a dead letter, though nothing is left to publish.
    pub(crate) lost: u64,
    /// Arrived again.
    pub(crate) duplicated: u64,
    /// First arrivals behind a later one of their key.
    pub(crate) reordered: u64,
    /// Arrived, or dead letters, without having been committed or rejected.
    pub(crate) phantom: u64,
    /// Arrived with other bytes.
    pub(crate) damaged: u64,
    /// Committed, and still waiting at the end.
    pub(crate) stuck: u64,
    /// Places settled under an epoch that was over.
    pub(crate) stale_settles: u64,
    /// Hand-overs by a relay that another had taken the sink from.
    pub(crate) stale_publishes: u64,
    /// Subscriptions taken over before their lease had run out.
    pub(crate) stolen: u64,
}

impl Findings {
    pub(crate) fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// How many messages the sink is to get, and how many it rejects.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Committed {
    pub(crate) messages: u64,
    pub(crate) rejected: u64,
    /// Rejected ones that are dead letters by now.
    pub(crate) dead: u64,
}

/// Counts what was committed.
pub(crate) async fn committed(client: &Client) -> Result<Committed> {
    let counts = "select count(*) filter (where not rejected), count(*) filter (where rejected) \
                  from app.mirror";
    let row = client.query_one(counts, &[]).await.during("count what was committed")?;
    let dead = "select count(*) from app.mirror m join posthaste.failed_message f on f.id = m.id \
                where m.rejected and f.due is null";
    let dead = client.query_one(dead, &[]).await.during("count the dead letters")?;
    let count = |row: &Row, column| row.get::<_, i64>(column) as u64;
    Ok(Committed { messages: count(&row, 0), rejected: count(&row, 1), dead: count(&dead, 0) })
}

/// Compares everything. `is_unfinished`: Posthaste says that it has something yet to publish.
pub(crate) async fn judge(
    client: &Client,
    arrivals: &mut Arrivals,
    is_unfinished: bool,
) -> Result<(Findings, Verdict)> {
    let suspects = arrivals.suspects(&digests(client).await?);
    let verdict = if suspects.is_empty() {
        Verdict::default()
    } else {
        check(&recorded_of(client, &suspects).await?, &arrivals.of(&suspects)?)
    };
    let Committed { rejected, dead, .. } = committed(client).await?;
    let missing = verdict.lost.len() as u64 + (rejected - dead);
    // What may still come is not lost yet.
    let stuck = if is_unfinished { missing } else { 0 };
    let findings = Findings {
        lost: missing - stuck,
        stuck,
        duplicated: verdict.repeated.len() as u64,
        reordered: verdict.reordered.len() as u64,
        phantom: verdict.phantoms.len() as u64 + unfounded(client).await?,
        damaged: arrivals.damaged(),
        stale_settles: stale_settles(client).await?,
        stale_publishes: 0,
        stolen: stolen(client).await?,
    };
    Ok((findings, verdict))
}

async fn digests(client: &Client) -> Result<HashMap<i64, Digest>> {
    let doing = "read what was committed";
    let parameters: [i64; 0] = [];
    let rows = client.query_raw(RECORDED, parameters).await.during(doing)?;
    let mut rows = pin!(rows);
    let mut digests: HashMap<i64, Digest> = HashMap::new();
    while let Some(row) = rows.try_next().await.during(doing)? {
        let entry = entry(&row);
        digests.entry(entry.key).or_default().add(&entry);
    }
    Ok(digests)
}

async fn recorded_of(client: &Client, keys: &HashSet<i64>) -> Result<Vec<Entry>> {
    let keys: Vec<i64> = keys.iter().copied().collect();
    let of_keys = format!("{RECORDED} and k = any($1) order by k, n, part");
    let rows = client.query(&of_keys, &[&keys]).await.during("read what was committed")?;
    Ok(rows.iter().map(entry).collect())
}

fn entry(row: &Row) -> Entry {
    Entry { key: row.get(0), n: row.get(1), part: row.get(2), transaction: row.get(3) }
}

/// What the trigger on the leases has seen.
async fn stolen(client: &Client) -> Result<u64> {
    let sql = "select count(*) from app.stolen";
    let row = client.query_one(sql, &[]).await.during("count stolen leases")?;
    Ok(row.get::<_, i64>(0) as u64)
}

/// Dead letters of messages that were not committed, or that the sink had no reason to reject.
async fn unfounded(client: &Client) -> Result<u64> {
    let unfounded = "select count(*) from posthaste.failed_message f where f.due is null and not \
                     exists (select from app.mirror m where m.id = f.id and m.rejected)";
    let row = client.query_one(unfounded, &[]).await.during("look at the dead letters")?;
    Ok(row.get::<_, i64>(0) as u64)
}

/// The number of the newest settled place.
pub(crate) async fn settled(client: &Client) -> Result<i64> {
    let newest = "select coalesce(max(n), 0) from posthaste.progress";
    let row = client.query_one(newest, &[]).await.during("look at the settled places")?;
    Ok(row.get(0))
}

/// FENCED: places settled after `settled` by those who no longer held their subscription.
pub(crate) async fn stale_since(client: &Client, settled: i64) -> Result<u64> {
    let stale = "select count(*) from posthaste.progress p join posthaste.lease l using \
                 (subscription) where p.n > $1 and p.epoch < l.epoch";
    let row = client.query_one(stale, &[&settled]).await.during("look at the settled places")?;
    Ok(row.get::<_, i64>(0) as u64)
}

/// FENCED: the epochs of a subscription's places never go back.
async fn stale_settles(client: &Client) -> Result<u64> {
    let stale = "select count(*) from (select epoch, max(epoch) over (partition by subscription \
                 order by n) as newest from posthaste.progress) p where epoch < newest";
    let row = client.query_one(stale, &[]).await.during("look at the settled places")?;
    Ok(row.get::<_, i64>(0) as u64)
}
