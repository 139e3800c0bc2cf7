//! The one list of the server's metrics, and the reference page that is made from it.

use std::fmt::Write as _;

use super::BOUNDS;

/// Name, kind, labels, and what it tells.
pub(super) type Metric = (&'static str, &'static str, &'static str, &'static str);

pub(super) const REQUESTS: Metric = (
    "posthaste_http_requests_total",
    "counter",
    "`method`, `route`, `class`",
    "Requests that were answered, by the route's pattern (`none` for what is no route) and the class of the answer's \
     status. A route appears with its first request.",
);
pub(super) const DURATION: Metric = (
    "posthaste_http_request_duration_seconds",
    "histogram",
    "`method`, `route`",
    "From a request's headers to those of its answer.",
);
pub(super) const IN_PROGRESS: Metric =
    ("posthaste_http_requests_in_progress", "gauge", "", "Requests that have yet to be answered.");
pub(super) const SUBMISSIONS: Metric = (
    "posthaste_http_submissions_total",
    "counter",
    "`what`, `outcome`",
    "Jobs and messages that were to be written: `written`, `busy` (refused because too much waited) or `failed`.",
);
pub(super) const TRANSACTIONS: Metric = (
    "posthaste_http_submission_transactions_total",
    "counter",
    "`what`",
    "Transactions in which they were written, or were to be.",
);
pub(super) const STREAMS: Metric =
    ("posthaste_streams", "gauge", "", "Live streams that are open.");
pub(super) const FRAMES: Metric = (
    "posthaste_stream_frames_total",
    "counter",
    "",
    "Events and marks that were handed to streams at the end of the log.",
);
pub(super) const CUT_OFF: Metric = (
    "posthaste_streams_cut_off_total",
    "counter",
    "",
    "Streams whose client was too slow, and which it has to take up again.",
);
pub(super) const JOBS: Metric = (
    "posthaste_jobs",
    "gauge",
    "`state`",
    "Jobs by state; those that are queued count as created, or failed.",
);
pub(super) const ENTITIES: Metric = (
    "posthaste_entities",
    "gauge",
    "`machine`, `state`",
    "Entities of state machines; at most 1,000 pairs of a machine and a state.",
);
pub(super) const STEPS: Metric = (
    "posthaste_entity_steps",
    "gauge",
    "`machine`",
    "Steps that the entities of a machine have taken which it still has.",
);
pub(super) const COMMANDS: Metric = (
    "posthaste_commands",
    "gauge",
    "`state`",
    "Idempotent commands that are kept: `completed` or `in_progress`.",
);
pub(super) const COUNTED: Metric = (
    "posthaste_census_timestamp_seconds",
    "gauge",
    "",
    "When jobs, entities and commands were last counted, in seconds since 1970 by this machine's clock; without it they \
     have no values.",
);
pub(super) const ALL: [Metric; 13] = [
    REQUESTS,
    DURATION,
    IN_PROGRESS,
    SUBMISSIONS,
    TRANSACTIONS,
    STREAMS,
    FRAMES,
    CUT_OFF,
    JOBS,
    ENTITIES,
    STEPS,
    COMMANDS,
    COUNTED,
];

/// The part of the reference page that is about servers.
pub fn reference() -> String {
    let mut page = "\n## Told by a server\n\n`posthaste serve` serves them. What the database has is counted every 15 seconds, or \
                    later: never in more than a sixtieth of the time.\n\n| metric | kind | labels | |\n|---|---|---|---|\n"
        .to_owned();
    for (name, kind, labels, help) in ALL {
        let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help} |");
    }
    let bounds: Vec<String> =
        BOUNDS.iter().map(|bound| (*bound as f64 / 1_000_000.0).to_string()).collect();
    let _ = writeln!(page, "\nUpper bounds of `{}`: {}, +Inf.", DURATION.0, bounds.join(", "));
    page
}
