//! What the torture of workers needs in its private database, and what its relay carries.

use crate::stage::{Play, SinkKind};

/// Keys of jobs.
pub(crate) const KEYS: i32 = 12;
/// Jobs that have their effect in the transaction of their end.
pub(crate) const EFFECT: &str = "job.effect";
/// Jobs that answer a receipt, and nothing else.
pub(crate) const RECEIPT: &str = "job.receipt";
/// Messages that are no jobs.
pub(crate) const PLAIN: &str = "plain";
/// The stream or the list.
pub(crate) const QUEUE: &str = "jobs";
/// How often a task is tried that does not say so itself.
pub(crate) const ATTEMPTS: u32 = 20;

/// Who has put the input of a job there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InputOf {
    /// Its submitter, in the same transaction.
    Submitter,
    /// The second layer: a listener on what is added to the queue.
    Listener,
    /// The third one: the check before its handler.
    Check,
}

impl InputOf {
    /// As the application writes it down.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Submitter => "submitter",
            Self::Listener => "listener",
            Self::Check => "check",
        }
    }
}

/// Jobs and plain messages, which workers take from a queue. What a flush of Redis has taken of the plain ones is
/// replayed from the log.
pub(crate) const JOBS: Play =
    Play { application: APPLICATION, retention: "2m", subscriptions: subscription };

/// `app_job` and `app_plain` are written with what was submitted, `app_effect` with what handlers did: nothing there
/// keeps an effect from being had twice. The trigger writes down every step of every job, and which were taken from a
/// worker whose lease had not run out.
const APPLICATION: &str = "
    create table app_key (k int primary key, n bigint not null);
    insert into app_key select k, 0 from generate_series(0, 11) k;
    create table app_job (id uuid primary key, topic text, is_rejected boolean);
    create table app_plain (id uuid primary key);
    create table app_input (id uuid primary key, provided_by text not null);
    create table app_effect (n bigint generated always as identity primary key, id uuid not null, attempt int,
                             at timestamptz default clock_timestamp());
    create index on app_effect (id);
    create table app_cancelled (id uuid);
    create table app_step (n bigint generated always as identity primary key, job uuid, was text, now text,
                           attempt int, at timestamptz default clock_timestamp());
    create table app_stolen (job uuid);
    create function app_note_step() returns trigger language plpgsql as $$
    begin
      if tg_op = 'INSERT' then
        insert into public.app_step (job, now, attempt) values (new.id, new.state, new.attempt);
      elsif old.state <> new.state or (new.state = 'running' and old.attempt <> new.attempt) then
        insert into public.app_step (job, was, now, attempt) values (new.id, old.state, new.state, new.attempt);
        if new.reason like '%was lost or stopped' and old.state = 'running' and exists (
          select from posthaste.worker w where w.id = old.worker and w.lease_until > clock_timestamp()) then
          insert into public.app_stolen values (new.id);
        end if;
      end if;
      return new;
    end $$;
    create trigger note_step after insert or update on posthaste.job
      for each row execute function app_note_step()";

fn subscription(sink: SinkKind, redis: &str) -> String {
    let destination = match sink {
        SinkKind::List => format!("list = \"{QUEUE}\"\nformat = \"envelope\""),
        _ => format!("stream = \"{QUEUE}\""),
    };
    format!(
        "[subscriptions.jobs]\ntopics = [\"job.*\", \"{PLAIN}\"]\n\
         [subscriptions.jobs.sink]\nkind = \"{kind}\"\nurl = \"{redis}\"\n\
         operation_timeout = \"2s\"\nconnect_timeout = \"2s\"\n{destination}\n\
         [subscriptions.jobs.failure]\nretry = {{ initial = \"20ms\", cap = \"100ms\" }}\n",
        kind = sink.name()
    )
}
