//! What an operation is to do, as the JSON that its row keeps.

use posthaste_core::{MessageId, Timestamp, TopicFilter};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{OperationKind, OperationSpec};
use crate::{DeadLetterFilter, Result, Selection, StoreError, StoreErrorKind};

/// The JSON. Times are microseconds.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subscription: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ids: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topics: Option<[Vec<String>; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// The specification as text, without its kind.
pub(crate) fn to_json(spec: &OperationSpec) -> String {
    let DeadLetterFilter { which, group } = spec.filter.clone();
    let kept = Kept {
        subscription: which.subscription,
        ids: texts(&which.ids),
        topics: which.topics.map(|topics| [topics.exact().to_vec(), topics.prefixes().to_vec()]),
        key: which.key,
        reason: which.reason,
        group,
        since: which.since.map(|Timestamp(at)| at),
        until: which.until.map(|Timestamp(at)| at),
        rate: spec.rate,
        target: spec.target.clone(),
    };
    // Texts and numbers, which always serialise.
    serde_json::to_string(&kept).unwrap_or_default()
}

/// What was meant, for the audit trail: conditions that were not given are left out.
pub(crate) fn selection(which: &Selection) -> serde_json::Value {
    let topics = which.topics.as_ref().map(|topics| {
        let prefixes = topics.prefixes().iter().map(|prefix| format!("{prefix}*"));
        topics.exact().iter().cloned().chain(prefixes).collect::<Vec<_>>()
    });
    let all = [
        ("subscription", json!(which.subscription)),
        ("ids", json!((!which.ids.is_empty()).then(|| texts(&which.ids)))),
        ("topics", json!(topics)),
        ("key", json!(which.key)),
        ("reason", json!(which.reason)),
        ("since", json!(which.since.map(|Timestamp(at)| at))),
        ("until", json!(which.until.map(|Timestamp(at)| at))),
    ];
    let given = all.into_iter().filter(|(_, value)| !value.is_null());
    given.map(|(name, value)| (name.to_owned(), value)).collect::<serde_json::Map<_, _>>().into()
}

fn texts(ids: &[MessageId]) -> Vec<String> {
    ids.iter().map(MessageId::to_string).collect()
}

/// What [`to_json`] has written.
pub(crate) fn from_json(kind: &str, text: &str) -> Result<OperationSpec> {
    let unreadable = || {
        let doing = "read an operation: a newer or an older program wrote it";
        StoreError::new(StoreErrorKind::Unexpected, doing)
    };
    let kind: OperationKind = kind.parse().map_err(|_| unreadable())?;
    let kept: Kept = serde_json::from_str(text).map_err(|_| unreadable())?;
    let ids: std::result::Result<_, _> = kept.ids.iter().map(|id| id.parse()).collect();
    let which = Selection {
        subscription: kept.subscription,
        ids: ids.map_err(|_| unreadable())?,
        topics: kept.topics.map(|[exact, prefixes]| TopicFilter::from_parts(exact, prefixes)),
        key: kept.key,
        reason: kept.reason,
        since: kept.since.map(Timestamp),
        until: kept.until.map(Timestamp),
    };
    let filter = DeadLetterFilter { which, group: kept.group };
    Ok(OperationSpec { kind, filter, rate: kept.rate, target: kept.target })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specification_comes_back_as_it_was_written() {
        let whole = OperationSpec {
            kind: OperationKind::ReplayMessages,
            filter: DeadLetterFilter {
                which: Selection {
                    subscription: Some("s".to_owned()),
                    ids: vec![MessageId::max()],
                    topics: Some(TopicFilter::new(&["a", "b.*"]).unwrap()),
                    key: Some("\"k\"".to_owned()),
                    reason: Some("r".to_owned()),
                    since: Some(Timestamp(1)),
                    until: Some(Timestamp(i64::MAX)),
                },
                group: Some("g #".to_owned()),
            },
            rate: Some(0.25),
            target: Some("t".to_owned()),
        };
        assert_eq!(from_json("replay-messages", &to_json(&whole)).unwrap(), whole);
        let told = selection(&whole.filter.which);
        let id = MessageId::max().to_string();
        let expected = json!({
            "subscription": "s", "ids": [id], "topics": ["a", "b.*"], "key": "\"k\"", "reason": "r",
            "since": 1, "until": i64::MAX,
        });
        assert_eq!(told, expected);
        assert_eq!(selection(&Selection::default()), json!({}));
        let empty = OperationSpec {
            kind: OperationKind::DiscardDeadLetters,
            filter: DeadLetterFilter::default(),
            rate: None,
            target: None,
        };
        assert_eq!(to_json(&empty), "{}");
        assert_eq!(from_json("discard-dead-letters", "{}").unwrap(), empty);
        for (kind, text) in [("erase", "{}"), ("replay-messages", "[1]"), ("replay-messages", "")] {
            assert!(from_json(kind, text).is_err(), "{kind} {text}");
        }
    }
}
