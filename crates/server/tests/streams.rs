//! Live streams over HTTP: what a page sees, and what it may see.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_core::Message;
use posthaste_server::{NoParts, Scope, ServerSettings, TokenSettings};
use posthaste_store::Operations;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::support::{LIMIT, Place, Running, on_both_stores, settings, token};

on_both_stores! {
    r36_stream_goes_on_where_a_client_was_when_the_server_was_restarted,
    r36_events_that_are_committed_one_by_one_arrive_within_half_a_second,
    messages_come_with_all_that_they_carry,
    tickets_allow_what_they_were_asked_for_and_nothing_else,
    streams_of_a_caller_are_counted,
    topics_and_keys_of_streams_and_tickets_are_bounded,
    streams_and_tickets_end_with_the_token_that_they_were_asked_for_with,
}

/// A client of a stream.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    /// As a browser keeps it.
    pub(crate) last: Option<String>,
}

impl Client {
    /// Begins a stream, which must be granted.
    pub(crate) async fn follow(server: &Running, query: &str, headers: &[(&str, &str)]) -> Self {
        Self::follow_on(server.connect().await, query, headers).await
    }

    /// The same on a connection that is there.
    pub(crate) async fn follow_on(
        stream: TcpStream,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        let mut stream = BufReader::new(stream);
        let mut head = format!("GET /api/v1/streams?{query} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in headers {
            head = format!("{head}{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let mut line = String::new();
            timeout(LIMIT, stream.read_line(&mut line)).await.unwrap().unwrap();
            if line == "\r\n" {
                break;
            }
            answer.push(line.trim_end().to_ascii_lowercase());
        }
        assert_eq!(answer[0], "http/1.1 200 ok");
        for header in ["content-type: text/event-stream", "cache-control: no-store"] {
            assert!(answer.iter().any(|line| line == header), "{answer:?}");
        }
        Self { stream, last: None }
    }

    /// A whole chunk of the answer; none when it ends, or breaks off.
    pub(crate) async fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        let read = timeout(LIMIT, self.stream.read_line(&mut size)).await.expect("a chunk");
        let size = read.ok().and_then(|_| size.strip_suffix("\r\n"))?;
        let size = usize::from_str_radix(size, 16).unwrap();
        let mut chunk = vec![0; size + 2];
        let read = timeout(LIMIT, self.stream.read_exact(&mut chunk)).await;
        read.expect("the whole chunk").ok()?;
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// The next event; none when the stream ends.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            let chunk = self.chunk().await?;
            let (mut data, mut events) = (Vec::new(), Vec::new());
            for line in chunk.lines() {
                match line.split_once(": ") {
                    Some(("id", id)) => self.last = Some(id.to_owned()),
                    Some(("data", line)) => data.push(line),
                    _ if line.is_empty() && !data.is_empty() => {
                        events.push(std::mem::take(&mut data).join("\n"));
                    }
                    _ => {}
                }
            }
            if let [event] = &*events {
                return Some(serde_json::from_str(event).unwrap());
            }
            assert!(events.is_empty(), "one frame, one event: {chunk}");
        }
    }

    /// So many events.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.next().await.expect("an event"));
        }
        events
    }
}

pub(crate) async fn write(
    operations: &Arc<dyn Operations>,
    topic: &str,
    key: &str,
    numbers: std::ops::Range<u32>,
) {
    let message = |n: u32| Message::new(topic).key(key).json(&n);
    operations.append(&numbers.map(message).collect::<Vec<_>>()).await.unwrap();
}

fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["payload"].as_u64().unwrap()).collect()
}

async fn r36_stream_goes_on_where_a_client_was_when_the_server_was_restarted(place: Place) {
    let (_, operations) = place.store().await;
    let server = Running::start(&place).await;
    let mut client = Client::follow(&server, "topic=run.*&key=r7", &[]).await;
    write(&operations, "run.events", "r7", 0..10).await;
    write(&operations, "run.events", "r8", 0..10).await;
    let mut seen = numbers(&client.take(7).await);
    // It has come, and this client has not looked: it will again.
    let last = client.last.clone().unwrap();
    server.ends().await;
    while client.next().await.is_some() {}
    write(&operations, "run.events", "r7", 10..20).await;
    let server = Running::start(&place).await;
    let mut again =
        Client::follow(&server, "topic=run.*&key=r7&since=now", &[("last-event-id", &last)]).await;
    seen.extend(numbers(&again.take(13).await));
    write(&operations, "run.events", "r7", 20..25).await;
    seen.extend(numbers(&again.take(5).await));
    assert_eq!(seen, (0..25).collect::<Vec<u64>>());
    // The same by the query, from the first event on.
    let mut all = Client::follow(&server, "topic=run.events&since=beginning", &[]).await;
    assert_eq!(all.take(35).await.len(), 35);
    let refused = server.get("/api/v1/streams?since=7").await;
    assert_eq!(refused.is_problem(400, "bad-parameter")["field"], "since");
    let refused = server.get("/api/v1/streams?key=a%00b").await;
    assert_eq!(refused.is_problem(400, "bad-parameter")["field"], "key");
    for forged in ["-40000/0192f7aabbcc7ddd8eeeffff00001111", "9/0~-3/0~1~-"] {
        let refused = server.get(&format!("/api/v1/streams?since={forged}")).await;
        assert_eq!(refused.is_problem(400, "bad-parameter")["field"], "since");
    }
    let elsewhere = "3/0192f7aabbcc7ddd8eeeffff00001111";
    let refused = server.get(&format!("/api/v1/streams?since={elsewhere}")).await;
    refused.is_problem(410, "stream-gone");
}

async fn r36_events_that_are_committed_one_by_one_arrive_within_half_a_second(place: Place) {
    let (_, operations) = place.store().await;
    let server = Running::start(&place).await;
    let mut client = Client::follow(&server, "topic=run.*&key=r7", &[]).await;
    let mut took = Vec::new();
    for n in 0..50 {
        write(&operations, "run.events", "r7", n..n + 1).await;
        let committed = Instant::now();
        assert_eq!(numbers(&client.take(1).await), [u64::from(n)]);
        took.push(committed.elapsed());
    }
    took.sort_unstable();
    assert!(took[25] < Duration::from_millis(500), "the median of {took:?}");
    server.ends().await;
}

async fn messages_come_with_all_that_they_carry(place: Place) {
    let (_, operations) = place.store().await;
    let server = Running::start(&place).await;
    let mut client = Client::follow(&server, "", &[]).await;
    let message = Message::new("a").key("k").header("tenant", "ä").correlation_id("c-1");
    let text = Message::new("a").bytes("text/plain", &b"7\n8"[..]);
    let bytes = Message::new("a").bytes("image/png", &b"\xff\0"[..]);
    let ids = operations.append(&[message.json(&[1]), text, bytes]).await.unwrap();
    let [json, text, bytes]: [Value; 3] = client.take(3).await.try_into().unwrap();
    assert_eq!(json["id"], ids[0].to_string());
    assert_eq!((&json["topic"], &json["key"]), (&"a".into(), &"k".into()));
    assert_eq!(json["headers"]["tenant"], "ä");
    assert_eq!((&json["correlation_id"], &json["payload"][0]), (&"c-1".into(), &1.into()));
    assert!(json["enqueued_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&text["payload_text"], &text["key"]), (&"7\n8".into(), &Value::Null));
    assert_eq!(bytes["payload_base64"], "/wA=");
    server.ends().await;
}

async fn tickets_allow_what_they_were_asked_for_and_nothing_else(place: Place) {
    let (_, operations) = place.store().await;
    let mut own = ServerSettings { ticket_lifetime: Duration::from_mins(1), ..settings() };
    let mut secrets = BTreeMap::new();
    let run: &[&str] = &["run."];
    for (name, scopes, topics) in [
        ("page", &[Scope::View, Scope::Payloads][..], Some(run)),
        ("eye", &[Scope::View], None),
        ("shop", &[Scope::Enqueue], None),
    ] {
        let (token, secret) = token(scopes, topics);
        own.tokens.insert(name.to_owned(), token);
        secrets.insert(name, secret);
    }
    let server = Running::with(&place, own, Arc::new(NoParts)).await;
    let ask = async |name: &str, body: &str| {
        let headers =
            [("authorization", secrets[name].as_str()), ("content-type", "application/json")];
        server.ask("POST", "/api/v1/streams/tickets", &headers, body.as_bytes()).await
    };
    let wanted = r#"{"topic":"run.events","key":"r7"}"#;
    ask("shop", wanted).await.is_problem(403, "scope-missing");
    ask("page", "{}").await.is_problem(403, "topic-not-allowed");
    ask("page", r#"{"topic":"run.events,bank.*"}"#).await.is_problem(403, "topic-not-allowed");
    let made = ask("page", wanted).await.json();
    assert_eq!(made["expires_in"], 60);
    let ticket = made["ticket"].as_str().unwrap();
    let mut page = Client::follow(&server, &format!("ticket={ticket}"), &[]).await;
    let made = ask("eye", r#"{"key":"r7"}"#).await.json();
    let blind = format!("ticket={}&key=r7", made["ticket"].as_str().unwrap());
    let mut eye = Client::follow(&server, &blind, &[]).await;
    for key in ["r8", "r7"] {
        write(&operations, "run.events", key, 0..3).await;
        write(&operations, "bank.pay", key, 0..3).await;
    }
    assert_eq!(numbers(&page.take(3).await), [0, 1, 2]);
    // Whoever may not see payloads sees that there are messages.
    for event in eye.take(6).await {
        assert_eq!((&event["key"], &event["payload"]), (&"r7".into(), &Value::Null));
    }
    let get = async |query: &str| server.get(&format!("/api/v1/streams?{query}")).await;
    get(&format!("ticket={ticket}&key=r8")).await.is_problem(403, "topic-not-allowed");
    get(&format!("ticket={ticket}x")).await.is_problem(401, "unknown-token");
    get("").await.is_problem(401, "unauthenticated");
    // It is no token.
    let jobs = format!("/api/v1/jobs?ticket={ticket}");
    server.get(&jobs).await.is_problem(401, "unauthenticated");
    let bearer = format!("Bearer {ticket}");
    let asked = server.ask("GET", "/api/v1/jobs", &[("authorization", &bearer)], b"").await;
    asked.is_problem(401, "unknown-token");
    server.ends().await;
}

async fn streams_and_tickets_end_with_the_token_that_they_were_asked_for_with(place: Place) {
    // Longer where the machine is too busy to ask for all within the token's time.
    for seconds in [2, 6, 18] {
        let expires = jiff::Timestamp::now() + Duration::from_secs(seconds);
        let (token, secret) = token(&[Scope::View], None);
        let mut own = settings();
        let token = TokenSettings { expires: Some(expires.to_string()), ..token };
        own.tokens.insert("page".to_owned(), token);
        let server = Running::with(&place, own, Arc::new(NoParts)).await;
        let bearer = [("authorization", secret.as_str()), ("content-type", "application/json")];
        let made = server.ask("POST", "/api/v1/streams/tickets", &bearer, b"{}").await;
        if made.status == 401 {
            continue;
        }
        let made = made.json();
        assert!(made["expires_in"].as_u64().unwrap() < seconds);
        let by_ticket = format!("/api/v1/streams?ticket={}", made["ticket"].as_str().unwrap());
        // Answers are read to their end.
        let (one, other) = tokio::join!(
            server.ask("GET", "/api/v1/streams", &bearer, b""),
            server.get(&by_ticket),
        );
        assert!(jiff::Timestamp::now() >= expires, "{one:?} {other:?}");
        server.get(&by_ticket).await.is_problem(401, "expired-token");
        if one.status == 200 && other.status == 200 {
            return server.ends().await;
        }
    }
    panic!("too slow");
}

async fn topics_and_keys_of_streams_and_tickets_are_bounded(place: Place) {
    let server = Running::start(&place).await;
    let topics =
        |count: usize| (0..count).map(|n| format!("run.{n}*")).collect::<Vec<_>>().join(",");
    let longest_key = "\u{1}".repeat(512);
    let key = |chars: usize| "%01".repeat(chars);
    drop(Client::follow(&server, &format!("topic={}&key={}", topics(100), key(512)), &[]).await);
    for (field, query) in [("topic", topics(101)), ("topic", ",".to_owned()), ("key", key(513))] {
        let refused = server.get(&format!("/api/v1/streams?{field}={query}")).await;
        assert_eq!(refused.is_problem(400, "bad-parameter")["field"], field);
    }
    let ask = async |field: &str, value: &str| {
        let body = serde_json::json!({ field: value }).to_string();
        server.post("/api/v1/streams/tickets", &body).await
    };
    let long = "x".repeat(2_049);
    for (field, value) in [
        ("topic", topics(101)),
        ("topic", long),
        ("topic", "a**".to_owned()),
        ("key", format!("{longest_key}x")),
        ("key", "\0".to_owned()),
    ] {
        let refused = ask(field, &value).await;
        assert_eq!(refused.is_problem(422, "invalid-field")["field"], field, "{value}");
    }
    // What is longest on the way is still read.
    let body = serde_json::json!({ "topic": "x".repeat(2_048), "key": longest_key }).to_string();
    let made = server.post("/api/v1/streams/tickets", &body).await.json();
    let ticket = made["ticket"].as_str().unwrap();
    drop(Client::follow(&server, &format!("ticket={ticket}"), &[]).await);
    server.ends().await;
}

async fn streams_of_a_caller_are_counted(place: Place) {
    let own = ServerSettings { streams_per_token_max: 2, ..settings() };
    let server = Running::with(&place, own, Arc::new(NoParts)).await;
    let first = Client::follow(&server, "", &[]).await;
    let _second = Client::follow(&server, "", &[]).await;
    let refused = server.get("/api/v1/streams").await;
    refused.is_problem(429, "too-many-streams");
    assert!(refused.headers.contains_key("retry-after"));
    drop(first);
    // The server learns of it when it writes.
    let (_, operations) = place.store().await;
    let freed = async {
        let mut n = 0;
        while !has_room(&server, &[]).await {
            write(&operations, "a", "k", n..n + 1).await;
            n += 1;
        }
    };
    timeout(LIMIT, freed).await.expect("its place is free");
    server.ends().await;
}

/// Whether a stream begins, which ends at once.
pub(crate) async fn has_room(server: &Running, headers: &[(&str, &str)]) -> bool {
    let mut stream = server.connect().await;
    let mut ask = "GET /api/v1/streams HTTP/1.1\r\nhost: localhost\r\n".to_owned();
    for (name, value) in headers {
        ask = format!("{ask}{name}: {value}\r\n");
    }
    stream.write_all(format!("{ask}\r\n").as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    status.ends_with(b"200")
}
