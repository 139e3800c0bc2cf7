//! The lists that are asked for.

use posthaste_core::{MessageId, Timestamp, TopicFilter};
use posthaste_store::{BrowsePlace, MessageFilter, MessageState, Operations};
use posthaste_testkit::failure::{During, Result};

use super::fill::{BEGINS, SPACING_MS};

const HOUR: i64 = 3_600_000_000;

/// A list, and the filter of its `n`th call.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) which: Box<dyn Fn(u64) -> MessageFilter + Send>,
}

fn case(name: &str, which: impl Fn(u64) -> MessageFilter + Send + 'static) -> Case {
    Case { name: name.to_owned(), which: Box::new(which) }
}

fn topic(pattern: &str) -> MessageFilter {
    let filter = TopicFilter::new(&[pattern]).unwrap_or_else(|_| TopicFilter::all());
    MessageFilter { topics: vec![filter], ..MessageFilter::default() }
}

fn key(key: impl Into<String>) -> MessageFilter {
    MessageFilter { key: Some(key.into()), ..MessageFilter::default() }
}

fn correlation(id: impl Into<String>) -> MessageFilter {
    MessageFilter { correlation_id: Some(id.into()), ..MessageFilter::default() }
}

fn state(state: MessageState) -> MessageFilter {
    MessageFilter { state: Some(state), ..MessageFilter::default() }
}

fn behind(part: u64, of: u64, which: MessageFilter) -> MessageFilter {
    let place = i64::try_from(of / 100 * part).unwrap_or(i64::MAX);
    MessageFilter { before: Some(BrowsePlace::Log(place)), ..which }
}

/// Between two positions, by their times.
fn between(from: u64, to: u64, which: MessageFilter) -> MessageFilter {
    let time = |n: u64| {
        let micros = (BEGINS * 1_000 + n * SPACING_MS) * 1_000;
        Some(Timestamp(i64::try_from(micros).unwrap_or(i64::MAX)))
    };
    MessageFilter { since: time(from), until: time(to), ..which }
}

fn header(name: &str, value: &str) -> MessageFilter {
    MessageFilter { header: Some((name.to_owned(), value.to_owned())), ..MessageFilter::default() }
}

/// Every case, for a log of `count` messages.
pub(super) async fn all(store: &dyn Operations, count: u64) -> Result<Vec<Case>> {
    let mut all = plain(count);
    all.extend(by_id(store).await?);
    all.extend(by_state(count));
    all.extend(by_time(count));
    Ok(all)
}

fn plain(count: u64) -> Vec<Case> {
    vec![
        case("all", |_| MessageFilter::default()),
        case("all, deep", move |n| behind(1 + n % 99, count, MessageFilter::default())),
        case("topic, common", |_| topic("orders.created")),
        case("topic, common, deep", move |n| behind(1 + n % 99, count, topic("orders.created"))),
        case("topic, rare", |_| topic("rare.one")),
        case("topic, in bursts", |_| topic("burst.job")),
        case("topic, in bursts, deep", move |n| behind(1 + n % 99, count, topic("burst.job"))),
        case("topic, one of many", |n| topic(&format!("audit.{}", n * 100 + 99))),
        case("topic, absent", |_| topic("nobody.wrote")),
        case("prefix, common", |_| topic("orders.*")),
        case("prefix, rare", |_| topic("rare.*")),
        case("prefix, many topics", |_| topic("audit.*")),
        case("prefix, absent", |_| topic("nobody.*")),
        case("key, some", |n| key(format!("key-{}", n * 37))),
        case("key, hot", |_| key("hot")),
        case("key, hot, deep", move |n| behind(1 + n % 99, count, key("hot"))),
        case("key, rare", |_| key("rare")),
        case("key, absent", |_| key("nobody")),
        case("correlation id", move |n| correlation(format!("c-{}", n * 9_973 % (count / 10)))),
        case("correlation id, absent", |_| correlation("c")),
        case("topic and key", |n| MessageFilter {
            topics: topic("orders.created").topics,
            ..key(format!("key-{}", n * 37))
        }),
        case("topic and hot key that never met", |_| MessageFilter {
            topics: topic("rare.one").topics,
            ..key("hot")
        }),
    ]
}

async fn by_id(store: &dyn Operations) -> Result<Vec<Case>> {
    let mut ids: Vec<MessageId> = Vec::new();
    for n in 1..=100 {
        let which = MessageFilter {
            before: Some(BrowsePlace::Log(n * 9_973 + 1)),
            ..MessageFilter::default()
        };
        let page = store.messages(&which, 1).await.during("read ids")?;
        ids.extend(page.messages.iter().map(|message| message.id));
    }
    let of = |id| MessageFilter { id: Some(id), ..MessageFilter::default() };
    Ok(vec![
        case("id", move |n| of(ids[n as usize % ids.len()])),
        case("id, absent", move |_| of(MessageId::new_v4())),
    ])
}

fn by_state(count: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for one in MessageState::ALL {
        cases.push(case(&format!("state {one}"), move |_| state(one)));
        cases.push(case(&format!("state {one}, deep"), move |n| {
            behind(1 + n % 99, count, state(one))
        }));
    }
    cases.push(case("state pending, rare topic", |_| MessageFilter {
        topics: topic("rare.one").topics,
        ..state(MessageState::Pending)
    }));
    cases.push(case("state published, common topic", |_| MessageFilter {
        topics: topic("orders.created").topics,
        ..state(MessageState::Published)
    }));
    cases.push(case("state dead, common topic", |_| MessageFilter {
        topics: topic("orders.created").topics,
        ..state(MessageState::Dead)
    }));
    cases.push(case("state dead, absent topic", |_| MessageFilter {
        topics: topic("nobody.wrote").topics,
        ..state(MessageState::Dead)
    }));
    cases
}

fn by_time(count: u64) -> Vec<Case> {
    let hour = HOUR as u64 / 1_000 / SPACING_MS;
    let start = move |n: u64| n * (count / 110).max(1);
    vec![
        case("an hour", move |n| between(start(n), start(n) + hour, MessageFilter::default())),
        case("an hour, absent topic", move |n| {
            between(start(n), start(n) + hour, topic("nobody.wrote"))
        }),
        case("header, common, an hour", move |n| {
            between(start(n), start(n) + hour, header("common", "yes"))
        }),
        case("header, one in a thousand, an hour", move |n| {
            between(start(n), start(n) + hour, header("tenant", &format!("t{n}")))
        }),
        case("header, absent, an hour", move |n| {
            between(start(n), start(n) + hour, header("tenant", "nobody"))
        }),
        case("header, absent, a minute", move |n| {
            between(start(n), start(n) + hour / 60, header("tenant", "nobody"))
        }),
        case("header, absent, a day", move |_| {
            between(count - (24 * hour).min(count), count, header("tenant", "nobody"))
        }),
    ]
}
