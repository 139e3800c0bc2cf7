//! R47: sustained failure is posted to a webhook that people read, once, and so is its end.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use posthaste_testkit::{Redis, eventually};
use serde_json::{Value, json};

use crate::harness::Place;

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
