//! A page of jobs, the newest first: one statement for both databases.
//!
//! A page looks at a limited number of jobs of each state that is written, by the index `job_state`. Below the highest
//! place at which that left one out, nothing is told: the next page goes on there. So no page takes long, whatever the
//! filter, and a page may be short and not be the last.

use posthaste_core::JobState;

use crate::{Job, JobFilter, JobPage};

/// Jobs that a page looks at where a topic or a key is asked for.
const LOOKED_MAX: u32 = 50_000;
/// The same where the log has to be asked for each job's state.
const ASKED_MAX: u32 = 2_000;

/// How a database writes it.
pub(crate) struct Dialect<'a> {
    /// The table.
    pub(crate) table: &'a str,
    /// The view.
    pub(crate) view: &'a str,
    /// The columns of the view that are wanted.
    pub(crate) columns: &'a str,
    /// The column by which a row of the view is found: `id` or `n`.
    pub(crate) key: &'a str,
    /// The parameters: below which number, in which state, of which topic and key.
    pub(crate) parameters: [&'a str; 4],
    /// Whether the topic of `l` is one of those that the filter allows.
    pub(crate) topics: &'a str,
}

/// The statement: a job's columns, or nulls, and the number below which the next page begins, or 0.
pub(crate) fn statement(which: &JobFilter, limit: u32, dialect: &Dialect<'_>) -> String {
    let Dialect { table, view, columns, key, topics, .. } = dialect;
    let [before, state, topic, of_key] = dialect.parameters;
    let written = written(which.state);
    let asks = matches!(which.state, Some(JobState::Created | JobState::Queued | JobState::Failed));
    let chooses = which.topic.is_some() || which.key.is_some() || which.topics.is_some();
    let count = u32::try_from(written.len()).unwrap_or(u32::MAX);
    let look = match (asks, chooses) {
        (true, _) => ASKED_MAX / count,
        (false, true) => LOOKED_MAX / count,
        (false, false) => limit,
    };
    let look = look.max(limit);
    let of_state = |state: &&str| {
        format!(
            "select * from (select id, n, state, topic, key from {table} \
             where state = '{state}' and n < {before} order by n desc limit {look}) of_{state}"
        )
    };
    let looked: Vec<String> = written.iter().map(of_state).collect();
    let looked = looked.join(" union all ");
    // Which of them are in the state, the log may have to say.
    let candidates = if asks { look * count } else { limit };
    format!(
        "with looked as ({looked}), \
         ends as (select coalesce(max(low), 0) as low from \
         (select min(n) as low from looked group by state having count(*) = {look}) e), \
         page as (select l.id, l.n from looked l cross join ends where l.n >= ends.low \
         and ({topic} is null or l.topic = {topic}) and ({of_key} is null or l.key = {of_key}) \
         and {topics} order by l.n desc limit {candidates}), \
         found as (select v.* from page p join {view} v on v.{key} = p.{key} \
         where {state} is null or v.state = {state} order by v.n desc limit {limit}) \
         select {columns}, low from ends left join found on true order by n desc"
    )
}

/// The page of the rows that the statement has answered.
pub(crate) fn page(jobs: Vec<Job>, low: i64, limit: u32) -> JobPage {
    let is_full = u32::try_from(jobs.len()).is_ok_and(|len| len >= limit);
    let next =
        if is_full { jobs.last().map(|job| job.n) } else { Some(low).filter(|low| *low > 0) };
    JobPage { jobs, next }
}

/// The states that are written of jobs which are in one: `queued` is written nowhere.
fn written(state: Option<JobState>) -> &'static [&'static str] {
    match state {
        None => &["scheduled", "created", "running", "completed", "failed", "dead", "cancelled"],
        Some(JobState::Scheduled) => &["scheduled"],
        Some(JobState::Created) => &["created"],
        Some(JobState::Queued) => &["created", "failed"],
        Some(JobState::Running) => &["running"],
        Some(JobState::Completed) => &["completed"],
        Some(JobState::Failed) => &["failed"],
        Some(JobState::Dead) => &["dead"],
        Some(JobState::Cancelled) => &["cancelled"],
    }
}
