//! `posthaste worker`: programs and endpoints as handlers, with a queue and without one.

use std::{fs, io::Read as _, os::unix::fs::PermissionsExt as _, time::Duration};

use posthaste_testkit::{Redis, eventually, exposition::Scrape};
use serde_json::{Value, json};

use crate::harness::{Place, Running, get};

const LIMIT: Duration = Duration::from_mins(1);

/// A place with a migrated file and these settings, which may name `handler.sh`: what this shell script says.
fn place(script: &str, settings: &str) -> Place {
    let place = Place::with(&format!("[database]\nurl = \"sqlite:log.db\"\n{settings}"));
    let path = place.write("handler.sh", &format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    place.run(&["migrate"]).succeeds();
    place
}

/// A worker that runs `./handler.sh` for jobs of the topic `mail`, and needs no queue.
const EMBEDDED: &str = "[workers.post.handlers.mail]\ntopics = [\"mail\"]\ncommand = [\"./handler.sh\", \"-q\"]\n\
                        [workers.post]\nlease = \"2s\"\nwatch_age = \"1s\"\nwatch_interval = \"200ms\"\n";

fn submit(place: &Place, more: &[&str]) -> String {
    let arguments = [&["jobs", "submit", "mail", "--json-payload", "{\"to\": 7}"], more].concat();
    let submitted = place.run(&arguments).succeeds().objects();
    submitted[0]["id"].as_str().expect("an id").to_owned()
}

fn show(place: &Place, id: &str) -> Value {
    place.run(&["jobs", "show", id]).succeeds().objects().remove(0)
}

fn until(place: &Place, id: &str, state: &str) -> Value {
    let what = format!("the job to be {state}");
    eventually(&what, LIMIT, || show(place, id)["state"] == state);
    show(place, id)
}

fn ends(mut worker: Running) -> Vec<String> {
    worker.signal("TERM");
    let (code, log) = worker.ends();
    assert_eq!(code, Some(0), "{log:?}");
    log
}

#[test]
fn r27_job_runs_without_a_queue_from_submission_to_its_receipt() {
    let place = place("cat", EMBEDDED);
    let id = submit(&place, &["--key", "k"]);
    let worker = place.start(&["worker"]);
    let job = until(&place, &id, "completed");
    assert_eq!(job["executions"][0]["worker"], "post");
    let receipt = &job["receipts"][0]["body"];
    assert_eq!((&receipt["topic"], &receipt["payload"]), (&json!("mail"), &json!("{\"to\": 7}")));
    // One that comes while it runs.
    until(&place, &submit(&place, &[]), "completed");
    let log = ends(worker);
    assert!(log.iter().any(|line| line.contains("workers ended")), "{log:?}");
}

#[test]
fn r28_job_of_a_killed_worker_is_run_by_the_next_one() {
    let place = place("test -e go || { : > begun; sleep 600; }; echo '{}'", EMBEDDED);
    let id = submit(&place, &[]);
    let mut first = place.start(&["worker"]);
    eventually("the handler to begin", LIMIT, || place.path().join("begun").exists());
    first.signal("KILL");
    first.ends();
    place.write("go", "");
    let second = place.start(&["worker"]);
    let job = until(&place, &id, "completed");
    let outcomes: Vec<&Value> =
        job["executions"].as_array().unwrap().iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, [&json!("lost"), &json!("completed")]);
    ends(second);
}

#[test]
fn message_that_is_no_job_is_not_lost_by_a_worker_without_a_queue() {
    let place = place("cat", EMBEDDED);
    place.run(&["enqueue", "mail", "--json-payload", "1"]).succeeds();
    let worker = place.start(&["worker"]);
    let parked = || {
        let status = place.run(&["status"]).succeeds().objects();
        status.iter().any(|line| line.to_string().contains("\"parked_messages\":1"))
    };
    eventually("the message to be parked", LIMIT, parked);
    let log = ends(worker);
    assert!(log.iter().any(|line| line.contains("add [workers.post.source]")), "{log:?}");
}

#[test]
fn r28_jobs_and_messages_come_over_a_stream_and_each_is_handled_once() {
    let redis = Redis::start();
    let url = redis.url();
    let settings = format!(
        "[subscriptions.mail]\ntopics = [\"mail\"]\n[subscriptions.mail.sink]\nkind = \"redis-stream\"\n\
         url = \"{url}\"\nstream = \"mail\"\n[workers.post.source]\nkind = \"redis-stream\"\nurl = \"{url}\"\n\
         streams = [\"mail\"]\ngroup = \"post\"\n[telemetry]\nlisten = \"127.0.0.1:0\"\n{EMBEDDED}"
    );
    let place = place("cat >> handled; echo null", &settings);
    let job = submit(&place, &[]);
    place.run(&["enqueue", "mail", "--count", "20"]).succeeds();
    place.run(&["relay", "--once"]).succeeds();
    let worker = place.start(&["worker"]);
    let log = worker.log.until("metrics and health are served");
    let line: Value = serde_json::from_str(log.last().expect("it was read")).unwrap();
    let address = line["address"].as_str().expect("an address").to_owned();
    until(&place, &job, "completed");
    let completed = || {
        let (_, page) = get(&address, "/metrics").expect("it listens");
        Scrape::parse(&page).find("posthaste_worker_tasks_completed_total", &[("worker", "post")])
    };
    eventually("21 tasks to be counted", LIMIT, || completed() == Some(21.0));
    let (status, ready) = get(&address, "/readyz").expect("it listens");
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!((status, &ready["workers"][0]["ready"]), (200, &json!(true)), "{ready}");
    assert_eq!(get(&address, "/livez").expect("it listens").0, 200);
    ends(worker);
    let handled = fs::read_to_string(place.path().join("handled")).unwrap();
    assert_eq!(handled.lines().count(), 21);
}

#[test]
fn r31_contract_that_was_pushed_is_held_before_the_handler() {
    let settings = format!("{EMBEDDED}[relay]\ncontracts_interval = \"100ms\"\n");
    let place = place(": > ran; echo null", &settings);
    let worker = place.start(&["worker"]);
    // Known to a worker that has begun already.
    fs::create_dir_all(place.path().join("contracts/mail")).unwrap();
    place.write("contracts/mail/v1.json", r#"{"type": "object", "required": ["from"]}"#);
    place.run(&["contracts", "push", "contracts"]).succeeds();
    std::thread::sleep(Duration::from_millis(500));
    let id = submit(&place, &["--header", "posthaste-contract=1"]);
    let job = until(&place, &id, "dead");
    assert!(job["reason"].as_str().unwrap().contains("from"), "{job}");
    assert!(!place.path().join("ran").exists());
    ends(worker);
}

#[test]
fn job_of_the_clock_is_submitted() {
    let settings = format!(
        "{EMBEDDED}[workers.post.cron.often]\nschedule = \"* * * * * *\"\ntopic = \"mail\"\n\
         payload = '{{\"to\": 1}}'\nunless_running = true\n"
    );
    let place = place("cat >> handled", &settings);
    let worker = place.start(&["worker"]);
    let handled = place.path().join("handled");
    let is_handled =
        || fs::read_to_string(&handled).is_ok_and(|text| text.contains("\\\"to\\\":1"));
    eventually("a job of the clock", LIMIT, is_handled);
    ends(worker);
}

#[test]
fn endpoint_that_is_away_fails_the_attempt_and_says_so() {
    let settings = "[workers.post.handlers.mail]\ntopics = [\"mail\"]\n\
                    url = \"http://127.0.0.1:1/run?key=hunter2\"\n[workers.post.retry]\nattempts = 1\n";
    let place = place("", settings);
    let id = submit(&place, &[]);
    let worker = place.start(&["worker"]);
    let job = until(&place, &id, "dead");
    let reason = job["reason"].as_str().unwrap();
    assert!(reason.starts_with("POST http://127.0.0.1:1/run: "), "{reason}");
    let log = ends(worker);
    assert!(!log.iter().any(|line| line.contains("hunter2")), "{log:?}");
}

#[test]
fn endpoint_gets_its_token_from_a_file() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = format!(
        "[workers.post.handlers.mail]\ntopics = [\"mail\"]\nurl = \"http://127.0.0.1:{port}/\"\n\
         token_file = \"token\"\n"
    );
    let place = place("", &settings);
    place.write("token", "t0ken\n");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 65_536];
        let mut length = 0;
        while !request[..length].windows(2).any(|it| it == b"}}") && length < request.len() {
            length += stream.read(&mut request[length..]).unwrap();
            if String::from_utf8_lossy(&request[..length]).trim_end().ends_with('}') {
                break;
            }
        }
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\ntrue";
        std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let id = submit(&place, &[]);
    let worker = place.start(&["worker"]);
    let job = until(&place, &id, "completed");
    assert_eq!(job["receipts"][0]["body"], json!(true));
    let request = answering.join().unwrap();
    assert!(request.contains("authorization: Bearer t0ken\r\n"), "{request}");
    ends(worker);
}

/// A worker without mistakes, which `MAIL` stands for.
const MAIL: &str = "[workers.w.handlers.mail]\ntopics = [\"mail\"]\ncommand = [\"true\"]\n";
/// Settings, the key at fault, and what is said of it.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("[workers.w]\nlease = \"10s\"\n", "workers.w.handlers", "is missing; add a table"),
    ("[workers.W.handlers.a]\ntopics = [\"a\"]\ncommand = [\"true\"]\n", "workers.W", "lower-case"),
    ("[workers.w.handlers.mail]\ncommand = [\"true\"]\n", "handlers.mail.topics", "is missing"),
    (
        "[workers.w.handlers.mail]\ntopics = [\"mail\"]\n",
        "handlers.mail.command",
        "is missing; set it, or url",
    ),
    ("MAILurl = \"http://a/\"\n", "handlers.mail.url", "remove one"),
    ("MAILtoken_file = \"a\"\n", "handlers.mail.token_file", "beside a url"),
    ("MAILcomand = 1\n", "handlers.mail.comand", "did you mean \"command\"?"),
    ("MAILoutput_max = \"1GiB\"\n", "handlers.mail.output_max", "between 1B and 64MiB"),
    (
        "MAIL[workers.w.handlers.b]\ntopics = [\"mail\"]\ncommand = [\"true\"]\n",
        "handlers.mail.topics",
        "another handler",
    ),
    ("MAIL[workers.w]\nconcurrency = 0\n", "workers.w.concurrency", "from 1 to 10000"),
    ("MAIL[workers.w]\nlease = \"1ms\"\n", "workers.w.lease", "from 1s to 1h"),
    ("MAIL[workers.w.retry]\nattempts = 0\n", "workers.w.retry.attempts", "from 1 to 1000"),
    (
        "MAIL[workers.w.retry_by_class.busy]\ncap = \"2days\"\n",
        "retry_by_class.busy.cap",
        "from 1ms to 1 day",
    ),
    (
        "MAIL[workers.w.source]\nkind = \"redis-strem\"\n",
        "workers.w.source.kind",
        "did you mean \"redis-stream\"?",
    ),
    (
        "MAIL[workers.w.source]\nkind = \"redis-list\"\nurl = \"redis://a\"\n",
        "workers.w.source.list",
        "a source of kind \"redis-list\" needs it",
    ),
    (
        "MAIL[workers.w.cron.c]\nschedule = \"often\"\ntopic = \"a\"\n",
        "cron.c.schedule",
        "no pattern",
    ),
    (
        "MAIL[workers.w.cron.c]\nschedule = \"@daily\"\ntopic = \"a\"\ntime_zone = \"Mars\"\n",
        "cron.c.time_zone",
        "Europe/Berlin",
    ),
    (
        "MAIL[workers.w.cron.c]\nschedule = \"@daily\"\ntopic = \"a\"\npayload = \"{\"\n",
        "cron.c.payload",
        "must be JSON",
    ),
];

#[test]
fn mistakes_in_the_settings_name_the_key_the_value_and_the_remedy() {
    for (settings, key, remedy) in MISTAKES {
        let settings = settings.replace("MAIL", MAIL);
        let place = Place::with(&format!("[database]\nurl = \"sqlite:log.db\"\n{settings}"));
        let refused = place.run(&["config", "check"]).fails(2);
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains(key) && said.contains(remedy), "{settings}\n{said}");
    }
}

#[test]
fn worker_that_cannot_begin_says_what_to_do() {
    let place = Place::with("[database]\nurl = \"sqlite:log.db\"\n");
    place.run(&["migrate"]).succeeds();
    let none = place.run(&["worker"]).fails(2);
    assert!(none.stderr.contains("no worker is configured; add [workers.NAME]"), "{}", none.stderr);
    let place = self::place("cat", EMBEDDED);
    let unknown = place.run(&["worker", "--only", "pots"]).fails(2);
    assert!(unknown.stderr.contains("no such worker; known: post"), "{}", unknown.stderr);
    let twice = format!("{EMBEDDED}[subscriptions.post.sink]\nkind = \"stdout\"\n");
    let place = self::place("cat", &twice);
    let refused = place.run(&["worker"]).fails(2);
    assert!(refused.stderr.contains("rename one of them, or add a source"), "{}", refused.stderr);
}
