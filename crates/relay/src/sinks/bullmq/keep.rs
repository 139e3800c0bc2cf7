//! How long a job stays after its end.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

/// Which jobs BullMQ keeps after their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// None of them.
    None,
    /// Whatever comes.
    All,
    /// As many.
    Count(u64),
    /// Those that are younger and, if there is a count, at most as many.
    Younger { age_s: u64, count: Option<u64> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(default, with = "humantime_serde")]
    age: Option<Duration>,
    count: Option<u64>,
}

impl Keep {
    /// As BullMQ writes it, in JSON.
    pub(super) fn write(self, out: &mut String) {
        use fmt::Write as _;
        let _ = match self {
            Self::None => write!(out, "true"),
            Self::All => write!(out, "false"),
            Self::Count(count) => write!(out, "{count}"),
            Self::Younger { age_s, count: None } => write!(out, "{{\"age\":{age_s}}}"),
            Self::Younger { age_s, count: Some(count) } => {
                write!(out, "{{\"age\":{age_s},\"count\":{count}}}")
            }
        };
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeepVisitor)
    }
}

/// Unlike an untagged enum, it says what is wrong within the table.
struct KeepVisitor;

impl<'de> Visitor<'de> for KeepVisitor {
    type Value = Keep;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, a number of jobs, or a table like { age = \"1d\", count = 1000 }")
    }

    fn visit_bool<E>(self, is_removed: bool) -> Result<Keep, E> {
        Ok(if is_removed { Keep::None } else { Keep::All })
    }

    fn visit_u64<E>(self, count: u64) -> Result<Keep, E> {
        Ok(Keep::Count(count))
    }

    fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Keep, E> {
        let count = u64::try_from(count);
        count.map(Keep::Count).map_err(|_| E::custom("a number of jobs is 0 or more"))
    }

    /// From an environment variable.
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Keep, E> {
        match (text.parse(), text.parse()) {
            (Ok(is_removed), _) => self.visit_bool(is_removed),
            (_, Ok(count)) => self.visit_u64(count),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Keep, A::Error> {
        let limits = Limits::deserialize(MapAccessDeserializer::new(map))?;
        match (limits.age.map(|age| age.as_secs()), limits.count) {
            (Some(0), _) => Err(A::Error::custom("age is at least 1s")),
            (Some(age_s), count) => Ok(Keep::Younger { age_s, count }),
            (None, Some(count)) => Ok(Keep::Count(count)),
            (None, None) => Err(A::Error::custom("age or count is missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<String, String> {
        let table: toml::Table = format!("keep = {value}").parse().unwrap();
        let keep: Keep = table["keep"].clone().try_into().map_err(|error| error.to_string())?;
        let mut text = String::new();
        keep.write(&mut text);
        Ok(text)
    }

    #[test]
    fn every_form_is_written_as_bullmq_has_it() {
        for (value, expected) in [
            ("true", "true"),
            ("false", "false"),
            ("0", "0"),
            ("'true'", "true"),
            ("'25'", "25"),
            ("{ count = 3 }", "3"),
            ("{ age = '1h' }", r#"{"age":3600}"#),
            ("{ age = '1500ms', count = 3 }", r#"{"age":1,"count":3}"#),
        ] {
            assert_eq!(read(value).as_deref(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_none_of_them_is_refused_with_what_would_be() {
        for (value, expected) in [
            ("'soon'", "true, false, a number of jobs, or a table"),
            ("[1]", "true, false, a number of jobs, or a table"),
            ("-1", "0 or more"),
            ("{}", "age or count is missing"),
            ("{ age = '0s' }", "at least 1s"),
        ] {
            let refused = read(value).unwrap_err();
            assert!(refused.contains(expected), "{value}: {refused}");
        }
    }
}
