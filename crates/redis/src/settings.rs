//! The settings that all that use Redis share, and their check.

use std::{fmt, path::PathBuf, time::Duration};

use redis::{ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};
use schemars::{JsonSchema, Schema};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use url::Url;

use super::sentinel::{self, Sentinels};
use crate::InvalidSettings;

/// Where a Redis server is and how to log in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// `redis://host:port/database`, or `rediss://` for TLS; user and password may stand in it.
    /// Port 6379 and database 0 unless given. Any node of a Redis Cluster does: the one that holds
    /// the names in use is found from there. With `sentinels` the host is the name of the primary.
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
    /// Sentinels, each `host:port` (26379 unless given). `url` then names the primary as they do, and
    /// no port: `redis://mymaster/0`. They are asked at every connect. TLS holds for them too.
    #[serde(default)]
    sentinels: Vec<String>,
    /// User of the sentinels' access control list.
    #[serde(default)]
    sentinel_username: Option<String>,
    /// Password of the sentinels; none unless given.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schemars(with = "Option<String>")]
    sentinel_password: Option<SecretString>,
    /// File with the password of the sentinels; read at every connect.
    #[serde(default)]
    sentinel_password_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust with `rediss://`; those of the system
    /// unless given. Read at every connect. The certificate and its host name are always checked.
    #[serde(default)]
    ca_file: Option<PathBuf>,
    /// Longest wait for an answer, 100 ms to 10 minutes. What the server did of a batch that was
    /// not answered is unknown, and the batch is repeated.
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
pub struct RedisServer {
    /// Address, database and, unless it comes from a file, the password. Its `Debug` form hides
    /// the password.
    pub(super) info: ConnectionInfo,
    pub(super) password_file: Option<PathBuf>,
    pub(super) sentinels: Option<Sentinels>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) is_tls: bool,
    pub(super) operation_timeout: Duration,
    pub(super) connect_timeout: Duration,
}

impl RedisSettings {
    /// Takes these settings out of a table and leaves its own. (`serde(flatten)`
    /// would do, but its errors do not name the key.)
    pub fn take_from(table: &mut toml::Table) -> Result<Self, InvalidSettings> {
        let schema = schemars::schema_for!(Self);
        let properties = schema.get("properties").and_then(Value::as_object);
        let keys = properties.into_iter().flat_map(serde_json::Map::keys);
        let own: toml::Table = keys.filter_map(|key| table.remove_entry(key.as_str())).collect();
        own.try_into().map_err(|error| invalid("", &error.to_string()))
    }

    /// Adds these settings to the schema of a table's own.
    pub fn extend_schema(mut schema: Schema) -> Schema {
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
    pub fn check(self) -> Result<RedisServer, InvalidSettings> {
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
        let sentinels = self.check_sentinels(&url)?;
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
            sentinels,
            ca_file: self.ca_file,
            is_tls,
            operation_timeout: self.operation_timeout,
            connect_timeout: self.connect_timeout,
        })
    }

    fn check_sentinels(&self, url: &Url) -> Result<Option<Sentinels>, InvalidSettings> {
        let (user, password) = (&self.sentinel_username, &self.sentinel_password);
        let file = &self.sentinel_password_file;
        if password.is_some() && file.is_some() {
            let message = "the sentinels' password is given twice: keep one of sentinel_password \
                           and sentinel_password_file";
            return Err(invalid("sentinel_password", message));
        }
        let own = [
            ("sentinel_username", user.is_some()),
            ("sentinel_password", password.is_some()),
            ("sentinel_password_file", file.is_some()),
        ];
        if self.sentinels.is_empty() {
            let Some((key, _)) = own.into_iter().find(|(_, is_given)| *is_given) else {
                return Ok(None);
            };
            let message = format!("{key} needs sentinels: name them, or remove {key}");
            return Err(invalid(key, &message));
        }
        if url.port().is_some() {
            let message = "with sentinels, url names the primary as they do, and no port: write \
                           redis://mymaster/0";
            return Err(invalid("url", message));
        }
        let hosts = self.sentinels.iter().map(|text| sentinel(text));
        let mut login = RedisConnectionInfo::default();
        if let Some(user) = user {
            login = login.set_username(user);
        }
        if let Some(password) = password {
            login = login.set_password(password.expose_secret());
        }
        Ok(Some(Sentinels {
            hosts: hosts.collect::<Result<_, _>>()?,
            master: url.host_str().unwrap_or_default().to_owned(),
            login,
            password_file: file.clone(),
        }))
    }
}

impl RedisServer {
    /// `host:port`, or the primary's name with its sentinels, as errors name the server.
    pub fn address(&self) -> String {
        let Some(Sentinels { hosts, master, .. }) = &self.sentinels else {
            return self.info.addr().to_string();
        };
        let hosts = hosts.iter().map(|(host, port)| format!("{host}:{port}"));
        format!("{master} (sentinels {})", hosts.collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}/{}", self.address(), self.info.redis_settings().db())
    }
}

fn parse_url(text: &str) -> Result<Url, InvalidSettings> {
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

/// `host:port` of a sentinel.
fn sentinel(text: &str) -> Result<(String, u16), InvalidSettings> {
    let refused = || {
        let message = format!("sentinels: {text:?} is no host:port; write sentinel.example:26379");
        invalid("sentinels", &message)
    };
    let url = Url::parse(&format!("redis://{text}")).map_err(|_| refused())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(refused)?;
    if !url.username().is_empty() || url.password().is_some() || !url.path().is_empty() {
        return Err(refused());
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, url.port().unwrap_or(sentinel::PORT)))
}

fn check_time(key: &str, value: Duration) -> Result<(), InvalidSettings> {
    const LOW: Duration = Duration::from_millis(100);
    const HIGH: Duration = Duration::from_mins(10);
    if (LOW..=HIGH).contains(&value) {
        return Ok(());
    }
    Err(invalid(key, &format!("{key} must lie between {LOW:?} and {HIGH:?}, not {value:?}")))
}

fn invalid(key: &str, message: &str) -> InvalidSettings {
    InvalidSettings { key: key.to_owned(), message: message.to_owned() }
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
