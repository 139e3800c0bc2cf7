//! What is true: the application's own record of what it committed, compared with what arrived and
//! with what Posthaste says of the rest.

use std::collections::{HashMap, HashSet};

use posthaste_testkit::{
    failure::{During, Result},
    history::{Entry, Verdict, check},
};
use serde::Serialize;

use crate::{
    arrivals::{Arrivals, Digest},
    book::Book,
};

/// Messages whose application has not asked for what the sink rejects.
const RECORDED: &str = "select k, n, part, tx from app_mirror where not rejected";
const READING: &str = "read what was committed";

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
pub(crate) async fn committed(book: &Book) -> Result<Committed> {
    let doing = "count what was committed";
    let messages = "select count(*) from app_mirror where not rejected";
    let rejected = "select count(*) from app_mirror where rejected";
    let dead = "select count(*) from app_mirror m join posthaste.failed_message f on f.id = m.id \
                where m.rejected and f.due is null";
    Ok(Committed {
        messages: book.count(doing, messages).await?,
        rejected: book.count(doing, rejected).await?,
        dead: book.count(doing, dead).await?,
    })
}

/// Compares everything. `is_unfinished`: Posthaste says that it has something yet to publish.
pub(crate) async fn judge(
    book: &Book,
    arrivals: &mut Arrivals,
    is_unfinished: bool,
) -> Result<(Findings, Verdict)> {
    let suspects = arrivals.suspects(&digests(book).await?);
    let verdict = if suspects.is_empty() {
        Verdict::default()
    } else {
        check(&recorded_of(book, &suspects).await?, &arrivals.of(&suspects)?)
    };
    let Committed { rejected, dead, .. } = committed(book).await?;
    let missing = verdict.lost.len() as u64 + (rejected - dead);
    // What may still come is not lost yet.
    let stuck = if is_unfinished { missing } else { 0 };
    let findings = Findings {
        lost: missing - stuck,
        stuck,
        duplicated: verdict.repeated.len() as u64,
        reordered: verdict.reordered.len() as u64,
        phantom: verdict.phantoms.len() as u64 + unfounded(book).await?,
        damaged: arrivals.damaged(),
        stale_settles: stale_settles(book).await?,
        stale_publishes: 0,
        stolen: stolen(book).await?,
    };
    Ok((findings, verdict))
}

async fn digests(book: &Book) -> Result<HashMap<i64, Digest>> {
    let mut digests: HashMap<i64, Digest> = HashMap::new();
    let add = |row: &[String]| {
        let entry = entry(row)?;
        digests.entry(entry.key).or_default().add(&entry);
        Ok(())
    };
    book.each(READING, RECORDED, add).await?;
    Ok(digests)
}

async fn recorded_of(book: &Book, keys: &HashSet<i64>) -> Result<Vec<Entry>> {
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    let of_keys = format!("{RECORDED} and k in ({}) order by k, n, part", keys.join(", "));
    let mut entries = Vec::new();
    let push = |row: &[String]| {
        entries.push(entry(row)?);
        Ok(())
    };
    book.each(READING, &of_keys, push).await?;
    Ok(entries)
}

fn entry(row: &[String]) -> Result<Entry> {
    row.join(" ").parse().during(READING)
}

/// What the trigger on the leases has seen.
async fn stolen(book: &Book) -> Result<u64> {
    book.count("count stolen leases", "select count(*) from app_stolen").await
}

/// Dead letters of messages that were not committed, or that the sink had no reason to reject.
async fn unfounded(book: &Book) -> Result<u64> {
    let unfounded = "select count(*) from posthaste.failed_message f where f.due is null and not \
                     exists (select 1 from app_mirror m where m.id = f.id and m.rejected)";
    book.count("look at the dead letters", unfounded).await
}

/// FENCED: places settled by those whose subscription had been acquired by another. Whoever acquires
/// it waits for a settle that is under way, so that each place has a number from before or after.
async fn stale_settles(book: &Book) -> Result<u64> {
    let stale = "select count(distinct p.n) from posthaste.progress p join app_raised r \
                 on r.subscription = p.subscription where p.n > r.n and p.epoch < r.epoch";
    book.count("look at the settled places", stale).await
}
