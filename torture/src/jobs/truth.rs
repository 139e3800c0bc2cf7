//! What is true of jobs and messages: what was submitted, as submitters recorded it, compared with what handlers did
//! and with how each job went from state to state.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
};

use posthaste_core::JobState;
use posthaste_testkit::failure::{During, Result};
use serde::Serialize;

use super::scenery::{ATTEMPTS, EFFECT, InputOf};
use crate::book::Book;

/// Rows of each kind of finding that a report shows.
const EXAMPLES: usize = 5;

/// What is wrong, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Findings {
    /// Jobs that were submitted and are not there, or completed without their effect; messages without one.
    pub(crate) lost: u64,
    /// Effects beyond the first of a job or a message.
    pub(crate) doubled: u64,
    /// Effects of what was not submitted or did not complete; jobs that nobody submitted.
    pub(crate) phantom: u64,
    /// Completed jobs with no receipt, or several; others with any.
    pub(crate) receipts: u64,
    /// Steps that there are not.
    pub(crate) illegal: u64,
    /// Jobs that are not over.
    pub(crate) unfinished: u64,
    /// First starts of completed jobs before those of their key that were submitted earlier.
    pub(crate) disordered: u64,
    /// Jobs that began while another of their key ran.
    pub(crate) overlapping: u64,
    /// Jobs that are dead without a reason, or that ended otherwise than they were rejected or taken back.
    pub(crate) unfounded: u64,
    /// Jobs that were taken from a worker whose lease had not run out.
    pub(crate) stolen: u64,
    /// Messages that are in the queue though all is over.
    pub(crate) unsettled: u64,
    /// Messages in the queue's dead letters.
    pub(crate) buried: u64,
}

impl Findings {
    pub(crate) fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// What there was.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Numbers {
    pub(crate) jobs: u64,
    pub(crate) completed: u64,
    pub(crate) dead: u64,
    pub(crate) cancelled: u64,
    pub(crate) messages: u64,
    pub(crate) effects: u64,
    /// Attempts that ended, and those that did so because their worker was lost.
    pub(crate) attempts: u64,
    pub(crate) attempts_lost: u64,
    /// Inputs that submitters forgot, and who put them there.
    pub(crate) inputs_of_listeners: u64,
    pub(crate) inputs_of_checks: u64,
}

/// A query that counts what is wrong, and the rows that show it.
struct Question {
    doing: &'static str,
    sql: String,
}

/// Findings that one query answers, in the order in which [`judge`] takes them.
fn questions() -> [Question; 7] {
    let question = |doing, sql: &str| Question { doing, sql: sql.to_owned() };
    [
        question(
            "look for what is lost",
            &format!(
                "select a.id, 'no such job' from app_job a \
                   where not exists (select from posthaste.job j where j.id = a.id) union all \
                 select j.id, 'completed without its effect' from posthaste.job j \
                   where j.topic = '{EFFECT}' and j.state = 'completed' \
                     and not exists (select from app_effect e where e.id = j.id) union all \
                 select p.id, 'a message without its effect' from app_plain p \
                   where not exists (select from app_effect e where e.id = p.id)"
            ),
        ),
        question(
            "look for what was done twice",
            "select e.id, 'another effect, by attempt ' || e.attempt from app_effect e where exists \
             (select from app_effect f where f.id = e.id and f.n < e.n)",
        ),
        question(
            "look for phantoms",
            "select e.id, 'an effect of what was not submitted' from app_effect e \
               where not exists (select from app_job a where a.id = e.id) \
                 and not exists (select from app_plain p where p.id = e.id) union all \
             select j.id, 'an effect of a job that is ' || j.state from posthaste.job j \
               join app_effect e on e.id = j.id where j.state <> 'completed' union all \
             select j.id, 'a job that nobody submitted' from posthaste.job j \
               where not exists (select from app_job a where a.id = j.id)",
        ),
        question(
            "look at receipts",
            "select j.id, c.receipts || ' receipts of a job that is ' || j.state from posthaste.job j \
             cross join lateral (select count(*) as receipts from posthaste.receipt r where r.job_id = j.id) c \
             where c.receipts <> case j.state when 'completed' then 1 else 0 end",
        ),
        question(
            "look for jobs that are not over",
            "select j.id, state || coalesce(': ' || reason, '') || case when is_blocked then ', blocked' else '' \
             end from posthaste.job j where finished_at is null",
        ),
        question(
            "look at how jobs ended",
            &format!(
                "select j.id, 'dead at attempt ' || j.attempt || ': ' || coalesce(j.reason, '') \
                   from posthaste.job j join app_job a on a.id = j.id where j.state = 'dead' \
                    and not a.is_rejected and j.attempt < coalesce(j.attempts_max, {ATTEMPTS}) union all \
                 select j.id, 'completed, though it is rejected' from posthaste.job j \
                   join app_job a on a.id = j.id where a.is_rejected and j.state = 'completed' union all \
                 select j.id, 'taken back, and ' || j.state from posthaste.job j \
                   join app_cancelled c on c.id = j.id where j.state <> 'cancelled'"
            ),
        ),
        question(
            "look for what was stolen",
            "select job, 'taken within its lease' from app_stolen",
        ),
    ]
}

/// Compares everything, but for the queue.
pub(crate) async fn judge(book: &Book) -> Result<Findings> {
    let mut counts = [0; 7];
    for (count, Question { doing, sql }) in counts.iter_mut().zip(questions()) {
        *count = book.count(doing, &format!("select count(*) from ({sql}) found")).await?;
    }
    let [lost, doubled, phantom, receipts, unfinished, unfounded, stolen] = counts;
    let (disordered, overlapping) = order(book).await?;
    Ok(Findings {
        lost,
        doubled,
        phantom,
        receipts,
        illegal: illegal(book).await?.iter().map(|(_, count)| count).sum(),
        unfinished,
        disordered,
        overlapping,
        unfounded,
        stolen,
        unsettled: 0,
        buried: 0,
    })
}

/// The first of what is wrong.
pub(crate) async fn examples(book: &Book) -> Result<String> {
    let mut text = String::new();
    for Question { doing, sql } in questions() {
        let sql = format!("{sql} limit {EXAMPLES}");
        let write = |row: &[String]| {
            let _ = writeln!(text, "  {}", row.join(": "));
            Ok(())
        };
        book.each(doing, &sql, write).await?;
    }
    for (step, count) in illegal(book).await? {
        let _ = writeln!(text, "  {count} times {step}");
    }
    Ok(text)
}

/// Counts what there was.
pub(crate) async fn numbers(book: &Book) -> Result<Numbers> {
    let count = async |sql: &str| book.count("count", &format!("select count(*) from {sql}")).await;
    let inputs =
        async |by: InputOf| count(&format!("app_input where provided_by = '{}'", by.name())).await;
    Ok(Numbers {
        jobs: count("app_job").await?,
        completed: count("posthaste.job where state = 'completed'").await?,
        dead: count("posthaste.job where state = 'dead'").await?,
        cancelled: count("posthaste.job where state = 'cancelled'").await?,
        messages: count("app_plain").await?,
        effects: count("app_effect").await?,
        attempts: count("posthaste.execution").await?,
        attempts_lost: count("posthaste.execution where outcome = 'lost'").await?,
        inputs_of_listeners: inputs(InputOf::Listener).await?,
        inputs_of_checks: inputs(InputOf::Check).await?,
    })
}

/// Steps that there are not, and how often each was taken.
async fn illegal(book: &Book) -> Result<Vec<(String, u64)>> {
    let doing = "look at the steps of jobs";
    let steps = "select coalesce(was, ''), now, count(*) from app_step group by 1, 2 order by 1, 2";
    let mut found = Vec::new();
    let push = |row: &[String]| {
        let [was, now, count] = row else { return Ok(()) };
        let was = (!was.is_empty()).then(|| was.parse()).transpose().during(doing)?;
        let now = now.parse().during(doing)?;
        if !is_step(was, now) {
            let count = count.parse().during(doing)?;
            found.push((format!("{} to {now}", was.map_or("nothing", JobState::as_str)), count));
        }
        Ok(())
    };
    book.each(doing, steps, push).await?;
    Ok(found)
}

/// Whether a job may go from one state that is written down to another: nobody writes `queued`.
fn is_step(was: Option<JobState>, now: JobState) -> bool {
    let Some(was) = was else { return JobState::INITIAL.contains(&now) };
    let queued = JobState::Queued;
    was.may_become(now) || (was.may_become(queued) && queued.may_become(now))
}

/// One step of a job with a key.
struct KeyStep {
    key: String,
    /// The job's number, and whether it is completed in the end.
    job: i64,
    is_completed: bool,
    now: JobState,
}

/// Whoever takes a step of a job with a key holds the key, so that the numbers of steps are their order.
async fn order(book: &Book) -> Result<(u64, u64)> {
    let doing = "look at the order of keys";
    let sql = "select j.key, j.n, j.state, s.now from app_step s join posthaste.job j on j.id = s.job \
               where j.key is not null order by s.n";
    let mut steps = Vec::new();
    let push = |row: &[String]| {
        let [key, job, state, now] = row else { return Ok(()) };
        steps.push(KeyStep {
            key: key.clone(),
            job: job.parse().during(doing)?,
            is_completed: state == JobState::Completed.as_str(),
            now: now.parse().during(doing)?,
        });
        Ok(())
    };
    book.each(doing, sql, push).await?;
    Ok(out_of_order(&steps))
}

/// First starts of completed jobs behind a later one's, and starts beside another job of the key.
fn out_of_order(steps: &[KeyStep]) -> (u64, u64) {
    let (mut disordered, mut overlapping) = (0, 0);
    let mut running: HashMap<&str, HashSet<i64>> = HashMap::new();
    let (mut newest, mut started): (HashMap<&str, i64>, HashSet<i64>) = Default::default();
    for KeyStep { key, job, is_completed, now } in steps {
        let beside = running.entry(key).or_default();
        beside.remove(job);
        if *now != JobState::Running {
            continue;
        }
        overlapping += u64::from(!beside.is_empty());
        beside.insert(*job);
        if *is_completed && started.insert(*job) {
            let newest = newest.entry(key).or_insert(*job);
            disordered += u64::from(job < newest);
            *newest = (*newest).max(*job);
        }
    }
    (disordered, overlapping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_past_what_nobody_writes_are_legal_and_others_are_not() {
        use JobState as S;
        let legal = [
            (None, S::Created),
            (Some(S::Created), S::Running),
            (Some(S::Failed), S::Running),
            (Some(S::Running), S::Failed),
            (Some(S::Dead), S::Created),
        ];
        assert!(legal.iter().all(|(was, now)| is_step(*was, *now)));
        let illegal = [
            (None, S::Running),
            (Some(S::Running), S::Created),
            (Some(S::Running), S::Running),
            (Some(S::Completed), S::Running),
            (Some(S::Scheduled), S::Running),
            (Some(S::Dead), S::Completed),
        ];
        assert!(!illegal.iter().any(|(was, now)| is_step(*was, *now)));
    }

    fn counted(steps: &[(i64, JobState)]) -> (u64, u64) {
        let step = |(job, now): &(i64, JobState)| KeyStep {
            key: "a".to_owned(),
            job: *job,
            is_completed: true,
            now: *now,
        };
        out_of_order(&steps.iter().map(step).collect::<Vec<_>>())
    }

    #[test]
    fn jobs_of_a_key_follow_each_other() {
        use JobState::{Completed, Failed, Running};
        let in_order =
            [(1, Running), (1, Failed), (1, Running), (1, Completed), (2, Running), (2, Completed)];
        assert_eq!(counted(&in_order), (0, 0));
        assert_eq!(counted(&[(2, Running), (2, Completed), (1, Running)]), (1, 0));
        assert_eq!(counted(&[(1, Running), (2, Running), (2, Completed)]), (0, 1));
    }
}
