//! What figures depend on and must be read with: processors, memory, kernel, compiler, servers and
//! their settings.

use std::{collections::BTreeMap, fs, process::Command, thread};

use posthaste_testkit::failure::{During, Result};
use serde::Serialize;
use serde_json::Value;

use crate::{report::rounded, servers::Servers};

/// The settings of PostgreSQL that change these figures most.
const POSTGRES_SETTINGS: [&str; 7] = [
    "autovacuum",
    "fsync",
    "full_page_writes",
    "max_wal_size",
    "shared_buffers",
    "synchronous_commit",
    "wal_level",
];
const REDIS_SETTINGS: [&str; 3] = ["appendonly", "appendfsync", "save"];
/// Anything else that keeps a processor busy spoils the figures.
const LOAD_AVERAGE_QUIET: f64 = 0.5;

/// The machine and the servers of one call.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    memory_gib: f64,
    kernel: String,
    /// Over the minute before the start.
    load_average: f64,
    rustc: String,
    posthaste: &'static str,
    postgres: String,
    postgres_settings: BTreeMap<String, String>,
    redis: String,
    redis_settings: BTreeMap<String, String>,
}

impl Machine {
    /// Asks the kernel, the compiler and both servers.
    pub(crate) async fn of(servers: &Servers) -> Result<Self> {
        let (postgres, postgres_settings) = postgres(servers).await?;
        let (redis, redis_settings) = redis(servers)?;
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Ok(Self {
            cores: thread::available_parallelism().map_or(0, usize::from),
            processor: proc_field("/proc/cpuinfo", "model name"),
            memory_gib: rounded(memory_gib(), 1),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            load_average: load
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0.0),
            rustc: rustc(),
            posthaste: env!("CARGO_PKG_VERSION"),
            postgres,
            postgres_settings,
            redis,
            redis_settings,
        })
    }

    /// Whether something else was running just before.
    pub(crate) fn is_noisy(&self) -> bool {
        self.load_average > LOAD_AVERAGE_QUIET
    }

    pub(crate) fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self).during("describe the machine")
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let settings = |all: &BTreeMap<String, String>| {
            all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        format!(
            "{} × {}, {} GiB, Linux {}, load average {}\n{}, release build\nPostgreSQL {}: {}\n\
             Redis {}: {}",
            self.cores,
            self.processor,
            self.memory_gib,
            self.kernel,
            self.load_average,
            self.rustc,
            self.postgres,
            settings(&self.postgres_settings),
            self.redis,
            settings(&self.redis_settings)
        )
    }
}

async fn postgres(servers: &Servers) -> Result<(String, BTreeMap<String, String>)> {
    let client = servers.postgres.database().await.connect().await;
    let version = client.query_one("show server_version", &[]).await;
    let version: String = version.during("ask PostgreSQL for its version")?.get(0);
    let sql = "select name, current_setting(name) from pg_settings where name = any($1)";
    let rows = client.query(sql, &[&POSTGRES_SETTINGS.as_slice()]).await;
    let rows = rows.during("ask PostgreSQL for its settings")?;
    let version = version.split_whitespace().next().unwrap_or_default().to_owned();
    Ok((version, rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
}

fn redis(servers: &Servers) -> Result<(String, BTreeMap<String, String>)> {
    let mut redis = servers.redis_client()?;
    let info = redis.query(&[b"INFO", b"server"])?.text();
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    let version = version.unwrap_or("unknown").trim().to_owned();
    let mut settings = BTreeMap::new();
    for name in REDIS_SETTINGS {
        let answer = redis.query(&[b"CONFIG", b"GET", name.as_bytes()])?.list();
        let value = answer.into_iter().nth(1).map(|value| value.text()).unwrap_or_default();
        settings.insert(name.to_owned(), if value.is_empty() { "\"\"".to_owned() } else { value });
    }
    Ok((version, settings))
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output().ok();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "rustc unknown".to_owned())
}

fn memory_gib() -> f64 {
    let text = proc_field("/proc/meminfo", "MemTotal");
    let kib: f64 = text.trim_end_matches(" kB").parse().unwrap_or(0.0);
    kib / 1_024.0 / 1_024.0
}

fn proc_field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_once(':'))
        .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}
