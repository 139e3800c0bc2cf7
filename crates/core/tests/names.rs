//! Topic filters and name templates against naive readings of them.

use posthaste_core::{Headers, MessageId, MessageRef, Template, Timestamp, TopicFilter};
use proptest::{collection::vec, prelude::*};

fn topic() -> impl Strategy<Value = String> {
    "[ab][ab.]{0,4}"
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![4 => topic(), 3 => topic().prop_map(|topic| topic + "*"), 1 => Just("*".to_owned())]
}

/// A topic matches when a pattern equals it, or begins it and ends with a star.
fn matches(patterns: &[String], topic: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => topic.starts_with(prefix),
        None => pattern == topic,
    })
}

/// A part of a template and what it stands for.
#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Topic,
    Key,
    Header,
}

impl Part {
    fn source(&self) -> String {
        match self {
            Self::Text(text) => text.replace('{', "{{").replace('}', "}}"),
            Self::Topic => "{topic}".to_owned(),
            Self::Key => "{key}".to_owned(),
            Self::Header => "{header:h}".to_owned(),
        }
    }

    /// What it writes for a message, or nothing when the message has no such value.
    fn value<'a>(
        &'a self,
        topic: &'a str,
        key: Option<&'a str>,
        header: &'a str,
    ) -> Option<&'a str> {
        let usable = |value: &&str| !value.is_empty() && !value.chars().any(char::is_control);
        match self {
            Self::Text(text) => Some(text),
            Self::Topic => Some(topic),
            Self::Key => key.filter(usable),
            Self::Header => Some(header).filter(usable),
        }
    }
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        "[a-c:{}.]{1,6}".prop_map(Part::Text),
        Just(Part::Topic),
        Just(Part::Key),
        Just(Part::Header),
    ]
}

proptest! {
    #[test]
    fn filter_matches_what_its_patterns_say(
        patterns in vec(pattern(), 0..6), topics in vec(topic(), 1..10),
    ) {
        let filter = TopicFilter::new(&patterns).unwrap();
        let rebuilt =
            TopicFilter::from_parts(filter.exact().to_vec(), filter.prefixes().to_vec());
        prop_assert_eq!(&rebuilt, &filter);
        for topic in topics {
            prop_assert_eq!(filter.matches(&topic), matches(&patterns, &topic));
        }
    }

    #[test]
    fn union_matches_what_any_of_its_filters_matches(
        lists in vec(vec(pattern(), 0..4), 0..4), topics in vec(topic(), 1..10),
    ) {
        let filters: Vec<_> = lists.iter().map(|list| TopicFilter::new(list).unwrap()).collect();
        let union = TopicFilter::union(&filters);
        for topic in topics {
            let any = filters.iter().any(|filter| filter.matches(&topic));
            prop_assert_eq!(union.matches(&topic), any);
        }
    }

    #[test]
    fn template_writes_its_parts_and_never_leaves_its_literal_prefix(
        parts in vec(part(), 1..6),
        topic in topic(),
        key in proptest::option::of("[a-z{}\\n/]{0,5}"),
        header in "[a-z{}\\n/]{0,5}",
    ) {
        let source: String = parts.iter().map(Part::source).collect();
        let template = Template::parse(&source).unwrap();
        let mut packed = Vec::new();
        Headers::pack(&mut packed, "h");
        Headers::pack(&mut packed, &header);
        let message = MessageRef {
            id: MessageId::nil(),
            position: 1,
            enqueued_at: Timestamp(0),
            topic: &topic,
            key: key.as_deref(),
            content_type: "a/b",
            correlation_id: None,
            headers: Headers::packed(&packed),
            payload: &[],
        };
        let mut name = "left over".to_owned();
        let rendered = template.render(&message, &mut name);
        let values = parts.iter().map(|part| part.value(&topic, key.as_deref(), &header));
        match values.collect::<Option<String>>() {
            Some(expected) => prop_assert_eq!(rendered.map(|()| name.clone()), Ok(expected)),
            None => prop_assert!(rendered.is_err()),
        }
        let prefix: String = parts.iter().map_while(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        }).collect();
        if template.render(&message, &mut name).is_ok() {
            prop_assert!(name.starts_with(&prefix));
        }
        let is_fixed = parts.iter().all(|part| matches!(part, Part::Text(_)));
        prop_assert_eq!(template.fixed().is_some(), is_fixed);
    }

    #[test]
    fn any_template_text_is_parsed_or_refused_and_never_panics(source in "[a-z{}:]{0,20}") {
        if let Ok(template) = Template::parse(&source) {
            prop_assert_eq!(template.source(), source);
        }
    }
}
