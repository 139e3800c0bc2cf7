//! The life of a job: which states it has, which follow which, and what comes after an attempt.
//!
//! The databases write states under the same rules; tests hold them to [`JobState::may_become`].

use std::{fmt, str::FromStr, time::Duration};

use crate::{Backoff, Message, failure::ATTEMPTS_MAX};

/// The header that names the job which a message carries: its UUID.
pub const JOB_HEADER: &str = "posthaste-job";
/// The header with the transaction id of whoever submitted the job, for readers of a standby.
pub const XID_HEADER: &str = "posthaste-xid";

/// A job as it is submitted: its message, and what is asked for beyond that.
///
/// The message's token is the job's: submitting twice with one token is submitting once. Its time is when the job
/// is due. Jobs with the same ordering key run one after the other, in the order in which they were submitted.
///
/// # Examples
/// ```
/// use posthaste_core::{Message, job::NewJob};
///
/// let message = Message::new("mail.welcome").key("user-7").json(&serde_json::json!({ "user": 7 }));
/// let job = NewJob::of(message).unique_key("welcome-7").attempts(3);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    message: Message,
    unique_key: Option<String>,
    attempts_max: Option<u32>,
}

impl NewJob {
    /// A job that hands `message` to a worker.
    pub fn of(message: Message) -> Self {
        Self { message, unique_key: None, attempts_max: None }
    }

    /// While a job with this key is not over, submitting another one answers that one's id. 1 to 256 bytes.
    #[must_use]
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }

    /// How often it may be tried, from 1 to 1,000; as often as its worker says if not given.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts_max = Some(attempts);
        self
    }

    /// The message.
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// What no other job that is not over has.
    pub fn unique(&self) -> Option<&str> {
        self.unique_key.as_deref()
    }

    /// How often it may be tried.
    pub const fn attempts_max(&self) -> Option<u32> {
        self.attempts_max
    }

    /// Checks what the message's own limits do not cover.
    ///
    /// # Errors
    /// The unique key is empty or longer than 256 bytes, or the attempts are not from 1 to 1,000.
    pub fn check(&self) -> Result<(), InvalidJob> {
        match (&self.unique_key, self.attempts_max) {
            (Some(key), _) if key.is_empty() || key.len() > UNIQUE_KEY_BYTES_MAX => {
                Err(InvalidJob::UniqueKey(key.len()))
            }
            (_, Some(attempts)) if attempts == 0 || attempts > ATTEMPTS_MAX => {
                Err(InvalidJob::Attempts(attempts))
            }
            _ => Ok(()),
        }
    }
}

/// Most bytes of a unique key.
pub const UNIQUE_KEY_BYTES_MAX: usize = 256;

/// A job that cannot be submitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJob {
    /// Of so many bytes.
    #[error("job refused: unique_key must be 1 to 256 bytes, not {0}")]
    UniqueKey(usize),
    /// So many.
    #[error("job refused: attempts_max must be from 1 to 1000, not {0}")]
    Attempts(u32),
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    /// Waits for its time.
    Scheduled,
    /// In the log, not published yet.
    Created,
    /// Published: it waits in its queue for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// Done.
    Completed,
    /// An attempt failed, and another one is due.
    Failed,
    /// Out of attempts, or rejected, until a person retries it.
    Dead,
    /// Taken back.
    Cancelled,
}

impl JobState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Created,
        Self::Queued,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Dead,
        Self::Cancelled,
    ];

    /// States in which a job begins.
    pub const INITIAL: [Self; 2] = [Self::Scheduled, Self::Created];

    /// As people and databases write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Created => "created",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing follows unless a person asks for it.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Dead | Self::Cancelled)
    }

    /// Whether a job in this state may be in `next` after one step.
    ///
    /// `queued` follows from how far the relay has come, and nobody writes it down; a worker may have
    /// the message before that is settled. Whoever begins a job that is `created` or `failed` has
    /// therefore seen it `queued`.
    pub const fn may_become(self, next: Self) -> bool {
        use JobState as S;
        match self {
            // Its time has come; or it was taken back.
            S::Scheduled => matches!(next, S::Created | S::Cancelled),
            // Published, or refused on the way to its queue.
            S::Created => matches!(next, S::Queued | S::Cancelled | S::Dead),
            // Begun; or its message is lost, and written again.
            S::Queued => matches!(next, S::Running | S::Created | S::Cancelled | S::Dead),
            // `scheduled`: the handler wants to see it later.
            S::Running => {
                matches!(next, S::Completed | S::Failed | S::Dead | S::Cancelled | S::Scheduled)
            }
            // The next attempt is published like the first one, or a person does not wait for it.
            S::Failed => matches!(next, S::Queued | S::Created | S::Cancelled | S::Dead),
            // A person retries it.
            S::Dead | S::Cancelled => matches!(next, S::Created),
            S::Completed => false,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// A text that names no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no state of a job: use scheduled, created, queued, running, completed, failed, dead or \
     cancelled"
)]
pub struct UnknownState(String);

/// How often a job is tried, and how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts before it is dead, from 1; a job may carry its own limit.
    pub attempts: u32,
    /// The wait between two attempts.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let backoff = Backoff { initial: Duration::from_secs(1), cap: Duration::from_mins(5) };
        Self { attempts: 5, backoff }
    }
}

/// Why an attempt did not complete its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// May pass: another attempt is worth it, after this wait or the policy's.
    Retry(Option<Duration>),
    /// Would fail again.
    Reject,
    /// The handler wants to see the job later; no attempt is counted.
    Snooze(Duration),
    /// The job was cancelled while it ran.
    Cancel,
}

/// How an attempt has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The job is done.
    Completed,
    /// It failed, and the next attempt is due after this.
    Retry(Duration),
    /// It failed for good.
    Dead,
    /// The handler wants to see the job after this; the attempt does not count.
    Snooze(Duration),
    /// It was stopped, as somebody wanted.
    Cancelled,
    /// Its worker is gone, and the next attempt is due.
    Lost,
}

impl Outcome {
    /// As the tables have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Retry(_) => "retry",
            Self::Dead => "dead",
            Self::Snooze(_) => "snooze",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// How long until the job is due again.
    pub const fn wait(self) -> Option<Duration> {
        match self {
            Self::Retry(wait) | Self::Snooze(wait) => Some(wait),
            Self::Lost => Some(Duration::ZERO),
            Self::Completed | Self::Dead | Self::Cancelled => None,
        }
    }

    /// The state of the job after it.
    pub const fn state(self) -> JobState {
        match self {
            Self::Completed => JobState::Completed,
            Self::Retry(_) | Self::Lost => JobState::Failed,
            Self::Dead => JobState::Dead,
            Self::Snooze(_) => JobState::Scheduled,
            Self::Cancelled => JobState::Cancelled,
        }
    }
}

impl RetryPolicy {
    /// Decides after the `attempt`-th attempt (from 1) of a job that may have `limit` of them, or as
    /// many as the policy says. `random` is uniform in `0.0..1.0`.
    pub fn judge(
        &self,
        failure: Failure,
        attempt: u32,
        limit: Option<u32>,
        random: f64,
    ) -> Outcome {
        match failure {
            Failure::Reject => Outcome::Dead,
            Failure::Cancel => Outcome::Cancelled,
            Failure::Snooze(wait) => Outcome::Snooze(wait),
            Failure::Retry(_) if attempt >= limit.unwrap_or(self.attempts).min(ATTEMPTS_MAX) => {
                Outcome::Dead
            }
            Failure::Retry(wait) => {
                Outcome::Retry(wait.unwrap_or_else(|| self.backoff.delay(attempt, random)))
            }
        }
    }
}

/// What is known of a job that has waited too long to be begun.
#[allow(clippy::struct_excessive_bools)] // Facts, each of which may hold beside any other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Its message is in the log, or among those that wait for their time.
    pub is_written: bool,
    /// An earlier job of its key is not over.
    pub is_blocked: bool,
    /// Subscriptions that read its topic.
    pub subscriptions: u32,
    /// Those of them that a relay holds.
    pub held: u32,
    /// Those of them that are paused.
    pub paused: u32,
    /// What was said of its message when it was set aside.
    pub refusal: Option<String>,
    /// It was set aside for good.
    pub is_dead_letter: bool,
    /// A subscription has published it.
    pub is_published: bool,
    /// Workers that run jobs of its topic.
    pub workers: u32,
    /// Those of them that had nothing left to do after it was published.
    pub idle_workers: u32,
    /// A job of its topic runs that was submitted after it was published, and neither has a priority.
    pub is_overtaken: bool,
}

/// Why a job waits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Stuck {
    /// Somebody wrote the job without its message.
    #[error("its message was never written")]
    Unwritten,
    /// Nothing publishes its topic.
    #[error("no subscription reads its topic: add one to the configuration")]
    NoSubscription,
    /// Every subscription that reads its topic is paused.
    #[error("the subscription that reads its topic is paused: `posthaste subscriptions resume`")]
    Paused,
    /// Nobody publishes.
    #[error("no relay holds the subscription that reads its topic: start `posthaste relay`")]
    NoRelay,
    /// Its message was set aside: the contract refused it, or its sink.
    #[error("its message was set aside: {0}")]
    SetAside(String),
    /// Its message is a dead letter.
    #[error("its message was refused: {0}")]
    Refused(String),
    /// A relay is at work on what stands before it.
    #[error("it waits to be published")]
    Backlog,
    /// Nobody runs jobs of its topic.
    #[error("no worker runs jobs of its topic: start one")]
    NoWorker,
    /// Workers found their queues empty: it is in none of them.
    #[error(
        "workers found their queues empty after it was published: the queue was emptied, or the \
         subscription publishes to another one than the workers read"
    )]
    QueueElsewhere,
    /// Workers are at work on what stood behind it.
    #[error("a job that was submitted after it was published runs already: its queue has lost it")]
    Overtaken,
    /// Its turn has not come: workers are at work.
    #[error("workers are busy with what stands before it")]
    Busy,
    /// An earlier job of its key is not over.
    #[error("an earlier job of its key is not over")]
    Blocked,
}

/// What a watch does about a job that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Somebody else has to do something, or time has.
    Wait,
    /// A new message is written for it.
    Publish,
    /// It is dead: no worker will ever see it.
    Refuse,
}

impl Waiting {
    /// Why the job waits: the first cause on its way that explains it.
    pub fn cause(&self) -> Stuck {
        let refusal = || self.refusal.clone().unwrap_or_default();
        match self {
            // Before its message: one is written for it when its turn comes.
            Self { is_blocked: true, .. } => Stuck::Blocked,
            Self { is_written: false, .. } => Stuck::Unwritten,
            Self { is_published: true, workers: 0, .. } => Stuck::NoWorker,
            Self { is_published: true, idle_workers: 1.., .. } => Stuck::QueueElsewhere,
            Self { is_published: true, is_overtaken: true, .. } => Stuck::Overtaken,
            Self { is_published: true, .. } => Stuck::Busy,
            Self { is_dead_letter: true, .. } => Stuck::Refused(refusal()),
            Self { refusal: Some(_), .. } => Stuck::SetAside(refusal()),
            Self { subscriptions: 0, .. } => Stuck::NoSubscription,
            Self { subscriptions, paused, .. } if paused >= subscriptions => Stuck::Paused,
            Self { held: 0, .. } => Stuck::NoRelay,
            Self { .. } => Stuck::Backlog,
        }
    }
}

impl Stuck {
    /// What mends it.
    pub const fn remedy(&self) -> Remedy {
        match self {
            Self::Unwritten | Self::QueueElsewhere | Self::Overtaken => Remedy::Publish,
            Self::Refused(_) => Remedy::Refuse,
            Self::NoSubscription
            | Self::Paused
            | Self::NoRelay
            | Self::SetAside(_)
            | Self::Backlog
            | Self::NoWorker
            | Self::Busy
            | Self::Blocked => Remedy::Wait,
        }
    }

    /// A short name, for counters.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unwritten => "unwritten",
            Self::NoSubscription => "no-subscription",
            Self::Paused => "paused",
            Self::NoRelay => "no-relay",
            Self::SetAside(_) => "set-aside",
            Self::Refused(_) => "refused",
            Self::Backlog => "backlog",
            Self::NoWorker => "no-worker",
            Self::QueueElsewhere => "queue-elsewhere",
            Self::Overtaken => "overtaken",
            Self::Busy => "busy",
            Self::Blocked => "blocked",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_reached_from_a_first_one_and_leads_to_an_end() {
        let reach = |from: &[JobState], step: fn(JobState, JobState) -> bool| {
            let mut seen = from.to_vec();
            let mut at = 0;
            while let Some(state) = seen.get(at).copied() {
                at += 1;
                let next = JobState::ALL.into_iter().filter(|next| step(state, *next));
                let fresh: Vec<JobState> = next.filter(|next| !seen.contains(next)).collect();
                seen.extend(fresh);
            }
            seen.sort_unstable();
            seen
        };
        assert_eq!(reach(&JobState::INITIAL, JobState::may_become), JobState::ALL);
        let back = |state: JobState, before: JobState| before.may_become(state);
        assert_eq!(reach(&[JobState::Completed], back), {
            let mut expected = JobState::ALL.to_vec();
            expected.sort_unstable();
            expected
        });
    }

    #[test]
    fn completed_is_the_end_and_nothing_runs_that_was_not_queued() {
        for state in JobState::ALL {
            assert!(!JobState::Completed.may_become(state));
            assert_eq!(state.may_become(JobState::Running), state == JobState::Queued);
            assert!(!state.may_become(state), "{state} is no step");
        }
    }

    #[test]
    fn states_read_as_they_are_written() {
        for state in JobState::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        let error = "done".parse::<JobState>().unwrap_err().to_string();
        assert!(error.contains("\"done\"") && error.contains("completed"), "{error}");
    }

    #[test]
    fn r13_job_is_tried_as_often_as_the_policy_or_it_says_and_then_dead() {
        let policy = RetryPolicy { attempts: 3, ..RetryPolicy::default() };
        let retry = |attempt, limit| policy.judge(Failure::Retry(None), attempt, limit, 1.0);
        let second = |seconds| Outcome::Retry(Duration::from_secs(seconds));
        assert_eq!([1, 2, 3].map(|n| retry(n, None)), [second(1), second(2), Outcome::Dead]);
        assert_eq!([1, 4, 5].map(|n| retry(n, Some(5))), [second(1), second(8), Outcome::Dead]);
        assert_eq!(retry(1, Some(1)), Outcome::Dead);
        assert_eq!(retry(u32::MAX, Some(u32::MAX)), Outcome::Dead);
    }

    #[test]
    fn handler_chooses_its_wait_a_rejection_ends_and_a_snooze_never_does() {
        let policy = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
        let wait = Duration::from_secs(90);
        let judge = |failure, attempt| policy.judge(failure, attempt, Some(2), 0.5);
        assert_eq!(judge(Failure::Retry(Some(wait)), 1), Outcome::Retry(wait));
        assert_eq!(judge(Failure::Retry(Some(wait)), 2), Outcome::Dead);
        assert_eq!(judge(Failure::Reject, 1), Outcome::Dead);
        assert_eq!(judge(Failure::Snooze(wait), 999), Outcome::Snooze(wait));
        assert_eq!(judge(Failure::Cancel, 1), Outcome::Cancelled);
    }

    #[test]
    fn what_follows_is_a_legal_step_from_running() {
        let outcomes = [
            Outcome::Completed,
            Outcome::Retry(Duration::ZERO),
            Outcome::Dead,
            Outcome::Snooze(Duration::ZERO),
            Outcome::Cancelled,
            Outcome::Lost,
        ];
        let is_legal = |outcome: &Outcome| JobState::Running.may_become(outcome.state());
        assert!(outcomes.iter().all(is_legal));
    }
    #[test]
    fn r27_each_cause_is_told_apart_and_mended_where_it_can_be() {
        let published = Waiting {
            is_written: true,
            is_published: true,
            subscriptions: 1,
            held: 1,
            ..Waiting::default()
        };
        let unpublished = Waiting { is_published: false, ..published.clone() };
        let because = Some("no such property".to_owned());
        let cases = [
            (Waiting::default(), "unwritten", Remedy::Publish),
            (Waiting { is_blocked: true, ..Waiting::default() }, "blocked", Remedy::Wait),
            (Waiting { subscriptions: 0, ..unpublished.clone() }, "no-subscription", Remedy::Wait),
            (Waiting { paused: 1, ..unpublished.clone() }, "paused", Remedy::Wait),
            (Waiting { held: 0, ..unpublished.clone() }, "no-relay", Remedy::Wait),
            (
                Waiting { refusal: because.clone(), ..unpublished.clone() },
                "set-aside",
                Remedy::Wait,
            ),
            (
                Waiting { refusal: because, is_dead_letter: true, ..unpublished.clone() },
                "refused",
                Remedy::Refuse,
            ),
            (unpublished, "backlog", Remedy::Wait),
            (published.clone(), "no-worker", Remedy::Wait),
            (Waiting { workers: 2, ..published.clone() }, "busy", Remedy::Wait),
            (
                Waiting { workers: 2, is_overtaken: true, ..published.clone() },
                "overtaken",
                Remedy::Publish,
            ),
            (
                Waiting { workers: 2, idle_workers: 1, ..published },
                "queue-elsewhere",
                Remedy::Publish,
            ),
        ];
        for (waiting, code, remedy) in cases {
            let cause = waiting.cause();
            assert_eq!((cause.code(), cause.remedy()), (code, remedy), "{waiting:?}");
        }
        let refused = Stuck::Refused("no such property".to_owned()).to_string();
        assert_eq!(refused, "its message was refused: no such property");
    }
}
