//! The settings that every sink on Redis shares, and their check.

use std::{fmt, path::PathBuf, time::Duration};

use redis::{ConnectionInfo, IntoConnectionInfo as _};
use schemars::{JsonSchema, Schema};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use url::Url;

use crate::sink::InvalidTarget;

/// Where a Redis server is and how to log in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::sinks) struct RedisSettings {
    /// `redis://host:port/database`, or `rediss://` for TLS; user and password may stand in it.
    /// Port 6379 and database 0 unless given.
    #[serde(deserialize_with = "secret")]
    #[schemars(with = "String")]
    url: SecretString,
    /// User of the access control list; the default user unless given.
    #[serde(default)]
    username: Option<String>,
    /// Password.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schemars(with = "Option<String>")]
    password: Option<SecretString>,
    /// File with the password; read at every connect, a line break at its end is ignored.
    #[serde(default)]
    password_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust with `rediss://`; those of the system
    /// unless given. Read at every connect. The certificate and its host name are always checked.
    #[serde(default)]
    ca_file: Option<PathBuf>,
    /// Longest wait for an answer, 100 ms to 10 minutes. What the server did of a batch that was
    /// not answered is unknown, and the batch is published again.
    #[serde(default = "five_seconds", with = "humantime_serde")]
    #[schemars(with = "String")]
    operation_timeout: Duration,
    /// Longest wait for a connection to be ready, 100 ms to 10 minutes.
    #[serde(default = "five_seconds", with = "humantime_serde")]
    #[schemars(with = "String")]
    connect_timeout: Duration,
}

/// Checked settings: what a connection is opened with, again after every fault.
#[derive(Debug)]
pub(in crate::sinks) struct RedisServer {
    /// Address, database and, unless it comes from a file, the password. Its `Debug` form hides
    /// the password.
    pub(super) info: ConnectionInfo,
    pub(super) password_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) is_tls: bool,
    pub(super) operation_timeout: Duration,
    pub(super) connect_timeout: Duration,
}

impl RedisSettings {
    /// Takes these settings out of a sink's table and leaves the sink's own. (`serde(flatten)`
    /// would do, but its errors do not name the key.)
    pub(in crate::sinks) fn take_from(table: &mut toml::Table) -> Result<Self, InvalidTarget> {
        let schema = schemars::schema_for!(Self);
        let properties = schema.get("properties").and_then(Value::as_object);
        let keys = properties.into_iter().flat_map(serde_json::Map::keys);
        let own: toml::Table = keys.filter_map(|key| table.remove_entry(key.as_str())).collect();
        own.try_into().map_err(|error| invalid("", &error.to_string()))
    }

    /// Adds these settings to the schema of a sink's own.
    pub(in crate::sinks) fn extend_schema(mut schema: Schema) -> Schema {
        let shared = schemars::schema_for!(Self);
        for part in ["properties", "required"] {
            match (schema.get_mut(part), shared.get(part)) {
                (Some(Value::Object(own)), Some(Value::Object(shared))) => {
                    own.extend(shared.clone());
                }
                (Some(Value::Array(own)), Some(Value::Array(shared))) => {
                    own.extend(shared.iter().cloned());
                }
                (None, Some(shared)) => drop(schema.insert(part.to_owned(), shared.clone())),
                _ => {}
            }
        }
        schema
    }

    /// Checks what can be checked without the server and its files.
    pub(in crate::sinks) fn check(self) -> Result<RedisServer, InvalidTarget> {
        let url = parse_url(self.url.expose_secret())?;
        let is_tls = url.scheme() == "rediss";
        if self.ca_file.is_some() && !is_tls {
            let message = "ca_file needs TLS: write rediss:// in url, or remove ca_file";
            return Err(invalid("ca_file", message));
        }
        let given = [url.password().is_some(), self.password.is_some()];
        let given = given.into_iter().chain([self.password_file.is_some()]);
        if given.filter(|is_given| *is_given).count() > 1 {
            let message = "the password is given more than once: keep one of url, password and \
                           password_file";
            return Err(invalid("password", message));
        }
        if self.username.is_some() && !url.username().is_empty() {
            let message = "the user is given twice: remove username, or the user in url";
            return Err(invalid("username", message));
        }
        check_time("operation_timeout", self.operation_timeout)?;
        check_time("connect_timeout", self.connect_timeout)?;
        // The cause only says which part of the URL is at fault; the URL itself may hold a password.
        let info = url.into_connection_info().map_err(|error| {
            invalid("url", &format!("url is not valid: {error}; write redis://host:port/database"))
        })?;
        let mut login = info.redis_settings().clone();
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password.expose_secret());
        }
        Ok(RedisServer {
            info: info.set_redis_settings(login),
            password_file: self.password_file,
            ca_file: self.ca_file,
            is_tls,
            operation_timeout: self.operation_timeout,
            connect_timeout: self.connect_timeout,
        })
    }
}

impl RedisServer {
    /// `host:port`, as errors name the server.
    pub(in crate::sinks) fn address(&self) -> String {
        self.info.addr().to_string()
    }
}

impl fmt::Display for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}/{}", self.address(), self.info.redis_settings().db())
    }
}

fn parse_url(text: &str) -> Result<Url, InvalidTarget> {
    let expected = "write redis://host:port/database, or rediss:// for TLS";
    let url = Url::parse(text)
        .map_err(|error| invalid("url", &format!("url is not valid: {error}; {expected}")))?;
    if !matches!(url.scheme(), "redis" | "rediss") {
        let message = format!("url has the scheme {:?}; {expected}", url.scheme());
        return Err(invalid("url", &message));
    }
    // The client library would take `#insecure` as leave not to check certificates.
    if url.query().is_some() || url.fragment().is_some() {
        let message =
            format!("url may not hold a ? or # part (in a password write %3F or %23); {expected}");
        return Err(invalid("url", &message));
    }
    Ok(url)
}

fn check_time(key: &str, value: Duration) -> Result<(), InvalidTarget> {
    const LOW: Duration = Duration::from_millis(100);
    const HIGH: Duration = Duration::from_mins(10);
    if (LOW..=HIGH).contains(&value) {
        return Ok(());
    }
    Err(invalid(key, &format!("{key} must lie between {LOW:?} and {HIGH:?}, not {value:?}")))
}

fn invalid(key: &str, message: &str) -> InvalidTarget {
    InvalidTarget { key: key.to_owned(), message: message.to_owned() }
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

/// Reads a secret without ever putting what was there into the error.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    match toml::Value::deserialize(deserializer) {
        Ok(toml::Value::String(text)) => Ok(text.into()),
        _ => Err(D::Error::custom("must be a string in quotation marks")),
    }
}

fn optional_secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SecretString>, D::Error> {
    secret(d).map(Some)
}
