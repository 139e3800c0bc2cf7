//! R27 through `posthaste serve`: no job stays as it was created, also where its message was never written.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use posthaste_testkit::{Postgres, Redis, eventually, exposition::Scrape};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    harness::Place,
    serve::{ask, ends, serve},
};

/// After which no job is as it was created: the requirement's own bound.
const CREATED_MAX: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_mins(1);
const SERVER: &str = "[server]\nlisten = \"127.0.0.1:0\"\n";
const WORKER: &str = "[workers.post]\nwatch_age = \"1s\"\nwatch_interval = \"200ms\"\n\
                      [workers.post.handlers.mail]\ntopics = [\"mail\"]\ncommand = [\"./handler.sh\"]\n";

/// A migrated log at `url` with a handler that repeats its task, and these settings.
fn place(url: &str, settings: &str) -> Place {
    let place = Place::with(&configuration(url, settings));
    let path = place.write("handler.sh", "#!/bin/sh\ncat\n");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    place.run(&["migrate"]).succeeds();
    place
}

fn configuration(url: &str, settings: &str) -> String {
    format!("[database]\nurl = \"{url}\"\n{settings}")
}

fn submit(address: &str, key: usize) -> String {
    let body = json!({ "topic": "mail", "key": format!("k{key}"), "payload": { "to": 7 } });
    let (status, accepted) = ask(address, "POST", "/api/v1/jobs", "", &body.to_string());
    assert_eq!((status, &accepted["status"]), (202, &json!("created")), "{accepted}");
    accepted["id"].as_str().expect("an id").to_owned()
}

fn job(address: &str, id: &str) -> Value {
    ask(address, "GET", &format!("/api/v1/jobs/{id}"), "", "").1
}

/// Submits jobs, some of them of one key, and answers them as soon as they are not `created` any more.
fn leave_created(address: &str) -> Vec<String> {
    let submitted: Vec<(String, Instant)> =
        (0..50).map(|n| (submit(address, n % 20), Instant::now())).collect();
    for (id, at) in &submitted {
        let left = CREATED_MAX.saturating_sub(at.elapsed());
        eventually("the job to be carried on", left, || job(address, id)["status"] != "created");
    }
    submitted.into_iter().map(|(id, _)| id).collect()
}

#[test]
fn r27_no_job_is_created_30_seconds_after_it_was_accepted() {
    let place = place("sqlite:log.db", &format!("{SERVER}{WORKER}"));
    let (running, address) = serve(&place);
    for id in leave_created(&address) {
        eventually("the job to be completed", LIMIT, || {
            job(&address, &id)["status"] == "completed"
        });
    }
    ends(running);
}

#[test]
fn r27_no_job_is_created_30_seconds_after_it_was_accepted_though_nobody_runs_it() {
    let redis = Redis::shared();
    let place = place(
        "sqlite:log.db",
        &format!(
            "{SERVER}[subscriptions.mail.sink]\nkind = \"redis-list\"\nurl = \"{}\"\nlist = \"{}mail\"\n",
            redis.url(),
            redis.prefix()
        ),
    );
    let (running, address) = serve(&place);
    for id in leave_created(&address) {
        assert_eq!(job(&address, &id)["status"], "queued");
    }
    ends(running);
}

/// Jobs lose their messages by `lose` before anybody has seen these; a worker that comes then finds that out.
fn jobs_without_messages_are_published(url: &str, lose: impl FnOnce(&Place)) {
    let off = format!("{SERVER}relay = false\nworkers = false\n{WORKER}");
    let place = place(url, &off);
    let (running, address) = serve(&place);
    let ids: Vec<String> = (0..3).map(|n| submit(&address, n)).collect();
    ends(running);
    lose(&place);
    place.write("posthaste.toml", &configuration(url, &format!("{SERVER}{WORKER}")));
    let (running, address) = serve(&place);
    for id in &ids {
        eventually("the job to be completed", LIMIT, || job(&address, id)["status"] == "completed");
        let job = job(&address, id);
        assert_eq!(job["receipts"][0]["body"]["payload"], "{\"to\":7}", "{job}");
        let message = format!("/api/v1/messages/{}", job["message_id"].as_str().unwrap());
        assert_eq!(ask(&address, "GET", &message, "", "").0, 200, "{job}");
    }
    let republished = || {
        let page = ask(&address, "GET", "/metrics", "", "").1;
        let name = "posthaste_worker_jobs_republished_total";
        Scrape::parse(page.as_str().unwrap()).value(name, &[("worker", "post")])
    };
    eventually("what was published again to be counted", LIMIT, || republished() > 2.5);
    ends(running);
}

#[test]
fn r27_job_whose_message_was_never_written_is_published_by_the_watch() {
    jobs_without_messages_are_published("sqlite:log.db", |place| {
        let log = Connection::open(place.path().join("log.db")).unwrap();
        let sql = "update posthaste_job set message_position = null where state = 'created'";
        assert_eq!(log.execute(sql, []).unwrap(), 3);
        assert_eq!(log.execute("delete from posthaste_log", []).unwrap(), 3);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn r27_job_whose_message_was_never_written_is_published_by_the_watch_on_postgres() {
    let database = Postgres::shared().database().await;
    let (url, client) = (database.url().to_owned(), database.connect().await);
    let runtime = tokio::runtime::Handle::current();
    let lose = move |_: &Place| {
        let sql = "update posthaste.job set message_position = null, message_xid = null \
                   where state = 'created'";
        assert_eq!(runtime.block_on(client.execute(sql, &[])).unwrap(), 3);
        assert_eq!(runtime.block_on(client.execute("delete from posthaste.log", &[])).unwrap(), 3);
    };
    let test = move || jobs_without_messages_are_published(&url, lose);
    tokio::task::spawn_blocking(test).await.unwrap();
}
