//! What can be set of the server. Every wait, queue and size has its limit here; the configuration shows them all.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{clock, proxy::network, streams::StreamSettings, tokens::Scope};

/// The server: the HTTP API, and which parts run beside it in `posthaste serve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port. Another address than this machine's own, such as 127.0.0.1, needs tokens.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Whether `posthaste serve` publishes the configured subscriptions.
    pub relay: bool,
    /// Whether `posthaste serve` runs the configured workers.
    pub workers: bool,
    /// Who may do what, one table per token: `posthaste tokens new NAME` makes them. Without any, everybody on this
    /// machine may do everything.
    pub tokens: BTreeMap<String, TokenSettings>,
    /// Lets everybody who reaches the address do everything, without a token. For networks that are yours alone.
    pub allow_anonymous: bool,
    /// Names by which the server may be called, such as `posthaste.example.org`, besides localhost, 127.0.0.1 and
    /// `[::1]`, without a port. Calls by other names are refused on an address of this machine alone, and elsewhere once a
    /// name is set; without tokens addresses are taken as well, as long as none is set.
    pub hosts: Vec<String>,
    /// Origins whose pages may call the server from a browser, such as `https://admin.example.org`. None unless set.
    pub cors_origins: Vec<String>,
    /// Addresses and networks, such as `10.0.0.0/8`, of proxies in front of the server: what their headers
    /// `X-Forwarded-For` and `X-Forwarded-Host` say is believed. With one, tokens are needed on every address.
    pub trusted_proxies: Vec<String>,
    /// The path under which a proxy offers the server, such as `/posthaste`; it may cut it off or leave it.
    pub base_path: String,
    /// TLS: https instead of http.
    pub tls: TlsSettings,
    /// Connections at once (1 to 100,000), or fewer where the process may not have as many file descriptors; those beyond
    /// it wait to be accepted.
    pub connections_max: usize,
    /// Longest wait for the headers of a request, counted from the last answer or the beginning of the connection: so
    /// it is as well how long a connection may be idle (100ms to 10m).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub headers_timeout: Duration,
    /// Longest wait for the body of a request (100ms to 10m).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub body_timeout: Duration,
    /// Longest work on a request, its body included (100ms to 10m).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub request_timeout: Duration,
    /// How long a client may take nothing of an answer (100ms to 10m).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub write_timeout: Duration,
    /// Bytes of a request's head: its first line and its headers (8192 to 1048576).
    pub headers_bytes_max: usize,
    /// Bytes of a body (1024 to 67108864).
    pub body_bytes_max: usize,
    /// Live streams at once (1 to 100,000).
    pub streams_max: usize,
    /// Those of one token (1 to 100,000).
    pub streams_per_token_max: usize,
    /// After so long without an event there is a comment in a stream, so that nobody on the way takes the connection for
    /// dead. For tests: configurations have no such key.
    #[serde(skip)]
    pub stream_silence_max: Duration,
    /// How long a ticket for a stream lasts (1s to 1h).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ticket_lifetime: Duration,
    /// Jobs that wait to be written (1 to 100,000), those with an id or a unique key of the caller's in a queue of their
    /// own; with more, submissions are answered with 503.
    pub queue_jobs_max: usize,
    /// Payload bytes of jobs that wait to be written; and, counted apart, bytes of bodies that have come in part or are
    /// being worked on (1048576 to 1073741824). What comes beyond it is answered with 503.
    pub queue_bytes_max: usize,
    /// Longest wait for the database in an answer about health (100ms to 1m).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub health_timeout: Duration,
    /// How long requests in progress may go on when the server is to end (0s to 10m).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub drain_timeout: Duration,
}

/// A token, without its secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// SHA-256 of its secret in hexadecimal digits; two of them while one replaces the other.
    pub secret_sha256: Vec<String>,
    /// What it may do: `view`, `payloads`, `enqueue`, `operate`; `admin` is all of it.
    pub scopes: Vec<Scope>,
    /// Beginnings of the topics whose jobs it may see and submit, such as `orders.`; all topics unless set.
    pub topics: Option<Vec<String>>,
    /// Organisations whose entities it may see and take on; those of all unless set. With it the token has to do with no
    /// topic, unless `topics` names some.
    pub organizations: Option<Vec<String>>,
    /// When it ends, as `2027-01-01T00:00:00Z`; never unless set.
    pub expires: Option<String>,
}

/// Certificates for https.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// PEM file with the server's certificate and those between it and its authority.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
    /// PEM file with the authorities that clients' certificates must come from; clients need none unless set.
    pub client_ca: Option<PathBuf>,
}

impl Default for ServerSettings {
    /// For one machine: a few hundred clients, and some ten megabytes for what they send.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8_480)),
            relay: true,
            workers: true,
            tokens: BTreeMap::new(),
            allow_anonymous: false,
            hosts: Vec::new(),
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            base_path: String::new(),
            tls: TlsSettings::default(),
            connections_max: 10_000,
            headers_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(15),
            headers_bytes_max: 32 << 10,
            body_bytes_max: 1 << 20,
            streams_max: 5_000,
            streams_per_token_max: 2_000,
            stream_silence_max: Duration::from_secs(20),
            ticket_lifetime: Duration::from_mins(5),
            queue_jobs_max: 2_048,
            queue_bytes_max: 64 << 20,
            health_timeout: Duration::from_secs(3),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl ServerSettings {
    /// What of this is about streams.
    pub(crate) fn streams(&self) -> StreamSettings {
        StreamSettings {
            open_max: self.streams_max,
            open_per_caller_max: self.streams_per_token_max,
            ..StreamSettings::default()
        }
    }

    /// Whether only programs of this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// Checks what one value alone does not show; the error names the key below `server`.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), String> {
        self.check_times()?;
        let sizes = [
            ("connections_max", self.connections_max, 1, 100_000),
            ("headers_bytes_max", self.headers_bytes_max, 8 << 10, 1 << 20),
            ("body_bytes_max", self.body_bytes_max, 1 << 10, 64 << 20),
            ("streams_max", self.streams_max, 1, 100_000),
            ("streams_per_token_max", self.streams_per_token_max, 1, 100_000),
            ("queue_jobs_max", self.queue_jobs_max, 1, 100_000),
            ("queue_bytes_max", self.queue_bytes_max, 1 << 20, 1 << 30),
        ];
        for (key, value, low, high) in sizes {
            if !(low..=high).contains(&value) {
                return Err(format!("{key} must lie between {low} and {high}, not {value}"));
            }
        }
        for (name, token) in &self.tokens {
            check_name(name)?;
            token.validate().map_err(|text| format!("tokens.{name}.{text}"))?;
        }
        self.check_digests()?;
        if let Some(wrong) = self.hosts.iter().find(|host| !is_host(host)) {
            let rule = "must be names such as posthaste.example.org, without a port";
            return Err(format!("hosts {rule}, not {wrong:?}"));
        }
        if let Some(origin) = self.cors_origins.iter().find(|origin| !is_origin(origin)) {
            let rule = "must be origins such as https://admin.example.org, without a path";
            return Err(format!("cors_origins {rule}, not {origin:?}"));
        }
        if let Some(wrong) = self.trusted_proxies.iter().find(|text| network(text).is_none()) {
            let rule = "must be addresses or networks such as 10.0.0.0/8";
            return Err(format!("trusted_proxies {rule}, not {wrong:?}"));
        }
        if !is_base_path(&self.base_path) {
            let rule = "must be a path such as /posthaste, without a slash at its end";
            return Err(format!("base_path {rule}, not {:?}", self.base_path));
        }
        match (&self.tls.certificate, &self.tls.key, &self.tls.client_ca) {
            (Some(_), None, _) => Err("tls.key is missing beside tls.certificate".to_owned()),
            (None, Some(_), _) => Err("tls.certificate is missing beside tls.key".to_owned()),
            (None, None, Some(_)) => {
                Err("tls.client_ca must stand beside tls.certificate: remove it".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// A secret is one token's alone.
    fn check_digests(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        for (name, token) in &self.tokens {
            for digest in &token.secret_sha256 {
                let owner = owners.insert(crate::tokens::digest_of_hex(digest), name);
                if let Some(owner) = owner.filter(|owner| *owner != name) {
                    return Err(format!(
                        "tokens.{name}.secret_sha256 must be its own, and tokens.{owner} has it as well: make another one \
                         with `posthaste tokens new`"
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), String> {
        let low = Duration::from_millis(100);
        let high = Duration::from_mins(10);
        let times = [
            ("headers_timeout", self.headers_timeout, low, high),
            ("body_timeout", self.body_timeout, low, high),
            ("request_timeout", self.request_timeout, low, high),
            ("write_timeout", self.write_timeout, low, high),
            ("health_timeout", self.health_timeout, low, Duration::from_mins(1)),
            ("drain_timeout", self.drain_timeout, Duration::ZERO, high),
            (
                "ticket_lifetime",
                self.ticket_lifetime,
                Duration::from_secs(1),
                Duration::from_hours(1),
            ),
        ];
        for (key, value, low, high) in times {
            if !(low..=high).contains(&value) {
                return Err(format!("{key} must lie between {low:?} and {high:?}, not {value:?}"));
            }
        }
        Ok(())
    }

    /// Whether everybody on this machine may do everything, and nobody else is meant to.
    pub(crate) fn is_open(&self) -> bool {
        self.tokens.is_empty() && !self.allow_anonymous
    }

    /// What keeps these settings from being served, beyond single values.
    pub(crate) fn refusal(&self) -> Option<String> {
        if !self.is_open() {
            return None;
        }
        let (what, instead) = if !self.is_loopback() {
            (
                format!("server.listen = \"{}\" can be reached", self.listen),
                "or listen on 127.0.0.1, ",
            )
        } else if !self.trusted_proxies.is_empty() {
            ("the proxies of server.trusted_proxies are reached".to_owned(), "")
        } else {
            return None;
        };
        Some(format!(
            "{what} from other machines, and there are no tokens: make one with `posthaste tokens new NAME --scopes \
             admin`, {instead}or set server.allow_anonymous = true where everybody who reaches it may do everything"
        ))
    }
}

/// Who calls without a token: from this machine, or from anywhere.
pub(crate) const OWN_NAMES: [&str; 2] = ["loopback", "anonymous"];

/// Names stand in the audit trail, in log lines and in what idempotency keys are kept under.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    if OWN_NAMES.contains(&name) {
        return Err(format!(
            "tokens must not be named {name:?}, as whoever calls without a token is"
        ));
    }
    if starts_well && name.len() <= 64 && name.chars().all(allowed) {
        return Ok(());
    }
    let rule =
        "must be named by 1 to 64 lower-case letters, digits, _ or - that start with a letter";
    Err(format!("tokens {rule}, not {name:?}"))
}

/// A name or an address, as a `Host` has it before its port.
fn is_host(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let v6 = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    v6.map_or_else(
        || !text.is_empty() && text.chars().all(is_plain),
        |v6| v6.parse::<std::net::Ipv6Addr>().is_ok(),
    )
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_host_char = |c: char| c.is_ascii_graphic() && !"/?#@\\\"".contains(c);
    host.is_some_and(|host| !host.is_empty() && host.chars().all(is_host_char))
}

fn is_base_path(text: &str) -> bool {
    let is_segment = |segment: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_~.".contains(c);
        !matches!(segment, "" | "." | "..") && segment.chars().all(is_plain)
    };
    text.is_empty() || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment))
}

impl TokenSettings {
    /// Whether its time is over, on this machine's clock.
    pub fn has_expired(&self) -> bool {
        let end = self.expires.as_deref().and_then(clock::read);
        end.is_some_and(|end| end.0 <= clock::now().0)
    }

    fn validate(&self) -> Result<(), String> {
        if self.secret_sha256.is_empty() || self.secret_sha256.len() > 2 {
            return Err("secret_sha256 must hold one digest, or two while one replaces the other"
                .to_owned());
        }
        if self.secret_sha256.iter().any(|digest| crate::tokens::digest_of_hex(digest).is_none()) {
            let rule = "must be 64 hexadecimal digits, as `posthaste tokens new` prints them";
            return Err(format!("secret_sha256 {rule}"));
        }
        if self.scopes.is_empty() {
            return Err("scopes is missing; name what the token may do".to_owned());
        }
        let is_topic_char = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
        let is_beginning = |topic: &String| !topic.is_empty() && topic.chars().all(is_topic_char);
        if let Some(wrong) = self.topics.iter().flatten().find(|topic| !is_beginning(topic)) {
            let rule =
                "must be beginnings of topics such as orders. (remove the key for all topics)";
            return Err(format!("topics {rule}, not {wrong:?}"));
        }
        let is_id = |id: &String| (1..=256).contains(&id.len()) && !id.contains(char::is_control);
        if let Some(wrong) = self.organizations.iter().flatten().find(|id| !is_id(id)) {
            let rule = "must be ids of 1 to 256 bytes without control characters";
            return Err(format!("organizations {rule}, not {wrong:?}"));
        }
        match &self.expires {
            Some(text) if clock::read(text).is_none() => {
                Err(format!("expires must be a time such as 2027-01-01T00:00:00Z, not {text:?}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_need_no_token() {
        let settings = ServerSettings::default();
        assert_eq!(settings.validate(), Ok(()));
        assert_eq!(settings.refusal(), None);
    }

    #[test]
    fn address_of_other_machines_needs_tokens_or_a_word() {
        let listen = "0.0.0.0:80".parse().unwrap();
        let open = ServerSettings { listen, ..ServerSettings::default() };
        let refusal = open.refusal().unwrap();
        for part in ["server.listen = \"0.0.0.0:80\"", "tokens new", "server.allow_anonymous"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        let behind = vec!["127.0.0.1".to_owned()];
        let behind = ServerSettings { trusted_proxies: behind, ..ServerSettings::default() };
        assert!(behind.refusal().unwrap().contains("server.trusted_proxies"));
        let told = ServerSettings { allow_anonymous: true, ..open.clone() };
        assert_eq!(told.refusal(), None);
        let tokens = BTreeMap::from([("a".to_owned(), TokenSettings::default())]);
        assert_eq!(ServerSettings { tokens, ..open }.refusal(), None);
    }

    #[test]
    fn a_broken_rule_names_its_key() {
        let token = TokenSettings {
            secret_sha256: vec!["00".repeat(32)],
            scopes: vec![Scope::View],
            ..TokenSettings::default()
        };
        let with = |token| ServerSettings {
            tokens: BTreeMap::from([("ci".to_owned(), token)]),
            ..ServerSettings::default()
        };
        assert_eq!(with(token.clone()).validate(), Ok(()));
        let mut twins = with(token.clone());
        let upper = vec!["00".repeat(32).to_uppercase(), "ab".repeat(32)];
        let twin = TokenSettings { secret_sha256: upper, ..token.clone() };
        twins.tokens.insert("twin".to_owned(), twin);
        let said = twins.validate().unwrap_err();
        assert!(said.starts_with("tokens.twin.secret_sha256 must be its own"), "{said}");
        for name in OWN_NAMES {
            let tokens = BTreeMap::from([(name.to_owned(), token.clone())]);
            let own = ServerSettings { tokens, ..ServerSettings::default() };
            assert!(own.validate().unwrap_err().starts_with("tokens must not be named"), "{name}");
        }
        for host in ["a:80", "*", "", "https://a", "[::1]:80", "::1"] {
            let hosts = vec![host.to_owned()];
            let wrong = ServerSettings { hosts, ..ServerSettings::default() };
            assert!(wrong.validate().unwrap_err().starts_with("hosts must be"), "{host}");
        }
        let hosts = ["post.example", "192.0.2.7", "[::1]"].map(str::to_owned).to_vec();
        assert_eq!(ServerSettings { hosts, ..ServerSettings::default() }.validate(), Ok(()));
        let short = TokenSettings { secret_sha256: vec!["ab".to_owned()], ..token.clone() };
        assert!(with(short).validate().unwrap_err().starts_with("tokens.ci.secret_sha256 must"));
        let never = TokenSettings { expires: Some("never".to_owned()), ..token.clone() };
        assert!(with(never).validate().unwrap_err().starts_with("tokens.ci.expires must"));
        let nothing = TokenSettings { scopes: Vec::new(), ..token };
        assert!(with(nothing).validate().unwrap_err().starts_with("tokens.ci.scopes is missing"));
        let origins = ServerSettings {
            cors_origins: vec!["https://a.example/path".to_owned()],
            ..ServerSettings::default()
        };
        assert!(origins.validate().unwrap_err().starts_with("cors_origins must"));
        let wrong = |base_path: &str| {
            let base_path = base_path.to_owned();
            ServerSettings { base_path, ..ServerSettings::default() }.validate()
        };
        assert_eq!(wrong("/a/b-c"), Ok(()));
        for path in ["a", "/", "/a/", "/a//b", "/../a", "/ä"] {
            assert!(wrong(path).unwrap_err().starts_with("base_path must"), "{path}");
        }
        let proxies = vec!["10.0.0.0/33".to_owned()];
        let proxies = ServerSettings { trusted_proxies: proxies, ..ServerSettings::default() };
        assert!(proxies.validate().unwrap_err().starts_with("trusted_proxies must"));
        let zero = ServerSettings { body_timeout: Duration::ZERO, ..ServerSettings::default() };
        assert!(zero.validate().unwrap_err().starts_with("body_timeout must"));
    }
}
