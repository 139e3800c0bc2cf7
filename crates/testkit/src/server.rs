//! What every private server has in common: a guarded directory, a port, a log, and a start with a
//! limit.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::account::Account;
use crate::cache;
use crate::error::TestkitError;
use crate::guard::Guard;
use crate::wait::within;

/// A fresh server is up in less than a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A restart may have to recover what was written before a crash.
const RESTART_LIMIT: Duration = Duration::from_mins(1);
/// Two processes that choose ports at the same moment collide rarely; eight times in a row is
/// another defect.
const PORT_ATTEMPTS: u32 = 8;
/// Below 32768, where Linux takes the ports of outgoing connections from: such a connection could
/// otherwise take a killed server's port before its restart.
const PORTS: std::ops::Range<u16> = 15_000..32_000;
/// Lines of the log shown with an error.
const LOG_TAIL_LINES: usize = 30;

/// A server program under its guard.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    pub(crate) account: Account,
    /// Holds `log`, written by the guard, beside whatever the server keeps.
    pub(crate) root: PathBuf,
    guard: Mutex<Guard>,
    /// Set once by `launch`.
    port: AtomicU16,
    /// Written by each start, 0 before the first.
    pid: AtomicU32,
    /// Set by the owner of the process-wide server: what tests share they must not stop.
    pub(crate) is_shared: bool,
}

/// The signs of life by which a kind of server tells that it is ready: its process id and its log
/// since the start.
pub(crate) type IsReady<'a> = &'a dyn Fn(u32, &str) -> bool;

impl Server {
    /// Makes the guard and the directory; `command` gets that directory and returns the server's
    /// command line.
    pub(crate) fn prepare(
        name: &'static str,
        account: Account,
        command: impl FnOnce(&Path) -> Vec<std::ffi::OsString>,
    ) -> Result<Self, TestkitError> {
        let unique = &Uuid::new_v4().simple().to_string()[..12];
        let directory = format!("posthaste-{}-{unique}", name.to_lowercase());
        let root = cache::temporary(account).join(directory);
        let command = command(&root);
        let words: Vec<&OsStr> = command.iter().map(AsRef::as_ref).collect();
        let guard = Mutex::new(Guard::new(account, &root, &words)?);
        let (port, pid) = (AtomicU16::new(0), AtomicU32::new(0));
        Ok(Self { name, account, root, guard, port, pid, is_shared: false })
    }

    /// Starts on a free port, which `configure` writes where the server reads it.
    pub(crate) fn launch(
        &self,
        configure: impl Fn(u16) -> Result<(), TestkitError>,
        is_ready: IsReady<'_>,
    ) -> Result<(), TestkitError> {
        let mut attempt = 1;
        loop {
            let port = free_port()?;
            self.port.store(port, Ordering::Release);
            configure(port)?;
            match self.start(START_LIMIT, is_ready) {
                Err(error) if error.is_port_taken() && attempt < PORT_ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// Starts again with the same port and data; stops gracefully first where it still runs.
    pub(crate) fn restart(&self, signal: &str, is_ready: IsReady<'_>) -> Result<(), TestkitError> {
        self.ask("restart", &format!("stop {signal}"))?;
        self.start(RESTART_LIMIT, is_ready)
    }

    fn start(&self, limit: Duration, is_ready: IsReady<'_>) -> Result<(), TestkitError> {
        let before = self.log().len();
        let pid = self.guard().start()?;
        self.pid.store(pid, Ordering::Release);
        let log = || self.log().split_off(before);
        let came_up = within(limit, || is_ready(pid, &log()) || !is_alive(pid));
        if came_up && is_alive(pid) {
            return Ok(());
        }
        let reason =
            if came_up { "exited".to_owned() } else { format!("was not ready within {limit:?}") };
        self.guard().ask("kill")?;
        Err(TestkitError::Start { server: self.name, port: self.port(), reason, log: tail(&log()) })
    }

    /// Passes a command to the guard; `verb` is the method's name, for the refusal on a shared
    /// server.
    pub(crate) fn ask(&self, verb: &str, command: &str) -> Result<(), TestkitError> {
        assert!(
            !self.is_shared,
            "`{verb}` on the shared {name} would break the tests beside this one: use {name}'s \
             `start()` for a private server",
            name = self.name
        );
        self.guard().ask(command).map(drop)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.load(Ordering::Acquire)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Acquire)
    }

    /// The last lines of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// The server's log so far.
    pub(crate) fn log(&self) -> String {
        fs::read(self.root.join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn guard(&self) -> MutexGuard<'_, Guard> {
        // A panic between a command and its answer ends in a refused command, not in a wrong one.
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn free_port() -> Result<u16, TestkitError> {
    let width = PORTS.end - PORTS.start;
    let (first, _) = Uuid::new_v4().as_u64_pair();
    let first = (first % u64::from(width)) as u16;
    (0..width)
        .map(|step| PORTS.start + (first + step) % width)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| TestkitError::Missing(format!("no port in {PORTS:?} is free on 127.0.0.1")))
}

#[cfg(test)]
mod tests {
    use super::{LOG_TAIL_LINES, PORTS, free_port, is_alive, tail};

    #[test]
    fn tail_keeps_the_last_lines() {
        let lines: Vec<String> = (0..100).map(|line| line.to_string()).collect();
        let log = lines.join("\n");
        assert_eq!(tail(&log).lines().count(), LOG_TAIL_LINES);
        assert!(tail(&log).ends_with("99"));
        assert_eq!(tail(""), "");
    }

    #[test]
    fn free_ports_stay_below_those_of_outgoing_connections() {
        assert!(PORTS.contains(&free_port().unwrap()));
    }

    #[test]
    fn this_process_is_alive_and_process_zero_is_not() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(0));
    }
}
