//! Consumer groups that `maxlen` would trim entries away from before they have read them.

use std::collections::HashMap;

use posthaste_core::Template;
use posthaste_redis::RedisConnection;
use redis::{Cmd, Value, from_redis_value};

/// Streams that are looked at.
const STREAMS_MAX: usize = 100;
/// Steps through the server's names, of about 1,000 each.
const STEPS_MAX: usize = 20;

/// A consumer group, as `XINFO GROUPS` tells of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Group {
    name: String,
    /// Entries that it has not read; unknown before Redis 7, and after some deletions.
    lag: Option<u64>,
    /// Entries that it has read and not acknowledged.
    pending: u64,
}

/// Names each group that is further behind than `maxlen` entries. What the server keeps to itself is
/// not looked at.
pub(super) async fn findings(
    connection: &RedisConnection,
    template: &Template,
    maxlen: u64,
) -> Vec<String> {
    let mut found = Vec::new();
    for stream in streams(connection, template).await {
        let answer = connection.query(Cmd::new().arg("XINFO").arg("GROUPS").arg(&stream)).await;
        let groups = answer.ok().and_then(|groups| from_redis_value::<Vec<Value>>(groups).ok());
        let groups = groups.unwrap_or_default().into_iter().filter_map(group);
        found.extend(groups.filter_map(|group| finding(&stream, &group, maxlen)));
    }
    found
}

/// Streams that the template may name, as far as they are found in a bounded time.
async fn streams(connection: &RedisConnection, template: &Template) -> Vec<String> {
    if let Some(fixed) = template.fixed() {
        return vec![fixed.to_owned()];
    }
    let (mut found, mut cursor) = (Vec::new(), "0".to_owned());
    for _ in 0..STEPS_MAX {
        let mut scan = Cmd::new();
        scan.arg("SCAN").arg(&cursor).arg("MATCH").arg(format!("{}*", literal(template.prefix())));
        scan.arg("COUNT").arg(1_000).arg("TYPE").arg("stream");
        let answer = connection.query(&scan).await.ok();
        let Some((next, names)) =
            answer.and_then(|answer| from_redis_value::<(String, Vec<String>)>(answer).ok())
        else {
            break;
        };
        found.extend(names);
        cursor = next;
        if cursor == "0" || found.len() >= STREAMS_MAX {
            break;
        }
    }
    found.truncate(STREAMS_MAX);
    found
}

/// `text` as a pattern that matches nothing else.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

fn group(answer: Value) -> Option<Group> {
    let fields: HashMap<String, Value> = from_redis_value(answer).ok()?;
    let number = |name: &str| match fields.get(name) {
        Some(Value::Int(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    let name = from_redis_value(fields.get("name")?.clone()).ok()?;
    Some(Group { name, lag: number("lag"), pending: number("pending").unwrap_or_default() })
}

fn finding(stream: &str, group: &Group, maxlen: u64) -> Option<String> {
    let Group { name, lag, pending } = group;
    let behind = lag.unwrap_or_default() + pending;
    (behind >= maxlen).then(|| {
        format!(
            "the group {name:?} of the stream {stream:?} is {behind} entries behind ({pending} of \
             them delivered and not acknowledged), and maxlen keeps {maxlen}: what it has not read \
             is trimmed away; set a larger maxlen, or let its consumers catch up"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_named_once_it_is_as_far_behind_as_the_stream_is_long() {
        let group = |lag, pending| Group { name: "g".to_owned(), lag, pending };
        assert_eq!(finding("s", &group(Some(90), 9), 100), None);
        assert_eq!(finding("s", &group(None, 9), 100), None);
        let said = finding("s", &group(Some(90), 10), 100).unwrap();
        assert!(said.contains("100 entries behind"), "{said}");
    }

    #[test]
    fn pattern_of_a_prefix_matches_itself() {
        assert_eq!(literal("a*b[c]"), "a\\*b\\[c\\]");
    }
}
