//! What of a Redis server's own settings would lose messages that it has acknowledged.
//!
//! Reads `INFO` and `CONFIG GET` once. A managed server that refuses them is no error: what could
//! not be read is said instead.

use std::collections::HashMap;

use redis::{Cmd, FromRedisValue as _};

use crate::RedisConnection;

/// The settings that matter.
const SETTINGS: [&str; 5] =
    ["appendonly", "appendfsync", "save", "maxmemory-policy", "min-replicas-to-write"];

/// What a server says of itself, as far as it lets itself be asked.
#[derive(Debug, Default)]
struct Settings {
    values: HashMap<String, String>,
    /// Why `CONFIG GET` was refused.
    refused: Option<String>,
}

impl RedisConnection {
    /// Names each setting of the server that threatens messages, with the remedy; and `more`.
    pub async fn preflight(&self, more: Vec<String>) -> Vec<String> {
        let findings = findings(&Settings::read(self).await);
        let address = &self.address;
        let findings = findings.into_iter().chain(more);
        findings.map(|text| format!("Redis at {address}: {text}")).collect()
    }
}

impl Settings {
    async fn read(connection: &RedisConnection) -> Self {
        let mut settings = Self::default();
        if let Ok(info) = connection.query(&redis::cmd("INFO")).await
            && let Ok(text) = String::from_redis_value(info)
        {
            settings.values.extend(read_info(&text));
        }
        let mut command = Cmd::new();
        command.arg("CONFIG").arg("GET").arg(&SETTINGS);
        let answer = connection.query(&command).await;
        match answer.and_then(|value| Ok(HashMap::from_redis_value(value)?)) {
            // Of `INFO` they are what the server does, of `CONFIG` what it was told: both are kept.
            Ok(values) => settings.values.extend::<HashMap<String, String>>(values),
            Err(error) => settings.refused = Some(error.to_string()),
        }
        settings
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

/// The lines `name:value` of `INFO`.
fn read_info(text: &str) -> impl Iterator<Item = (String, String)> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn findings(settings: &Settings) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(reason) = &settings.refused {
        found.push(format!(
            "its settings could not be read ({reason}); make sure with its provider that it \
             persists (appendonly yes) and evicts nothing (maxmemory-policy noeviction)"
        ));
    }
    let appends = match settings.get("appendonly") {
        Some(value) => Some(value == "yes"),
        None => settings.get("aof_enabled").map(|value| value == "1"),
    };
    let saves = settings.get("save").map(|value| !value.is_empty());
    match (appends, saves) {
        (Some(false), Some(false)) => found.push(
            "it keeps nothing on disk: what it has acknowledged is lost when it restarts; set \
             appendonly yes"
                .to_owned(),
        ),
        (Some(false), _) => found.push(
            "it keeps snapshots at most: what it has acknowledged since the last one is lost in a \
             crash; set appendonly yes"
                .to_owned(),
        ),
        _ => {}
    }
    if settings.get("appendfsync") == Some("no") && appends == Some(true) {
        found.push(
            "appendfsync is \"no\": a crash of its machine loses what the system had not written; \
             set appendfsync everysec, or always"
                .to_owned(),
        );
    }
    let policy = settings.get("maxmemory-policy").or_else(|| settings.get("maxmemory_policy"));
    if let Some(policy) = policy.filter(|policy| policy.starts_with("allkeys-")) {
        found.push(format!(
            "maxmemory-policy is {policy:?}: when its memory is full it evicts messages; set \
             noeviction, or a volatile- policy"
        ));
    }
    let replicas = settings.get("connected_slaves").filter(|replicas| *replicas != "0");
    if let (Some(replicas), Some("0")) = (replicas, settings.get("min-replicas-to-write")) {
        found.push(format!(
            "it has replicas ({replicas}) and takes writes when none of them follows: a primary that \
             is cut off goes on taking messages that a failover drops, and that are then published \
             again; set min-replicas-to-write 1"
        ));
    }
    if settings.get("role") == Some("slave") {
        found.push("it is a replica, which takes no messages; connect to the primary".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(values: &[(&str, &str)], refused: Option<&str>) -> Vec<String> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let values = values.iter().map(own).collect();
        findings(&Settings { values, refused: refused.map(str::to_owned) })
    }

    #[test]
    fn careful_server_is_not_complained_about() {
        let values = [
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
            ("save", ""),
            ("maxmemory-policy", "volatile-lru"),
            ("role", "master"),
            ("connected_slaves", "1"),
            ("min-replicas-to-write", "1"),
        ];
        assert!(said(&values, None).is_empty());
    }

    #[test]
    fn each_threat_is_named_with_its_remedy() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("appendonly", "no"), ("save", "")], "keeps nothing on disk"),
            (&[("appendonly", "no"), ("save", "3600 1")], "snapshots at most"),
            (&[("appendonly", "yes"), ("appendfsync", "no")], "appendfsync is \"no\""),
            (&[("maxmemory-policy", "allkeys-lru")], "\"allkeys-lru\""),
            (&[("connected_slaves", "2"), ("min-replicas-to-write", "0")], "replicas (2)"),
            (&[("role", "slave")], "replica"),
        ];
        for (values, expected) in cases {
            let found = said(values, None);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn refused_config_is_said_and_info_is_believed() {
        let info = "# Memory\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:0\r\n";
        let values: Vec<(String, String)> = read_info(info).collect();
        let values: Vec<(&str, &str)> = values.iter().map(|(n, v)| (&**n, &**v)).collect();
        let found = said(&values, Some("NOPERM"));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("could not be read (NOPERM)"), "{found:?}");
    }
}
