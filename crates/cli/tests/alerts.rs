//! R47: sustained failure is posted to a webhook that people read, once, and so is its end.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use posthaste_testkit::{Postgres, Redis, eventually};
use serde_json::{Value, json};

use crate::{
    harness::{Place, Running, call},
    serve::serve,
};

const LIMIT: Duration = Duration::from_mins(1);
/// As it stands in the URL of the webhook.
const SECRET: &str = "k3y-of-the-chat";

/// A webhook that keeps what is posted to it; the first `refusals` posts are refused.
struct Webhook {
    url: String,
    posts: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    fn start(mut refusals: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook/{SECRET}", listener.local_addr().unwrap());
        let posts = Arc::<Mutex<Vec<Value>>>::default();
        let kept = Arc::clone(&posts);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A process that is killed leaves half a request.
                let Ok(post) = read(&stream.unwrap(), refusals == 0) else { continue };
                if refusals > 0 {
                    refusals -= 1;
                } else {
                    kept.lock().unwrap().push(post);
                }
            }
        });
        Self { url, posts }
    }

    /// How often each was posted, by event, condition and subject.
    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for post in &*self.posts.lock().unwrap() {
            let word = |key: &str| post[key].as_str().unwrap_or("-").to_owned();
            let what = [word("event"), word("condition"), word("subject")].join(" ");
            *counts.entry(what).or_insert(0) += 1;
        }
        counts
    }
}

/// Reads one request, and answers it. What was read whole counts, whether its sender hears of that or not.
fn read(stream: &TcpStream, is_taken: bool) -> io::Result<Value> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let post = serde_json::from_slice(&body)?;
    let status = if is_taken { "204 No Content" } else { "500 Not Now" };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let _ = (&mut &*stream).write_all(answer.as_bytes());
    Ok(post)
}

fn alerts(webhook: &Webhook) -> String {
    format!(
        "[alerts]\nwebhook = \"{}\"\nname = \"shop\"\ninterval = \"1s\"\nafter = \"1s\"\nrecovered_after = \"1s\"\n\
         lag_max = \"1s\"\ndead_letters_max = 1\n",
        webhook.url
    )
}

#[test]
fn r47_sustained_failure_is_told_once_by_all_processes_and_so_is_its_end() {
    let redis = Redis::start();
    let webhook = Webhook::start(2);
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n{}\
         [server]\nlisten = \"127.0.0.1:0\"\n\
         [subscriptions.mail.sink]\nkind = \"redis-list\"\nurl = \"{}\"\nlist = \"mail\"\n",
        alerts(&webhook),
        redis.url()
    ));
    place.run(&["migrate"]).succeeds();
    redis.stop();
    place.run(&["enqueue", "mail", "--json-payload", "1"]).succeeds();
    // Whichever of them holds the subscription, both see what the database shows.
    let first = place.start(&["serve"]);
    let second = place.start(&["relay"]);
    let raised = ["raised errors mail", "raised lag mail", "raised stalled mail"];
    eventually("all that is wrong to be told", LIMIT, || {
        raised.iter().all(|what| webhook.counts().contains_key(*what))
    });
    // A restart does not forget who was told.
    drop(first);
    let first = place.start(&["serve"]);
    redis.restart();
    let over = ["recovered errors mail", "recovered lag mail", "recovered stalled mail"];
    // What the first one was killed in the middle of is told after a minute.
    eventually("its end to be told", LIMIT * 3, || {
        over.iter().all(|what| webhook.counts().contains_key(*what))
    });
    let expected: BTreeMap<String, usize> =
        raised.iter().chain(&over).map(|what| ((*what).to_owned(), 1)).collect();
    assert_eq!(webhook.counts(), expected);
    let posts = webhook.posts.lock().unwrap().clone();
    for post in &posts {
        let text = post["text"].as_str().unwrap();
        assert!(text.starts_with("[shop] ") && text.contains("mail"), "{post}");
        assert_eq!(post["name"], "shop");
        assert!(post["since"].is_string(), "{post}");
    }
    for mut running in [first, second] {
        running.signal("TERM");
        let (code, log) = running.ends();
        assert_eq!(code, Some(0), "{log:?}");
        assert!(!log.iter().any(|line| line.contains(SECRET)), "{log:?}");
    }
}

#[test]
fn database_that_is_away_is_told_of_by_the_process_itself() {
    let port = crate::harness::deserted_port();
    let webhook = Webhook::start(0);
    let place = Place::with(&format!(
        "[database]\nurl = \"postgres://nobody@127.0.0.1:{port}/none\"\n{}\
         [server]\nlisten = \"127.0.0.1:0\"\n",
        alerts(&webhook)
    ));
    let mut running = place.start(&["serve"]);
    eventually("it to be told", LIMIT, || !webhook.counts().is_empty());
    running.signal("TERM");
    running.ends();
    assert_eq!(webhook.counts(), BTreeMap::from([("raised database -".to_owned(), 1)]));
    let post = webhook.posts.lock().unwrap()[0].clone();
    assert_eq!((&post["subject"], &post["since"]), (&json!(null), &json!(null)), "{post}");
}

#[test]
fn r47_dead_letters_are_told_once_and_so_is_their_end() {
    let (redis, webhook) = (Redis::shared(), Webhook::start(0));
    // A message that names no stream is rejected.
    let subscription = |name: &str| {
        format!(
            "[subscriptions.{name}]\ntopics = [\"{name}\"]\n\
             failure = {{ policy = \"dead-letter\", attempts = 1 }}\n\
             [subscriptions.{name}.sink]\nkind = \"redis-stream\"\nurl = \"{}\"\n\
             stream = \"{}{{header:tenant}}\"\n",
            redis.url(),
            redis.prefix()
        )
    };
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n{}[server]\nlisten = \"127.0.0.1:0\"\n{}{}",
        alerts(&webhook),
        subscription("mail"),
        subscription("post")
    ));
    place.run(&["migrate"]).succeeds();
    let running = [place.start(&["serve"]), place.start(&["relay"])];
    let is_told = |what: &str| webhook.counts().contains_key(what);
    // Another dead letter is no news, and the next subscription's shows that somebody has looked at it.
    for (topic, told) in [("mail", "mail"), ("mail", "mail"), ("post", "post")] {
        place.run(&["enqueue", topic, "--json-payload", "1"]).succeeds();
        let told = format!("raised dead_letters {told}");
        eventually("dead letters to be told of", LIMIT, || is_told(&told));
    }
    place.run(&["dead-letters", "discard", "--all"]).succeeds();
    let over = ["recovered dead_letters mail", "recovered dead_letters post"];
    eventually("their end to be told", LIMIT, || over.iter().all(|what| is_told(what)));
    end(running);
    let told = webhook.counts().into_iter().filter(|(what, _)| what.contains(" dead_letters "));
    let expected = ["raised dead_letters mail", "raised dead_letters post"];
    let expected = expected.iter().chain(&over).map(|what| ((*what).to_owned(), 1));
    assert_eq!(told.collect::<BTreeMap<_, _>>(), expected.collect());
    let posts = webhook.posts.lock().unwrap().clone();
    let text = posts[0]["text"].as_str().unwrap();
    assert!(text.contains("mail has 1 dead letters"), "{text}");
}

fn end(running: impl IntoIterator<Item = Running>) {
    for mut running in running {
        running.signal("TERM");
        let (code, log) = running.ends();
        assert_eq!(code, Some(0), "{log:?}");
    }
}

/// A process tells of what only it sees: that it is so, once, and then that it is over.
fn is_told_once(webhook: &Webhook, what: &str, break_it: impl FnOnce(), mend_it: impl FnOnce()) {
    break_it();
    let (raised, recovered) = (format!("raised {what}"), format!("recovered {what}"));
    eventually("it to be told", LIMIT, || webhook.counts().contains_key(&raised));
    mend_it();
    eventually("its end to be told", LIMIT, || webhook.counts().contains_key(&recovered));
    assert_eq!(webhook.counts(), BTreeMap::from([(raised, 1), (recovered, 1)]));
}

#[test]
fn r47_database_that_was_away_is_told_of_and_so_is_its_return() {
    let (postgres, webhook) = (Postgres::start(), Webhook::start(0));
    let place = Place::with(&format!(
        "[database]\nurl = \"{}\"\n{}[server]\nlisten = \"127.0.0.1:0\"\n",
        postgres.url("postgres"),
        alerts(&webhook)
    ));
    place.run(&["migrate"]).succeeds();
    let running = place.start(&["serve"]);
    running.log.until("nothing runs beside the server");
    is_told_once(&webhook, "database -", || postgres.stop(), || postgres.restart());
    end([running]);
}

#[test]
fn r47_worker_that_is_not_at_work_is_told_of_and_so_is_its_return() {
    let (redis, webhook) = (Redis::start(), Webhook::start(0));
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n{}[server]\nlisten = \"127.0.0.1:0\"\n\
         [workers.post.handlers.mail]\ntopics = [\"mail\"]\ncommand = [\"true\"]\n\
         [workers.post.source]\nkind = \"redis-list\"\nurl = \"{}\"\nlist = \"mail\"\n",
        alerts(&webhook),
        redis.url()
    ));
    place.run(&["migrate"]).succeeds();
    let (running, address) = serve(&place);
    let is_ready = || call(&address, "GET /readyz", "").is_some_and(|(status, _)| status == 200);
    eventually("the worker to be at work", LIMIT, is_ready);
    is_told_once(&webhook, "worker post", || redis.stop(), || redis.restart());
    end([running]);
}

#[test]
fn chats_get_the_form_that_they_take() {
    let port = crate::harness::deserted_port();
    for (format, field) in [("slack", "text"), ("discord", "content")] {
        let webhook = Webhook::start(0);
        let place = Place::with(&format!(
            "[database]\nurl = \"postgres://nobody@127.0.0.1:{port}/none\"\n{}format = \"{format}\"\n\
             [server]\nlisten = \"127.0.0.1:0\"\n",
            alerts(&webhook)
        ));
        let running = place.start(&["serve"]);
        eventually("it to be told", LIMIT, || !webhook.posts.lock().unwrap().is_empty());
        drop(running);
        let post = webhook.posts.lock().unwrap()[0].clone();
        let keys: Vec<_> = post.as_object().unwrap().keys().collect();
        assert_eq!(keys, [field]);
        assert!(post[field].as_str().unwrap().starts_with("[shop] the database does not answer"));
    }
}

#[test]
fn webhook_that_cannot_be_called_is_one_clear_mistake() {
    let place = Place::migrated(&format!("[alerts]\nwebhook = \"ftp://chat/{SECRET}\"\n"));
    let ran = place.run(&["relay"]).fails(2);
    assert!(ran.stderr.contains("alerts.webhook must be an http:// or https:// URL"), "{ran:#?}");
    assert!(!ran.stderr.contains(SECRET), "{ran:#?}");
    let place = Place::migrated("[alerts]\nwebhook_file = \"none\"\n");
    let ran = place.run(&["relay"]).fails(2);
    assert!(ran.stderr.contains("alerts.webhook_file none cannot be read"), "{ran:#?}");
}
