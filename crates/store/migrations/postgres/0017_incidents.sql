-- Incidents: conditions that somebody was told of, until they are over. Whoever finds one first tells it.

create table @schema@.incident (
  condition text not null,
  -- What it is about, such as a subscription's name; empty where it is about everything.
  subject text not null,
  opened_at timestamptz not null default clock_timestamp(),
  told_at timestamptz,
  -- Until then it is somebody's to tell: of its beginning, and of its end.
  claimed_until timestamptz not null,
  primary key (condition, subject),
  constraint condition_is_bounded check (octet_length(condition) between 1 and 64),
  constraint subject_is_bounded check (octet_length(subject) <= 256)
);
