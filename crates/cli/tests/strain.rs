//! `posthaste serve` under strain: killed under load, with thousands of connections at once, and with thousands of jobs.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use posthaste_testkit::{Postgres, eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::{
    harness::{Place, Running, call},
    serve::serve,
    traces::is_whole,
};

const LIMIT: Duration = Duration::from_mins(2);
const CLIENTS: usize = 8;
/// Jobs that are accepted before the server is killed.
const ACCEPTED: usize = 400;
const CONNECTIONS: u64 = 10_000;
/// Lowers that number, for a machine whose processes may not have as many descriptors.
const FEWER: &str = "POSTHASTE_STRAIN_CONNECTIONS";
/// Descriptors for everything else that these tests have open at once.
const OTHERS: u64 = 1_000;
/// For a connection that has said nothing, and for one that waits for its next request.
const SILENT_BYTES_MAX: u64 = 16 << 10;
const KEPT_BYTES_MAX: u64 = 32 << 10;
static ALONE: Mutex<()> = Mutex::new(());
/// Of one job, so that 5,000 of them are more than twice the growth that is allowed.
const PAYLOAD_BYTES: usize = 16 << 10;
const GROWTH_KIB_MAX: u64 = 32 << 10;

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
        let found = |path: &str| call(&address, &format!("GET /api/v1/{path}"), "");
        let (status, job) = found(&format!("jobs/{id}")).unwrap();
        assert_eq!(status, 200, "{id} was accepted");
        let job: Value = serde_json::from_str(&job).unwrap();
        let message = format!("messages/{}", job["message_id"].as_str().unwrap());
        let message = found(&message).map(|(status, _)| status);
        assert_eq!(message, Some(200), "{job} was accepted with its message");
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

/// Memory that a process has in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// How many connections there are to be at once. A process that may not have as many fails, so that nobody takes a test
/// with a few of them for this one.
fn connections() -> u64 {
    let asked = env::var(FEWER).ok().map(|count| count.parse().expect(FEWER));
    let (count, limit) = (asked.unwrap_or(CONNECTIONS), getrlimit(Resource::Nofile));
    assert!(
        limit.maximum.is_none_or(|maximum| maximum >= count + OTHERS),
        "{count} connections need {} file descriptors, and the hard limit is {:?}: raise it (`ulimit -Hn`), or lower the \
         number with {FEWER}",
        count + OTHERS,
        limit.maximum
    );
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
    count
}

/// Serves so many connections, which may be idle for long, and says what that costs.
fn costs_little(bytes_max: u64, connect: impl Fn(&str) -> TcpStream, is_served: fn(&TcpStream)) {
    // One after the other: their clients share the descriptors of one process.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let count = connections();
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n[server]\nlisten = \"127.0.0.1:0\"\nheaders_timeout = \"10m\"\n\
         connections_max = {}\n",
        count + 100
    ));
    place.run(&["migrate"]).succeeds();
    let (running, address) = serve(&place);
    assert_eq!(call(&address, "GET /api/v1/jobs", "").map(|(status, _)| status), Some(200));
    let before = resident_kib(running.id());
    let connected: Vec<TcpStream> = (0..count).map(|_| connect(&address)).collect();
    // Behind all of them in the queue of those that wait to be accepted.
    assert!(submit(&address).is_some());
    let more = resident_kib(running.id()).saturating_sub(before);
    assert!(more <= count * bytes_max / 1_024, "{more} KiB for {count} connections");
    connected.iter().step_by(100).for_each(is_served);
    drop(connected);
    assert!(submit(&address).is_some());
}

#[test]
fn thousands_of_silent_connections_cost_little_and_keep_nobody_out() {
    let connect = |address: &str| TcpStream::connect(address).expect("a connection");
    costs_little(SILENT_BYTES_MAX, connect, is_alive);
}

#[test]
fn thousands_of_connections_that_are_kept_after_a_request_cost_little_and_keep_nobody_out() {
    let connect = |address: &str| {
        let stream = TcpStream::connect(address).expect("a connection");
        is_alive(&stream);
        stream
    };
    costs_little(KEPT_BYTES_MAX, connect, is_alive);
}

/// Asks on a connection that stays open.
fn is_alive(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let (mut answer, mut part) = (Vec::new(), [0; 1_024]);
    while !is_whole(&answer) {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "{:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..count]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&answer));
}

/// Submits so many jobs of 16 KiB each from several clients.
fn submit_many(address: &str, count: usize) {
    let body = json!({ "topic": "mail", "payload": "x".repeat(PAYLOAD_BYTES) }).to_string();
    let left = AtomicUsize::new(count);
    let is_due = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while is_due().is_ok() {
                    let (status, answer) = call(address, "POST /api/v1/jobs", &body).unwrap();
                    assert_eq!(status, 202, "{answer}");
                }
            });
        }
    });
}

#[test]
fn r50_memory_is_flat_over_thousands_of_submissions() {
    let place = Place::with(
        "[database]\nurl = \"sqlite:log.db\"\n[server]\nlisten = \"127.0.0.1:0\"\n\
         [subscriptions.mail.sink]\nkind = \"stdout\"\n",
    );
    place.run(&["migrate"]).succeeds();
    let (mut running, address) = serve(&place);
    let mut published = running.stdout();
    let reader = thread::spawn(move || io::copy(&mut published, &mut io::sink()));
    let processed = || {
        let (_, health) = call(&address, "GET /api/health/outbox", "").unwrap();
        serde_json::from_str::<Value>(&health).unwrap()["statistics"]["processed"].clone()
    };
    let (mut all, mut sizes) = (0, vec![resident_kib(running.id())]);
    for count in [10, 100, 5_000] {
        submit_many(&address, count);
        all += count;
        eventually("all to be published", LIMIT, || processed() == all);
        sizes.push(resident_kib(running.id()));
    }
    let (first, last) = (sizes[0], sizes[3]);
    assert!(last <= first + GROWTH_KIB_MAX, "{sizes:?} KiB");
    drop(running);
    let printed = reader.join().unwrap().unwrap();
    assert!(printed > (all * PAYLOAD_BYTES) as u64, "{printed}");
}
