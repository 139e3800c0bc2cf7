//! What lists and changes have in common: conditions on messages, sizes of pages, places in lists.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use posthaste_core::{MessageId, Timestamp, TopicFilter};
use posthaste_store::{DeadLetterFilter, Selection};

use crate::{
    clock,
    problem::{Code, Problem},
};

/// Ids that one request may name.
pub(crate) const IDS_MAX: usize = 1_000;
/// Bytes of a text that names something.
const NAME_BYTES_MAX: usize = 1_024;
/// Bytes of a text that stands in reasons.
const REASON_BYTES_MAX: usize = 4_096;
/// Patterns of one list of topics.
const TOPICS_MAX: usize = 100;
/// Messages a second that may be asked for.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

/// What is refused, and how: a parameter with 400, a field with 422.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Query,
    Body,
}

impl Of {
    pub(crate) fn wrong(self, field: &str, rule: &str) -> Problem {
        let code = match self {
            Self::Query => Code::BadParameter,
            Self::Body => Code::InvalidField,
        };
        Problem::of(code, field, format!("{field} must be {rule}"))
    }

    /// A text that names something: no control characters.
    pub(crate) fn name(self, field: &str, text: Option<String>) -> Result<Option<String>, Problem> {
        let is_wrong =
            |text: &String| text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control);
        if text.as_ref().is_some_and(is_wrong) {
            return Err(self.wrong(field, "text of at most 1024 bytes without control characters"));
        }
        Ok(text)
    }

    /// A text out of a reason, which may have lines.
    fn reason(self, field: &str, text: Option<String>) -> Result<Option<String>, Problem> {
        let is_wrong =
            |text: &String| text.len() > REASON_BYTES_MAX || text.is_empty() || text.contains('\0');
        if text.as_ref().is_some_and(is_wrong) {
            return Err(self.wrong(field, "text of 1 to 4096 bytes without NUL"));
        }
        Ok(text)
    }

    /// A point in time.
    pub(crate) fn time(
        self,
        field: &str,
        text: Option<String>,
    ) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = text else { return Ok(None) };
        let rule = "a time such as 2027-01-01T00:00:00Z, from 1970 to 9999";
        clock::read(&text).map(Some).ok_or_else(|| self.wrong(field, rule))
    }

    /// A range of time, which begins before it ends.
    pub(crate) fn range(
        self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<(), Problem> {
        let is_empty = since.zip(until).is_some_and(|(since, until)| since.0 > until.0);
        if is_empty { Err(self.wrong("since", "no later than until")) } else { Ok(()) }
    }

    /// Topics, separated by commas.
    pub(crate) fn topics(self, text: Option<String>) -> Result<Option<TopicFilter>, Problem> {
        let Some(text) = text else { return Ok(None) };
        let rule = "1 to 100 topics, separated by commas, each exact or as prefix*";
        let wrong = || self.wrong("topic", rule);
        let patterns: Vec<&str> = text.split(',').take(TOPICS_MAX + 1).collect();
        if patterns.len() > TOPICS_MAX || text.len() > NAME_BYTES_MAX * TOPICS_MAX {
            return Err(wrong());
        }
        TopicFilter::new(&patterns).map(Some).map_err(|_| wrong())
    }

    /// Messages a second.
    pub(crate) fn rate(self, rate: Option<f64>) -> Result<Option<f64>, Problem> {
        match rate {
            Some(rate) if !RATES.contains(&rate) => {
                Err(self.wrong("rate", "messages a second, from 0.001 to 1000000"))
            }
            rate => Ok(rate),
        }
    }

    /// How many entries a page may have.
    pub(crate) fn limit(
        self,
        text: Option<String>,
        default: u32,
        max: u32,
    ) -> Result<u32, Problem> {
        self.whole("limit", text, default, max)
    }

    /// A whole number from 1 on.
    pub(crate) fn whole(
        self,
        field: &str,
        text: Option<String>,
        default: u32,
        max: u32,
    ) -> Result<u32, Problem> {
        let Some(text) = text else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| self.wrong(field, &format!("a number from 1 to {max}")))
    }

    /// Where the page before ended.
    pub(crate) fn place<T>(
        self,
        kind: char,
        text: Option<String>,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = text else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let plain = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let place = plain.and_then(|plain| read(plain.strip_prefix(kind)?));
        place.map(Some).ok_or_else(|| self.wrong("cursor", "the `next` of an earlier page"))
    }
}

/// Where a page ends. Its form may change: clients hand it back as it is.
pub(crate) fn cursor(kind: char, place: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{kind}{place}"))
}

/// Conditions on messages, as they were sent.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) subscription: Option<String>,
    pub(crate) ids: Option<Vec<MessageId>>,
    pub(crate) topic: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) until: Option<String>,
}

impl Conditions {
    /// What they mean.
    pub(crate) fn filter(self, of: Of) -> Result<DeadLetterFilter, Problem> {
        let ids = self.ids.unwrap_or_default();
        if ids.len() > IDS_MAX {
            return Err(of.wrong("ids", &format!("at most {IDS_MAX} message ids")));
        }
        let which = Selection {
            subscription: of.name("subscription", self.subscription)?,
            ids,
            topics: of.topics(self.topic)?,
            key: of.name("key", self.key)?,
            reason: of.reason("reason", self.reason)?,
            since: of.time("since", self.since)?,
            until: of.time("until", self.until)?,
        };
        of.range(which.since, which.until)?;
        Ok(DeadLetterFilter { which, group: of.reason("group", self.group)? })
    }

    /// The same of a change, which has to say `all` where it names nothing. An empty list of ids means none.
    pub(crate) fn of_change(self, all: bool) -> Result<DeadLetterFilter, Problem> {
        if self.ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(Of::Body.wrong("ids", "left out, or name at least one message"));
        }
        let filter = self.filter(Of::Body)?;
        if filter == DeadLetterFilter::default() && !all {
            let rule = "true where no condition is given: this would concern every message";
            return Err(Of::Body.wrong("all", rule));
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(problem: Result<impl std::fmt::Debug, Problem>) -> String {
        let shown = format!("{:?}", problem.unwrap_err());
        let (_, rest) = shown.split_once("field: Some(\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let of = |text: &str| Some(text.to_owned());
        assert_eq!(field(Of::Body.name("key", of("a\0"))), "key");
        assert_eq!(field(Of::Body.reason("group", of(""))), "group");
        for time in ["", "tomorrow", "1969-12-31T23:59:59Z", "-000001-01-01T00:00:00Z"] {
            assert_eq!(field(Of::Query.time("since", of(time))), "since", "{time}");
        }
        for topics in ["", "a,,b", "a*b", &"a,".repeat(101)] {
            assert_eq!(field(Of::Query.topics(of(topics))), "topic", "{topics}");
        }
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9] {
            assert_eq!(field(Of::Body.rate(Some(rate))), "rate", "{rate}");
        }
        for limit in ["0", "201", "-1", "x", "1e2"] {
            assert_eq!(field(Of::Query.limit(of(limit), 50, 200)), "limit", "{limit}");
        }
        let backwards = Conditions {
            since: of("2027-01-01T00:00:00.000001Z"),
            until: of("2027-01-01T00:00:00Z"),
            ..Conditions::default()
        };
        assert_eq!(field(backwards.filter(Of::Body)), "since");
        assert!(Of::Query.range(Some(Timestamp(7)), Some(Timestamp(7))).is_ok());
        let ids = Conditions { ids: Some(vec![MessageId::nil(); 1_001]), ..Conditions::default() };
        assert_eq!(field(ids.filter(Of::Body)), "ids");
    }

    #[test]
    fn change_of_everything_has_to_be_meant() {
        assert_eq!(field(Conditions::default().of_change(false)), "all");
        assert!(Conditions::default().of_change(true).is_ok());
        let none = Conditions { ids: Some(Vec::new()), ..Conditions::default() };
        assert_eq!(field(none.of_change(true)), "ids");
        let key = Conditions { key: Some("k".to_owned()), ..Conditions::default() };
        assert!(key.of_change(false).is_ok());
    }

    #[test]
    fn cursors_are_handed_back_to_their_own_kind_of_list() {
        let number = |text: &str| text.parse::<i64>().ok();
        let next = cursor('o', "7");
        assert_eq!(Of::Query.place('o', Some(next.clone()), number).unwrap(), Some(7));
        for (kind, text) in [('a', next), ('o', String::new()), ('o', "%".to_owned())] {
            assert_eq!(field(Of::Query.place(kind, Some(text), number)), "cursor");
        }
    }
}
