//! `posthaste serve` under strain: killed under load, and with thousands of connections that say nothing.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use posthaste_testkit::Postgres;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::{
    harness::{Place, Running, call},
    serve::serve,
};

const LIMIT: Duration = Duration::from_mins(2);
const CLIENTS: usize = 8;
/// Jobs that are accepted before the server is killed.
const ACCEPTED: usize = 400;
const IDLE: u64 = 10_000;

fn submit(address: &str) -> Option<String> {
    let (status, body) = call(address, "POST /api/v1/jobs", r#"{"topic":"mail","payload":1}"#)?;
    assert_eq!(status, 202, "{body}");
    let accepted: Value = serde_json::from_str(&body).ok()?;
    Some(accepted["id"].as_str().expect("an id").to_owned())
}

/// Submits from several clients until the server is killed in the middle of that, and answers what it has accepted.
fn kill_under_load(running: &Running, address: &str) -> BTreeSet<String> {
    let (count, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (count, is_over) = (&count, &is_over);
    thread::scope(|scope| {
        let client = move || {
            let mut own = Vec::new();
            while !is_over.load(Ordering::Relaxed)
                && let Some(id) = submit(address)
            {
                own.push(id);
                count.fetch_add(1, Ordering::Relaxed);
            }
            own
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let deadline = Instant::now() + LIMIT;
        while count.load(Ordering::Relaxed) < ACCEPTED && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        running.signal("KILL");
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn killed_server_has_every_job_that_it_accepted(url: &str) {
    let place =
        Place::with(&format!("[database]\nurl = \"{url}\"\n[server]\nlisten = \"127.0.0.1:0\"\n"));
    place.run(&["migrate"]).succeeds();
    let (mut running, address) = serve(&place);
    let accepted = kill_under_load(&running, &address);
    running.ends();
    assert!(accepted.len() >= ACCEPTED, "{}", accepted.len());
    let (_running, address) = serve(&place);
    for id in accepted {
        let found = call(&address, &format!("GET /api/v1/jobs/{id}"), "");
        assert_eq!(found.map(|(status, _)| status), Some(200), "{id} was accepted");
    }
}

#[test]
fn killed_server_on_a_file_has_every_job_that_it_accepted() {
    killed_server_has_every_job_that_it_accepted("sqlite:log.db");
}

#[tokio::test]
async fn killed_server_on_postgres_has_every_job_that_it_accepted() {
    let database = Postgres::shared().database().await;
    let url = database.url().to_owned();
    let test = move || killed_server_has_every_job_that_it_accepted(&url);
    tokio::task::spawn_blocking(test).await.unwrap();
}

/// Memory that a process has in MiB.
fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

#[test]
fn thousands_of_silent_connections_cost_little_and_keep_nobody_out() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
    let count = limit.maximum.map_or(IDLE, |maximum| IDLE.min(maximum - 1_000));
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n[server]\nlisten = \"127.0.0.1:0\"\nheaders_timeout = \"10m\"\n\
         connections_max = {}\n",
        count + 100
    ));
    place.run(&["migrate"]).succeeds();
    let (running, address) = serve(&place);
    assert_eq!(call(&address, "GET /api/v1/jobs", "").map(|(status, _)| status), Some(200));
    let before = resident_mib(running.id());
    let silent: Vec<TcpStream> =
        (0..count).map(|_| TcpStream::connect(&address).expect("a connection")).collect();
    // Behind all of them in the queue of those that wait to be accepted.
    assert!(submit(&address).is_some());
    let more = resident_mib(running.id()).saturating_sub(before);
    assert!(more <= count * 16 / 1_024, "{more} MiB for {count} connections");
    drop(silent);
    assert!(submit(&address).is_some());
}
