//! `posthaste doctor`: finds drift between writer, relay and consumer before it costs a message
//! (R19).

use clap::Args;
use posthaste_core::TopicFilter;
use posthaste_relay::Subscription;
use posthaste_store::{Operations, Status, StoreErrorKind, WrittenTopic};
use serde_json::json;

use super::status::too_large;
use crate::{
    config::{Config, DatabaseUrl},
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    run, store,
};

/// Messages whose topics are looked at.
const LOOKED_AT: u32 = 100_000;

/// What to compare the configuration with.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// The database URL that a writer uses: must lead to the same log
    #[arg(long, value_name = "URL")]
    writer_url: Option<DatabaseUrl>,
    /// The stream, list or channel that a consumer reads; may stand several times
    #[arg(long, value_name = "NAME")]
    consumer: Vec<String>,
}

/// One finding.
struct Finding {
    level: Level,
    check: &'static str,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Every finding, in the order of the checks.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, check: &'static str, text: impl Into<String>) {
        self.0.push(Finding { level, check, text: text.into() });
    }

    /// Adds `fine` if the check has found nothing.
    fn conclude(&mut self, check: &'static str, fine: &str) {
        if !self.0.iter().any(|finding| finding.check == check) {
            self.add(Level::Ok, check, fine);
        }
    }
}

/// Runs every check and fails if one finds an error.
pub(crate) async fn run(args: &DoctorArgs, config: &Config, out: &mut Output) -> Result {
    let subscriptions = run::subscriptions(config, &[])?;
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let mut findings = Findings::default();
    findings.add(Level::Ok, "database", format!("{} can be used", store.describe()));
    if let Some(url) = &args.writer_url {
        check_writer(url, config, &*store, &mut findings).await?;
    }
    let status = store.status().await?;
    check_subscriptions(config, &status, &mut findings);
    check_source(&*store, &status, &mut findings).await?;
    check_room(&status, &mut findings);
    let topics = store.written_topics(LOOKED_AT).await?;
    check_topics(&subscriptions, &topics, &mut findings);
    check_consumers(&subscriptions, &args.consumer, &mut findings);
    check_sinks(&subscriptions, &mut findings).await;
    print(out, &findings)?;
    let errors = findings.0.iter().filter(|finding| finding.level == Level::Error).count();
    if errors > 0 {
        let message = format!("{errors} of {} checks found an error", findings.0.len());
        return Err(Failure::new(Exit::Failed, message));
    }
    Ok(())
}

/// Another database: the messages of that writer would never be read.
async fn check_writer(
    url: &DatabaseUrl,
    config: &Config,
    store: &dyn Operations,
    findings: &mut Findings,
) -> Result {
    let mut writer = config.clone();
    writer.database.url = Some(url.clone());
    let other = store::open(&writer, store::Missing::Refuse).await?;
    if other.incarnation().await? == store.incarnation().await? {
        findings.add(Level::Ok, "writer", "the writer uses the same log");
    } else {
        let text = format!(
            "the writer uses another log ({}) than the relay ({}); give both one URL and schema",
            other.describe(),
            store.describe()
        );
        findings.add(Level::Error, "writer", text);
    }
    Ok(())
}

/// Whether the log takes more room than it should, and why.
fn check_room(status: &Status, findings: &mut Findings) {
    const CHECK: &str = "room";
    if let Some(text) = too_large(status) {
        let level = if status.size.pin.is_some() { Level::Error } else { Level::Warning };
        findings.add(level, CHECK, text);
    }
    findings.conclude(CHECK, "the log takes no more room than it should");
}

fn check_subscriptions(config: &Config, status: &Status, findings: &mut Findings) {
    const CHECK: &str = "subscriptions";
    let known = &status.subscriptions;
    for subscription in known {
        let name = &subscription.name;
        if !config.subscriptions.contains_key(name) {
            let text = format!(
                "{name} is in the database and not in the configuration: nobody publishes it, and \
                 it keeps the log from being emptied; configure it, or `posthaste subscriptions \
                 remove {name}`"
            );
            findings.add(Level::Warning, CHECK, text);
        }
        if subscription.dead_letters > 0 {
            let text = format!(
                "{name} has {} dead letters; see `posthaste dead-letters list`",
                subscription.dead_letters
            );
            findings.add(Level::Warning, CHECK, text);
        }
    }
    for name in config.subscriptions.keys() {
        if !known.iter().any(|subscription| subscription.name == *name) {
            let text = format!("{name} has never been published: no relay has run with it here");
            findings.add(Level::Warning, CHECK, text);
        }
    }
    findings.conclude(CHECK, "every subscription is configured, and known to the database");
}

/// What threatens the log, and whether it is the one that the subscriptions were read from.
async fn check_source(store: &dyn Operations, status: &Status, findings: &mut Findings) -> Result {
    const CHECK: &str = "source";
    match store.preflight().await {
        Ok(threats) => {
            for text in threats {
                findings.add(Level::Warning, CHECK, text);
            }
        }
        Err(error) => findings.add(Level::Error, CHECK, error.to_string()),
    }
    for subscription in &status.subscriptions {
        let (name, place) = (&subscription.name, &subscription.progress.place);
        match store.confirm(name, place, None).await {
            Ok(_) => {}
            Err(error) if error.kind() == StoreErrorKind::Rewound => {
                findings.add(Level::Error, CHECK, format!("{name}: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    findings.conclude(
        CHECK,
        "the database keeps its promises, and the log is the one that every subscription was read \
         from",
    );
    Ok(())
}

/// Topics that nobody reads, and readers of topics that nobody writes.
fn check_topics(subscriptions: &[Subscription], topics: &[WrittenTopic], findings: &mut Findings) {
    const CHECK: &str = "topics";
    let filters: Vec<&TopicFilter> = subscriptions.iter().map(|it| &it.spec.filter).collect();
    for topic in topics {
        if !filters.iter().any(|filter| filter.matches(&topic.topic)) {
            let text = format!(
                "{} is written (lately: {}) and no subscription reads it; add it to the topics of \
                 one",
                topic.topic, topic.messages
            );
            findings.add(Level::Error, CHECK, text);
        }
    }
    for subscription in subscriptions {
        let filter = &subscription.spec.filter;
        if !topics.is_empty() && !topics.iter().any(|topic| filter.matches(&topic.topic)) {
            let text = format!(
                "{} reads {filter}, which nobody has written lately; compare the names with the \
                 writer's",
                subscription.spec.name
            );
            findings.add(Level::Warning, CHECK, text);
        }
    }
    findings.conclude(CHECK, "every topic that is written is read");
}

/// Queues that a consumer reads and no sink writes: another prefix, a misspelt name.
fn check_consumers(subscriptions: &[Subscription], consumers: &[String], findings: &mut Findings) {
    const CHECK: &str = "consumers";
    for name in consumers {
        let makes = |it: &&Subscription| it.target.destination().is_some_and(|it| it.may_be(name));
        if let Some(subscription) = subscriptions.iter().find(makes) {
            let text = format!("{name} is written by {}", subscription.spec.name);
            findings.add(Level::Ok, CHECK, text);
            continue;
        }
        let known: Vec<&str> = subscriptions
            .iter()
            .filter_map(|it| it.target.destination())
            .map(posthaste_core::Template::source)
            .collect();
        let known = if known.is_empty() { "nowhere".to_owned() } else { known.join(", ") };
        let text = format!("{name} is written by no subscription; they write {known}");
        findings.add(Level::Error, CHECK, text);
    }
}

async fn check_sinks(subscriptions: &[Subscription], findings: &mut Findings) {
    for subscription in subscriptions {
        let (name, target) = (&subscription.spec.name, &subscription.target);
        let (level, text) = match target.preflight().await {
            Ok(threats) => {
                for text in threats {
                    findings.add(Level::Warning, "sinks", format!("{name}: {text}"));
                }
                (Level::Ok, format!("{name}: {} can be reached", target.describe()))
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                (Level::Error, format!("{name}: {error}{cause}"))
            }
        };
        findings.add(level, "sinks", text);
    }
}

fn print(out: &mut Output, findings: &Findings) -> Result {
    if out.is_json() {
        for finding in &findings.0 {
            let (level, check) = (finding.level.word(), finding.check);
            out.object(&json!({ "level": level, "check": check, "text": finding.text }))?;
        }
        return Ok(());
    }
    let row = |finding: &Finding| {
        vec![finding.level.word().to_owned(), finding.check.to_owned(), finding.text.clone()]
    };
    Ok(out.table(&["", "CHECK", "FOUND"], findings.0.iter().map(row).collect())?)
}
