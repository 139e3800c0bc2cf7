//! A test process that ends, however it ends, leaves no process and no directory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use posthaste_testkit::eventually;

const LIMIT: Duration = Duration::from_secs(20);

/// A process that holds servers, and all there is of them.
struct Holder {
    process: Child,
    descendants: Vec<u32>,
    directories: Vec<PathBuf>,
}

impl Holder {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_testkit-servers"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let directories = output
            .lines()
            .map(Result::unwrap)
            .take_while(|line| line != "ready")
            .map(|line| PathBuf::from(line.split(' ').nth(2).unwrap()))
            .collect();
        let descendants = descendants(process.id());
        Self { process, descendants, directories }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for the process itself, then for all that was its.
    fn leaves_nothing(mut self) {
        self.process.wait().unwrap();
        eventually("all servers are gone", LIMIT, || {
            !self.descendants.iter().any(|pid| is_alive(*pid))
        });
        eventually("all directories are gone", LIMIT, || {
            !self.directories.iter().any(|directory| directory.exists())
        });
    }

    fn holds_servers(&self) {
        assert_eq!(self.directories.len(), 2, "one directory for each server");
        assert!(self.directories.iter().all(|directory| directory.exists()));
        // Two guards, two servers, and PostgreSQL's own background processes.
        assert!(self.descendants.len() > 4, "{:?}", self.descendants);
    }
}

#[test]
fn killed_process_leaves_nothing() {
    let holder = Holder::start(&[]);
    holder.holds_servers();
    holder.signal("KILL");
    holder.leaves_nothing();
}

#[test]
fn interrupted_process_leaves_nothing() {
    let holder = Holder::start(&[]);
    holder.holds_servers();
    holder.signal("INT");
    holder.leaves_nothing();
}

#[test]
fn panicked_process_leaves_nothing() {
    // It panics as soon as the servers run, so there is nothing certain to look at before.
    Holder::start(&["--panic"]).leaves_nothing();
}

#[test]
fn process_that_returns_from_main_leaves_nothing() {
    let mut holder = Holder::start(&[]);
    holder.holds_servers();
    drop(holder.process.stdin.take());
    holder.leaves_nothing();
}

#[test]
fn guards_ignore_the_signals_of_a_terminal() {
    let holder = Holder::start(&[]);
    let guards: Vec<u32> =
        holder.descendants.iter().copied().filter(|pid| is_guard(*pid)).collect();
    assert_eq!(guards.len(), 2);
    for (guard, signal) in guards.iter().flat_map(|guard| [(guard, "INT"), (guard, "TERM")]) {
        let kill = format!("kill -s {signal} {guard}");
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
    holder.signal("KILL");
    holder.leaves_nothing();
}

fn is_guard(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).contains("testkit-guard")
}

fn is_alive(pid: u32) -> bool {
    status(pid).is_some_and(|(state, _)| state != "Z")
}

fn descendants(ancestor: u32) -> Vec<u32> {
    let processes: Vec<(u32, u32)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, status(pid)?.1)))
        .collect();
    let mut family = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(processes.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    family.split_off(1)
}

/// State and parent of a process.
fn status(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
