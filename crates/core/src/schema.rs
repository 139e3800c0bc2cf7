//! The validated name of the database schema that Posthaste's objects live in.

use std::{fmt, str::FromStr};

/// A schema name that needs no escaping anywhere: a lower-case letter, then lower-case letters,
/// digits and underscores, 40 characters at most (PostgreSQL cuts names at 63 bytes and the
/// SQLite store uses the name as a prefix of its table names), and not starting with `pg_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SchemaName(String);

/// A schema name that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "schema name {name:?} is not allowed: use a lower-case letter followed by up to 39 lower-case \
     letters, digits or underscores, not starting with pg_, for example \"posthaste\""
)]
pub struct InvalidSchemaName {
    name: String,
}

impl SchemaName {
    /// The name as text, safe to stand in SQL as it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SchemaName {
    fn default() -> Self {
        Self("posthaste".to_owned())
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SchemaName {
    type Err = InvalidSchemaName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let valid = name.len() <= 40
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(allowed)
            && !name.starts_with("pg_")
            && !RESERVED.contains(&name);
        if valid {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidSchemaName { name: name.chars().take(60).collect() })
        }
    }
}

/// Words of the required shape that PostgreSQL reserves: they could not stand unquoted.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "information_schema",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_need_no_quoting_pass() {
        for name in ["posthaste", "a", "outbox_2", &"a".repeat(40)] {
            assert_eq!(name.parse::<SchemaName>().unwrap().as_str(), name);
        }
        let long = "a".repeat(41);
        for name in ["", "2a", "Outbox", "a-b", "a\"b", "a b", "pg_x", "select", "ö", &long] {
            assert!(name.parse::<SchemaName>().is_err(), "{name:?} must be refused");
        }
    }
}
