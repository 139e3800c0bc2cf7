//! R51: what is asked of `posthaste serve` under load, through attempts that fail and a restart of its process.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use posthaste_testkit::{Postgres, Redis, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::{Place, Running, call},
    serve::serve,
};

const LIMIT: Duration = Duration::from_mins(4);
/// From the submission to the start.
const START_MAX: Duration = Duration::from_mins(2);
const JOBS: usize = 1_000;
const CLIENTS: usize = 8;
/// Jobs that are accepted before others are done, so that there are submissions on both sides of the restart.
const AHEAD: usize = 200;
/// Of so many attempts one fails.
const FAILING: usize = 10;
const PAUSE: Duration = Duration::from_millis(2);

/// Where jobs are run. One attempt in ten fails there.
struct Handler {
    url: String,
    failed: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
}

impl Handler {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (failed, done) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let handler = Self { url, failed: Arc::clone(&failed), done: Arc::clone(&done) };
        let calls = Arc::<AtomicUsize>::default();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (calls, failed, done) =
                    (Arc::clone(&calls), Arc::clone(&failed), Arc::clone(&done));
                let answers = move || {
                    let is_failing = (calls.fetch_add(1, Ordering::Relaxed) + 1) % FAILING == 0;
                    let counter = if is_failing { &failed } else { &done };
                    counter.fetch_add(1, Ordering::Relaxed);
                    if is_failing { "500 Not Now" } else { "200 OK" }
                };
                // A worker that is killed leaves half a request.
                thread::spawn(move || drop(converse(&stream, answers)));
            }
        });
        handler
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }
}

/// Answers the requests of a connection, until it is closed.
fn converse(stream: &TcpStream, mut answers: impl FnMut() -> &'static str) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        while line.trim() != "" || line.is_empty() {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        let answer = format!("HTTP/1.1 {}\r\ncontent-length: 4\r\n\r\ntrue", answers());
        (&mut &*stream).write_all(answer.as_bytes())?;
    }
}

/// Which process serves, and where; no address while there is none.
struct Lives(Mutex<(usize, Option<String>)>);

impl Lives {
    fn now(&self) -> (usize, Option<String>) {
        self.0.lock().unwrap().clone()
    }

    fn next(&self, address: Option<&str>) {
        let mut life = self.0.lock().unwrap();
        *life = (life.0 + 1, address.map(str::to_owned));
    }

    /// Asks until there is an answer. As long as one process is up there is one to every request, and no fault.
    fn ask(&self, head: &str, body: &str) -> (u16, Value) {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let (life, address) = self.now();
            if let Some((status, body)) = address.and_then(|address| call(&address, head, body)) {
                assert!(status < 500, "{head}: {status} {body}");
                return (status, serde_json::from_str(&body).unwrap_or_else(|_| body.into()));
            }
            let (later, address) = self.now();
            assert!(
                later != life || address.is_none(),
                "{head}: no answer while the process is up"
            );
            thread::sleep(PAUSE);
        }
        panic!("{head}: nobody serves");
    }

    fn page(&self) -> Page {
        let (status, page) = self.ask("GET /metrics", "");
        assert_eq!(status, 200);
        Page(page.as_str().unwrap().to_owned())
    }
}

/// Metrics of one process.
struct Page(String);

impl Page {
    /// The sum of the series of a name that have this among their labels.
    fn sum(&self, name: &str, label: &str) -> f64 {
        let lines = self.0.lines().filter(|line| line.starts_with(name) && line.contains(label));
        let value = |line: &str| -> Option<f64> {
            line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok())
        };
        lines.map(|line| value(line).unwrap_or_else(|| panic!("{line:?}"))).sum::<f64>()
    }
}

/// Publishes, or tries to, and failed ones, in all processes.
fn publishing_fails_seldom(pages: &[Page]) {
    let sum = |name, label| pages.iter().map(|page| page.sum(name, label)).sum::<f64>();
    let attempts = sum("posthaste_publish_attempts_total{", "");
    let errors = sum("posthaste_publish_errors_total{", "");
    assert!(attempts > 0.0 && errors < attempts / 100.0, "{errors} of {attempts}");
    assert!(sum("posthaste_published_messages_total{", "") >= JOBS as f64);
    let answers = |class| sum("posthaste_http_requests_total{", class);
    assert!(answers("class=\"2xx\"") >= JOBS as f64);
    assert!(answers("class=\"5xx\"") < 0.5);
}

/// The jobs of one client, whose ids are its own.
fn submit(lives: &Lives, handler: &Handler, accepted: &AtomicUsize) -> Vec<Uuid> {
    let submit = |_| {
        let is_due = || accepted.load(Ordering::Relaxed) < handler.done() + AHEAD;
        eventually("jobs to be done", LIMIT, is_due);
        let id = Uuid::now_v7();
        let body = json!({ "topic": "mail", "payload": { "to": 7 }, "jobspec_id": id });
        let (status, answer) = lives.ask("POST /api/v1/jobs", &body.to_string());
        assert_eq!((status, &answer["id"]), (202, &json!(id)), "{answer}");
        accepted.fetch_add(1, Ordering::Relaxed);
        id
    };
    (0..JOBS / CLIENTS).map(submit).collect()
}

/// Asks a process whether it is alive until it is over: it is, whenever it is up.
fn probe(lives: &Lives, is_over: &AtomicBool) -> usize {
    let (mut count, deadline) = (0, Instant::now() + 2 * LIMIT);
    while !is_over.load(Ordering::Relaxed) && Instant::now() < deadline {
        assert_eq!(lives.ask("GET /livez", "").0, 200);
        count += 1;
        thread::sleep(PAUSE);
    }
    count
}

fn stop(lives: &Lives, mut running: Running, signal: &str) {
    lives.next(None);
    running.signal(signal);
    let (code, log) = running.ends();
    assert_eq!(code, (signal == "TERM").then_some(0), "{log:#?}");
}

/// Executions by their outcomes.
type Outcomes = BTreeMap<String, usize>;

/// Every job is completed, once, and was begun in time.
fn all_are_completed(lives: &Lives, ids: &[Uuid]) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for id in ids {
        let job = || lives.ask(&format!("GET /api/v1/jobs/{id}"), "").1;
        eventually("the job to be over", LIMIT, || !job()["finished_at"].is_null());
        let job = job();
        assert_eq!(job["status"], "completed", "{job}");
        let executions = job["executions"].as_array().unwrap();
        let time = |value: &Value| humantime::parse_rfc3339(value.as_str().unwrap()).unwrap();
        let (created, started) = (time(&job["created_at"]), time(&executions[0]["started_at"]));
        let waited = started.duration_since(created).unwrap_or_default();
        assert!(waited < START_MAX, "{waited:?}: {job}");
        let of = |it: &Value| it["outcome"].as_str().unwrap().to_owned();
        let last = executions.iter().position(|it| of(it) == "completed");
        assert_eq!(last, Some(executions.len() - 1), "{job}");
        assert_eq!(job["receipts"].as_array().unwrap().len(), 1, "{job}");
        for it in executions {
            *outcomes.entry(of(it)).or_default() += 1;
        }
    }
    outcomes
}

/// A thousand jobs, and a restart in the middle, which begins with `signal`.
fn keeps_its_targets(settings: impl Fn(&str) -> String, signal: &str) -> (Outcomes, usize) {
    let handler = Handler::start();
    let place = Place::with(&settings(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n\
         [workers.post]\nlease = \"2s\"\nwatch_interval = \"500ms\"\n\
         [workers.post.retry]\nattempts = 20\ninitial = \"50ms\"\ncap = \"500ms\"\n\
         [workers.post.handlers.mail]\ntopics = [\"mail\"]\nurl = \"{}\"\n",
        handler.url
    )));
    place.run(&["migrate"]).succeeds();
    let (first, address) = serve(&place);
    let lives = Lives(Mutex::new((0, Some(address))));
    let (accepted, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (lives, handler, accepted, is_over) = (&lives, &handler, &accepted, &is_over);
    let (ids, outcomes, probes) = thread::scope(|scope| {
        let client = move || submit(lives, handler, accepted);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let prober = scope.spawn(move || probe(lives, is_over));
        eventually("half of the jobs to be done", LIMIT, || handler.done() >= JOBS / 2);
        let before = lives.page();
        stop(lives, first, signal);
        let (second, address) = serve(&place);
        lives.next(Some(&address));
        let ids = clients.into_iter().flat_map(|client| client.join().unwrap());
        let ids: Vec<Uuid> = ids.collect();
        let outcomes = all_are_completed(lives, &ids);
        publishing_fails_seldom(&[before, lives.page()]);
        is_over.store(true, Ordering::Relaxed);
        let probes = prober.join().unwrap();
        stop(lives, second, "TERM");
        (ids, outcomes, probes)
    });
    assert_eq!(ids.len(), JOBS);
    assert!(probes > 100, "{probes}");
    assert_eq!(outcomes["completed"], JOBS);
    (outcomes, handler.failed.load(Ordering::Relaxed))
}

#[test]
fn r51_1000_jobs_are_completed_in_time_through_a_restart_in_order() {
    let settings = |more: &str| format!("[database]\nurl = \"sqlite:log.db\"\n{more}");
    let (mut outcomes, failed) = keeps_its_targets(settings, "TERM");
    // What was in hand was finished: every attempt that failed is told of, and none was lost.
    assert!(failed >= JOBS / FAILING, "{failed}");
    assert_eq!((outcomes.remove("retry"), outcomes.len()), (Some(failed), 1), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r51_1000_jobs_are_completed_in_time_over_a_queue_though_the_process_is_killed() {
    let database = Postgres::shared().database().await;
    let (redis, url) = (Redis::shared(), database.url().to_owned());
    let (stream, queue) = (format!("{}mail", redis.prefix()), redis.url());
    let settings = move |more: &str| {
        format!(
            "[database]\nurl = \"{url}\"\n{more}\
             [subscriptions.mail]\ntopics = [\"mail\"]\n[subscriptions.mail.sink]\n\
             kind = \"redis-stream\"\nurl = \"{queue}\"\nstream = \"{stream}\"\n\
             [workers.post.source]\nkind = \"redis-stream\"\nurl = \"{queue}\"\n\
             streams = [\"{stream}\"]\nlease = \"2s\"\n"
        )
    };
    let test = move || keeps_its_targets(settings, "KILL");
    let (outcomes, failed) = tokio::task::spawn_blocking(test).await.unwrap();
    assert!(failed >= JOBS / FAILING && outcomes["retry"] <= failed, "{failed}: {outcomes:?}");
}
