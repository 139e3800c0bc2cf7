//! The variables `OUTBOX_…` by which outboxes of the hand-made kind are set (R43), so that a
//! deployment that has them needs no others. They stand over the file and below `POSTHASTE_…`.

use std::ffi::OsString;

use toml::Value;

use super::{
    layers::{Entries, Key},
    problem::{Problem, Source},
};

/// A variable and what it sets.
struct Variable {
    name: &'static str,
    /// Keys of the configuration; `*` stands for every subscription.
    keys: &'static [&'static str],
    is_time: bool,
    about: &'static str,
}

const VARIABLES: [Variable; 6] = [
    Variable {
        name: "OUTBOX_BATCH_SIZE",
        keys: &["relay.batch_messages"],
        is_time: false,
        about: "messages handed to a sink at once",
    },
    Variable {
        name: "OUTBOX_DELETE_BATCH_SIZE",
        keys: &[],
        is_time: false,
        about: "accepted and without effect: published messages are not deleted one by one",
    },
    Variable {
        name: "OUTBOX_PROCESS_INTERVAL",
        keys: &["relay.idle_interval"],
        is_time: true,
        about: "longest pause between looks at the log; seconds, or with a unit as `5s`",
    },
    Variable {
        name: "OUTBOX_MAX_RETRIES",
        keys: &["subscriptions.*.failure.attempts"],
        is_time: false,
        about: "attempts before a message becomes a dead letter",
    },
    Variable {
        name: "OUTBOX_DEAD_LETTER_SIZE",
        keys: &["subscriptions.*.failure.dead_letters_max"],
        is_time: false,
        about: "dead letters that may be kept",
    },
    Variable {
        name: "OUTBOX_OPERATION_TIMEOUT",
        keys: &["relay.operation_timeout", "database.operation_timeout"],
        is_time: true,
        about: "longest wait for an answer; seconds, or with a unit",
    },
];

/// Adds those of `variables` that are such settings; others named `OUTBOX_…` are the
/// application's own.
pub(super) fn add(
    entries: &mut Entries,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, text) in variables {
        let Some(variable) = VARIABLES.iter().find(|variable| name == variable.name) else {
            continue;
        };
        let source = Source::Env(variable.name.to_owned());
        let Some(value) = text.to_str().and_then(|text| variable.value(text)) else {
            let wanted = if variable.is_time { "seconds, or a time as 5s" } else { "a number" };
            let text = text.to_string_lossy();
            problems.push(Problem::whole(source, format!("must be {wanted}, not {text:?}")));
            continue;
        };
        let keys: Vec<Key> = variable.keys.iter().flat_map(|key| expanded(key, entries)).collect();
        for key in keys {
            entries.set(key, value.clone(), source.clone());
        }
    }
    problems
}

impl Variable {
    fn value(&self, text: &str) -> Option<Value> {
        let number = text.parse().ok().filter(|number: &u32| *number > 0);
        match number {
            Some(seconds) if self.is_time => Some(Value::String(format!("{seconds}s"))),
            Some(number) => Some(Value::Integer(number.into())),
            None if self.is_time => {
                humantime::parse_duration(text).ok().map(|_| Value::String(text.to_owned()))
            }
            None => None,
        }
    }
}

/// A key with every subscription's name in place of `*`.
fn expanded(key: &str, entries: &Entries) -> Vec<Key> {
    let parts: Key = key.split('.').map(str::to_owned).collect();
    let Some(star) = parts.iter().position(|part| part == "*") else { return vec![parts] };
    let with = |name: String| {
        let mut key = parts.clone();
        key[star] = name;
        key
    };
    entries.names("subscriptions").into_iter().map(with).collect()
}

/// The section of the reference page.
pub(super) fn reference() -> String {
    let row = |variable: &Variable| {
        let keys = match variable.keys {
            [] => "–".to_owned(),
            keys => keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "),
        };
        format!("| `{}` | {keys} | {} |\n", variable.name, variable.about)
    };
    format!(
        "\n## Variables of hand-made outboxes\n\nOver the file and below `POSTHASTE_…`; `*` is \
         every subscription.\n\n| variable | key | meaning |\n|---|---|---|\n{}",
        VARIABLES.iter().map(row).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(variables: &[(&str, &str)]) -> (Entries, Vec<Problem>) {
        let mut entries = Entries::default();
        let sink = ["subscriptions", "orders", "sink", "kind"].map(str::to_owned).to_vec();
        entries.set(sink, Value::String("stdout".to_owned()), Source::Default);
        let own = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        let problems = add(&mut entries, variables.iter().map(own));
        (entries, problems)
    }

    fn get(entries: &Entries, key: &str) -> Option<String> {
        let key: Key = key.split('.').map(str::to_owned).collect();
        entries.get(&key).map(|entry| entry.value.to_string())
    }

    #[test]
    fn r43_names_and_defaults_of_hand_made_outboxes_are_accepted() {
        let (entries, problems) = set(&[
            ("OUTBOX_BATCH_SIZE", "10"),
            ("OUTBOX_DELETE_BATCH_SIZE", "50"),
            ("OUTBOX_PROCESS_INTERVAL", "5s"),
            ("OUTBOX_MAX_RETRIES", "3"),
            ("OUTBOX_DEAD_LETTER_SIZE", "1000"),
            ("OUTBOX_OPERATION_TIMEOUT", "30"),
            ("OUTBOX_TABLE", "outbox"),
        ]);
        assert!(problems.is_empty());
        for (key, value) in [
            ("relay.batch_messages", "10"),
            ("relay.idle_interval", "\"5s\""),
            ("subscriptions.orders.failure.attempts", "3"),
            ("subscriptions.orders.failure.dead_letters_max", "1000"),
            ("relay.operation_timeout", "\"30s\""),
            ("database.operation_timeout", "\"30s\""),
        ] {
            assert_eq!(get(&entries, key).as_deref(), Some(value), "{key}");
        }
    }

    #[test]
    fn value_that_is_no_number_or_time_is_named() {
        for (name, value) in [
            ("OUTBOX_BATCH_SIZE", "ten"),
            ("OUTBOX_MAX_RETRIES", "0"),
            ("OUTBOX_PROCESS_INTERVAL", "soon"),
        ] {
            let (_, problems) = set(&[(name, value)]);
            let told = problems.first().map(ToString::to_string).unwrap_or_default();
            assert!(told.contains(name) && told.contains(value), "{told}");
        }
    }
}
