//! The one list of metrics: name, kind, labels and help. `page` fills it with values, and
//! docs/reference/metrics.md is made from it.
//!
//! Label values are the names of configured subscriptions and the words of small closed lists;
//! never a topic, a key or an id, so that the number of series is known before the relay starts.

/// One family of series.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
    pub(crate) origin: Origin,
}

/// What a family's values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only ever grows, from 0 when the process starts unless the help says otherwise.
    Counter,
    Gauge,
    /// Counts by upper bounds, with their sum.
    Histogram,
}

impl Kind {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Where a family's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Counted in this process.
    Relay,
    /// Read from the database at the interval of `telemetry.interval`.
    Database,
}

/// The label of everything that belongs to one subscription.
const SUBSCRIPTION: &str = "subscription";

const fn metric(
    kind: Kind,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help, origin: Origin::Relay }
}

const fn observed(metric: Metric) -> Metric {
    Metric { origin: Origin::Database, ..metric }
}

pub(crate) const PUBLISHED: Metric = metric(
    Kind::Counter,
    "posthaste_published_messages_total",
    &[SUBSCRIPTION],
    "Messages that the sink accepted, those that had been set aside included.",
);
pub(crate) const ATTEMPTS: Metric = metric(
    Kind::Counter,
    "posthaste_publish_attempts_total",
    &[SUBSCRIPTION],
    "Batches handed to the sink, connecting first where that is needed; each try of a batch counts.",
);
pub(crate) const ERRORS: Metric = metric(
    Kind::Counter,
    "posthaste_publish_errors_total",
    &[SUBSCRIPTION, "class"],
    "Attempts after which not every message of the batch was accepted, once for each class of \
     failure in the batch.",
);
pub(crate) const REJECTED: Metric = metric(
    Kind::Counter,
    "posthaste_rejected_messages_total",
    &[SUBSCRIPTION],
    "Times that the sink refused a message, each try counted.",
);
pub(crate) const RETRIES: Metric = metric(
    Kind::Counter,
    "posthaste_retries_total",
    &[SUBSCRIPTION],
    "Times that a pipeline backed off before it went on: batches tried again, and runs begun anew.",
);
pub(crate) const PANICS: Metric = metric(
    Kind::Counter,
    "posthaste_panics_total",
    &[SUBSCRIPTION],
    "Times that a pipeline panicked and began anew.",
);
pub(crate) const SET_ASIDE_TOTAL: Metric = metric(
    Kind::Counter,
    "posthaste_set_aside_total",
    &[SUBSCRIPTION, "what"],
    "What has been set aside, once for each time: keys and messages parked for a retry, messages \
     that became dead letters.",
);
pub(crate) const LOST: Metric = metric(
    Kind::Counter,
    "posthaste_sink_losses_total",
    &[SUBSCRIPTION, "what"],
    "Times that a sink was found to have lost what it had accepted: its whole place (published from \
     the settled place on), the tail behind its place (published again), or calls of the retries \
     (see `posthaste replay`).",
);
pub(crate) const BREACHES: Metric = metric(
    Kind::Counter,
    "posthaste_contract_breaches_total",
    &[SUBSCRIPTION, "code"],
    "Times that a message was found to break the contract of its topic, or to have none that is known \
     where it needs one, before it was handed to the sink; each try counted.",
);
pub(crate) const BATCH_MESSAGES: Metric = metric(
    Kind::Histogram,
    "posthaste_batch_messages",
    &[SUBSCRIPTION],
    "Messages in the batches that the sink answered.",
);
pub(crate) const BATCH_DURATION: Metric = metric(
    Kind::Histogram,
    "posthaste_batch_duration_seconds",
    &[SUBSCRIPTION],
    "From handing a batch to the sink to its answer, for batches that it answered; connecting \
     first included.",
);
pub(crate) const COMMIT_TO_PUBLISH: Metric = metric(
    Kind::Histogram,
    "posthaste_commit_to_publish_seconds",
    &[SUBSCRIPTION],
    "From the time that a message carries, set by the database when it was written (so before its \
     commit), to the sink's word on it, by this machine's clock: two clocks that may differ; below \
     zero counts as zero. Messages retried after being set aside are left out.",
);
pub(crate) const STATE: Metric = metric(
    Kind::Gauge,
    "posthaste_subscription_state",
    &[SUBSCRIPTION, "state"],
    "1 for the state that the subscription's pipeline is in, 0 for the others.",
);
pub(crate) const LOOKS: Metric = metric(
    Kind::Counter,
    "posthaste_looks_total",
    &[],
    "Looks at the log for new messages that the database answered.",
);
pub(crate) const TICKS: Metric =
    metric(Kind::Counter, "posthaste_ticks_total", &[], "Ticks that this relay took.");
pub(crate) const TICKING: Metric = metric(
    Kind::Gauge,
    "posthaste_ticking",
    &[],
    "1 while looks and ticks succeed, 0 while they fail and nothing new can be published.",
);
pub(crate) const LATE: Metric = metric(
    Kind::Counter,
    "posthaste_late_transactions_total",
    &[],
    "Transactions that were in progress at one tick and whose messages came with a later one: late \
     messages, counted by transaction.",
);
pub(crate) const SLOTS_EMPTIED: Metric = metric(
    Kind::Counter,
    "posthaste_slots_emptied_total",
    &[],
    "Slots that this relay's sweeps emptied, those of ticks and progress included.",
);
pub(crate) const DATABASE_ERRORS: Metric = metric(
    Kind::Counter,
    "posthaste_database_errors_total",
    &["class"],
    "Failures of the database that ended a run of a pipeline, held up a write of one, or ended a \
     look, a move of scheduled messages, a sweep or a read for the gauges.",
);
pub(crate) const SPANS_EXPORTED: Metric = metric(
    Kind::Counter,
    "posthaste_exported_spans_total",
    &[],
    "Spans that the collector of traces has taken; 0 without one.",
);
pub(crate) const SPANS_DROPPED: Metric = metric(
    Kind::Counter,
    "posthaste_dropped_spans_total",
    &[],
    "Spans that were not exported: there was no room for them, or the collector took them in no try.",
);
pub(crate) const SPAN_FAILURES: Metric = metric(
    Kind::Counter,
    "posthaste_span_export_errors_total",
    &[],
    "Tries to export spans that failed.",
);
pub(crate) const OBSERVED_AT: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_observed_timestamp_seconds",
    &[],
    "When the values from the database were last read, in seconds since 1970 by this machine's \
     clock; none of them has a value before the first time, and all keep their last one while the \
     database is away.",
));
pub(crate) const ENQUEUED: Metric = observed(metric(
    Kind::Counter,
    "posthaste_enqueued_positions_total",
    &[],
    "Positions handed out to messages since the log was created; those of transactions that rolled \
     back are among them.",
));
pub(crate) const LOG_MESSAGES: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_log_messages",
    &[],
    "Messages that the log holds, published ones included.",
));
pub(crate) const LOG_BYTES: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_log_bytes",
    &[],
    "Bytes that the log takes: its relations with their indexes (PostgreSQL) or its rows (SQLite).",
));
pub(crate) const LOG_BYTES_MAX: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_log_bytes_max",
    &[],
    "What `database.retention_size` sets in bytes; no value without it.",
));
pub(crate) const PINNED: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_log_pinned",
    &["by"],
    "1 for what keeps the oldest messages while the log is above its size or shares slots, else 0. \
     The log and `posthaste status` name the subscription.",
));
pub(crate) const DEAD_TUPLES: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_log_dead_tuples",
    &[],
    "Rows of the log that a vacuum has yet to remove: from transactions that rolled back, since \
     publishing makes none. PostgreSQL only.",
));
pub(crate) const SLOTS: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_log_slots",
    &["state"],
    "Slots of the log's ring: all, those in use, and those shared by two laps because a \
     subscription lags too far behind. PostgreSQL only.",
));
pub(crate) const BACKLOG: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_backlog_messages",
    &[SUBSCRIPTION],
    "Committed messages that match the subscription and are not settled.",
));
pub(crate) const OLDEST_AGE: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_oldest_message_age_seconds",
    &[SUBSCRIPTION],
    "Age of the oldest message of the backlog by the database's clock; 0 without a backlog.",
));
pub(crate) const SET_ASIDE: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_set_aside",
    &[SUBSCRIPTION, "what"],
    "What is set aside: keys and messages that are parked, and dead letters.",
));
pub(crate) const LEASE_HELD: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_lease_held",
    &[SUBSCRIPTION],
    "1 if the database names this relay as the subscription's holder, else 0.",
));
pub(crate) const LEASE_EPOCH: Metric = observed(metric(
    Kind::Gauge,
    "posthaste_lease_epoch",
    &[SUBSCRIPTION],
    "The subscription's epoch: how often a relay has taken it over.",
));

/// Every metric, in the order of the page.
pub(crate) const ALL: [&Metric; 35] = [
    &PUBLISHED,
    &ATTEMPTS,
    &ERRORS,
    &REJECTED,
    &RETRIES,
    &PANICS,
    &SET_ASIDE_TOTAL,
    &LOST,
    &BREACHES,
    &BATCH_MESSAGES,
    &BATCH_DURATION,
    &COMMIT_TO_PUBLISH,
    &STATE,
    &LOOKS,
    &TICKS,
    &TICKING,
    &LATE,
    &SLOTS_EMPTIED,
    &DATABASE_ERRORS,
    &SPANS_EXPORTED,
    &SPANS_DROPPED,
    &SPAN_FAILURES,
    &OBSERVED_AT,
    &ENQUEUED,
    &LOG_MESSAGES,
    &LOG_BYTES,
    &LOG_BYTES_MAX,
    &PINNED,
    &DEAD_TUPLES,
    &SLOTS,
    &BACKLOG,
    &OLDEST_AGE,
    &SET_ASIDE,
    &LEASE_HELD,
    &LEASE_EPOCH,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_and_stand_once() {
        for (nth, metric) in ALL.iter().enumerate() {
            let name = metric.name;
            assert!(name.starts_with("posthaste_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(ALL[..nth].iter().all(|other| other.name != name), "{name} stands twice");
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{name}");
            for suffix in ["_ms", "_micros", "_kib", "_percent", "_count", "_sum", "_bucket"] {
                assert!(!name.ends_with(suffix), "{name}");
            }
        }
    }

    #[test]
    fn r38_labels_are_subscriptions_and_closed_lists_only() {
        let allowed = ["subscription", "class", "state", "what", "by", "code"];
        for metric in ALL {
            assert!(metric.labels.iter().all(|label| allowed.contains(label)), "{metric:?}");
        }
    }
}
