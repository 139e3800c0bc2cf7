//! Values with a form of their own: how they are read, and what an error says to write instead.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use posthaste_core::TopicFilter;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

use super::secret;

/// Where the database is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum DatabaseUrl {
    /// A `postgres://` or `postgresql://` URL.
    Postgres(String),
    /// The file of a `sqlite:` URL.
    Sqlite(PathBuf),
}

impl DatabaseUrl {
    /// Whether a password stands in the URL.
    pub(crate) fn has_password(&self) -> bool {
        matches!(self, Self::Postgres(url) if secret::masked_url(url) != *url)
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let remedy = "write postgres://user@host:5432/database or sqlite:PATH";
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            let parsed = url::Url::parse(text);
            return match parsed {
                Ok(_) => Ok(Self::Postgres(text.to_owned())),
                Err(error) => Err(format!("is not a valid URL ({error}); {remedy}")),
            };
        }
        match text.strip_prefix("sqlite:") {
            None => Err(format!("has an unknown scheme; {remedy}")),
            // `sqlite:///a/b` is how other tools write the absolute path /a/b.
            Some(path) => match path.strip_prefix("//").unwrap_or(path) {
                "" => Err(format!("names no file; {remedy}")),
                path => Ok(Self::Sqlite(PathBuf::from(path))),
            },
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without the password.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => f.write_str(&secret::masked_url(url)),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

/// An optional [`DatabaseUrl`].
pub(super) mod optional_url {
    use super::{DatabaseUrl, Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde hands the field over as it is")]
    pub(crate) fn serialize<S: Serializer>(
        url: &Option<DatabaseUrl>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match url {
            None => serializer.serialize_none(),
            Some(url) => serializer.collect_str(url),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DatabaseUrl>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

/// An optional address with its port.
pub(super) mod optional_address {
    use std::net::SocketAddr;

    use super::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde hands the field over as it is")]
    pub(crate) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            None => serializer.serialize_none(),
            Some(address) => serializer.collect_str(address),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |_| {
            "is not an address with a port; write for example 127.0.0.1:9464, or [::]:9464 for \
             every address of this machine"
        };
        text.parse().map(Some).map_err(wrong).map_err(serde::de::Error::custom)
    }
}

/// Units of a size, the largest first.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes as people write it.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let of_unit = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let size = number.parse::<u64>().ok().zip(of_unit);
    size.and_then(|(number, (_, bytes))| number.checked_mul(*bytes)).ok_or_else(|| {
        "is not a size; write a whole number and a unit, for example 500MB or 20GiB".to_owned()
    })
}

/// A number of bytes in the largest unit that leaves no rest.
pub(crate) fn shown_size(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().find(fits).unwrap_or(&("B", 1));
    format!("{}{name}", bytes / unit)
}

/// An optional number of bytes.
pub(super) mod optional_size {
    use super::{Deserialize, Deserializer, Serializer, shown_size, size};

    #[expect(clippy::ref_option, reason = "serde hands the field over as it is")]
    pub(crate) fn serialize<S: Serializer>(
        bytes: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            None => serializer.serialize_none(),
            Some(bytes) => serializer.serialize_str(&shown_size(*bytes)),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        let text = String::deserialize(deserializer)?;
        size(&text).map(Some).map_err(serde::de::Error::custom)
    }
}

/// A value that is written as text.
pub(super) mod text {
    use super::{Deserialize, Deserializer, FromStr, Serializer, fmt};

    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Topic patterns, checked but kept as written.
pub(super) mod topics {
    use serde::Serialize as _;

    use super::{Deserialize, Deserializer, Serializer, TopicFilter};

    pub(crate) fn serialize<S: Serializer>(
        topics: &Vec<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        topics.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<String>, D::Error> {
        let topics = deserialize_any(deserializer)?;
        if topics.is_empty() {
            let none = "names no topic; write [\"*\"] for all";
            return Err(serde::de::Error::custom(none));
        }
        Ok(topics)
    }

    /// The same, where there may be none.
    pub(crate) fn deserialize_any<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<String>, D::Error> {
        let topics = Vec::<String>::deserialize(deserializer)?;
        TopicFilter::new(&topics).map_err(serde::de::Error::custom)?;
        Ok(topics)
    }
}

/// Levels, alone or by module. Checked here because the filter's own parser takes a misspelt
/// level for the name of a module.
pub(super) fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = String::deserialize(deserializer)?;
    for directive in text.split(',') {
        let (module, level) = directive.split_once('=').unwrap_or(("*", directive));
        if module.is_empty() || !LEVELS.contains(&level) {
            return Err(D::Error::custom(
                "is not a level; write error, warn, info, debug or trace, or levels by module \
                 such as info,posthaste_relay=debug",
            ));
        }
    }
    Ok(text)
}

/// A duration as the configuration writes it.
pub(super) fn duration(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_decide_the_store() {
        let postgres = "postgresql://u@h/d";
        assert_eq!(postgres.parse(), Ok(DatabaseUrl::Postgres(postgres.to_owned())));
        for (text, path) in [("sqlite:a.db", "a.db"), ("sqlite:///x/a.db", "/x/a.db")] {
            assert_eq!(text.parse(), Ok(DatabaseUrl::Sqlite(PathBuf::from(path))));
        }
        for text in ["", "sqlite:", "mysql://h/d", "host=h", "postgres://h:port/"] {
            assert!(text.parse::<DatabaseUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_whole_numbers_with_a_unit() {
        for (text, bytes) in [("20GiB", 20 << 30), ("500 MB", 500_000_000), ("7kb", 7_000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "20", "GiB", "1.5GiB", "-1B", "99999999999TiB", "5 apples"] {
            assert!(size(text).is_err(), "{text}");
        }
        let shown = [0, 1, 1_000, 1 << 20, 1_500_000, 20 << 30].map(shown_size);
        assert_eq!(shown, ["0B", "1B", "1kB", "1MiB", "1500kB", "20GiB"]);
    }

    #[test]
    fn password_of_a_url_shows_nowhere() {
        let url: DatabaseUrl = "postgres://u:hunter2@h/d".parse().unwrap();
        assert!(url.has_password());
        assert_eq!(format!("{url} {url:?}"), "postgres://u:•••@h/d postgres://u:•••@h/d");
    }
}
