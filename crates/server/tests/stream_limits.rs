//! What bounds live streams: what a client takes, how long it hears nothing, how many a token has, a ticket's time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use posthaste_core::Message;
use posthaste_server::{NoParts, Scope, Server, ServerSettings, Telemetry};
use posthaste_store::Operations;
use posthaste_testkit::eventually_async;
use serde_json::json;
use tokio::{net::TcpSocket, time::timeout};

use crate::{
    streams::{Client, has_room, write},
    support::{LIMIT, Place, Running, on_both_stores, settings, token},
};

on_both_stores! {
    r36_client_that_stops_reading_is_cut_off_and_comes_again_without_gap_or_repetition,
    comment_is_heard_where_there_are_no_events,
    tokens_have_limits_of_their_own_and_share_that_of_all,
    expired_ticket_is_refused_as_such,
}

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_mins(5);
/// More than the hub keeps for a client and the system between its sockets: 16 MB.
const EVENTS: u64 = 80;
const EVENT_BYTES: usize = 200_000;

/// A connection whose client has little room for what it does not read.
async fn narrow(server: &Running) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(server.address).await.unwrap()
}

/// Writes so many events, each with so many bytes.
async fn write_much(
    operations: &Arc<dyn Operations>,
    topic: &str,
    numbers: std::ops::Range<u64>,
    bytes: usize,
) {
    let pad = "x".repeat(bytes);
    let message = |n: u64| Message::new(topic).key("k").json(&json!({ "n": n, "pad": pad }));
    for n in numbers.step_by(10) {
        let messages: Vec<Message> = (n..n + 10).map(message).collect();
        operations.append(&messages).await.unwrap();
    }
}

/// A client that comes again whenever its stream ends.
struct Faithful<'a> {
    server: &'a Running,
    query: String,
    client: Client,
    comings: u32,
}

impl Faithful<'_> {
    /// The number of its next event.
    async fn number(&mut self) -> u64 {
        loop {
            if let Some(event) = self.client.next().await {
                return event["payload"]["n"].as_u64().unwrap();
            }
            self.comings += 1;
            let last = [("last-event-id", self.client.last.as_deref().unwrap())];
            self.client = Client::follow(self.server, &self.query, &last).await;
        }
    }

    async fn numbers(&mut self, count: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            numbers.push(self.number().await);
        }
        numbers
    }
}

async fn r36_client_that_stops_reading_is_cut_off_and_comes_again_without_gap_or_repetition(
    place: Place,
) {
    // Its connection is closed; or it is kept, and gets no more than what there was room for.
    let ways = [(SHORT, "posthaste_streams 0"), (LONG, "posthaste_streams_cut_off_total 1")];
    for (write_timeout, is_over) in ways {
        let (jobs, operations) = place.store().await;
        let telemetry = Telemetry::default();
        let own = ServerSettings { write_timeout, ..settings() };
        let server = Server::new(own, jobs, Arc::clone(&operations)).unwrap();
        let server = Running::of(server.with_telemetry(telemetry.clone()).bind().unwrap());
        let topic = format!("much.{}", write_timeout.as_secs());
        let query = format!("topic={topic}");
        let client = Client::follow_on(narrow(&server).await, &query, &[]).await;
        let mut client = Faithful { server: &server, query, client, comings: 0 };
        write_much(&operations, &topic, 0..10, 1).await;
        let mut seen = client.numbers(10).await;
        assert_eq!(client.comings, 0, "it has taken all that came");
        write_much(&operations, &topic, 10..EVENTS, EVENT_BYTES).await;
        eventually_async("it to be cut off", LIMIT, async || {
            telemetry.metrics().lines().any(|line| line == is_over)
        })
        .await;
        // What would come twice comes before the last ten.
        seen.extend(client.numbers(EVENTS - 10).await);
        assert!(client.comings > 0, "it was cut off before it had everything");
        write_much(&operations, &topic, EVENTS..EVENTS + 10, 1).await;
        seen.extend(client.numbers(10).await);
        assert_eq!(seen, (0..EVENTS + 10).collect::<Vec<u64>>());
        server.ends().await;
    }
}

async fn comment_is_heard_where_there_are_no_events(place: Place) {
    let own = ServerSettings { stream_silence_max: SHORT, ..settings() };
    let server = Running::with(&place, own, Arc::new(NoParts)).await;
    let mut client = Client::follow(&server, "topic=none", &[]).await;
    let heard = async {
        let mut words = 0;
        while words < 3 {
            let chunk = client.chunk().await.expect("it goes on");
            assert!(!chunk.contains("data:"), "{chunk}");
            words += usize::from(chunk == ":\n\n");
        }
    };
    timeout(LIMIT, heard).await.expect("comments");
    let (_, operations) = place.store().await;
    write(&operations, "none", "k", 5..6).await;
    assert_eq!(client.take(1).await[0]["payload"], 5);
    server.ends().await;
}

/// A server whose tokens `a` and `b` may look, and their secrets.
async fn with_two(
    place: &Place,
    mut own: ServerSettings,
) -> (Running, BTreeMap<&'static str, String>) {
    let mut secrets = BTreeMap::new();
    for name in ["a", "b"] {
        let (token, secret) = token(&[Scope::View], None);
        own.tokens.insert(name.to_owned(), token);
        secrets.insert(name, secret);
    }
    (Running::with(place, own, Arc::new(NoParts)).await, secrets)
}

async fn ticket(server: &Running, secret: &str) -> String {
    let made =
        server.ask("POST", "/api/v1/streams/tickets", &[("authorization", secret)], b"").await;
    made.json()["ticket"].as_str().unwrap().to_owned()
}

async fn tokens_have_limits_of_their_own_and_share_that_of_all(place: Place) {
    let own = ServerSettings { streams_max: 3, streams_per_token_max: 2, ..settings() };
    let (running, secrets) = with_two(&place, own).await;
    let (server, [a, b]) = (&running, ["a", "b"].map(|name| [("authorization", &*secrets[name])]));
    let of_a = format!("ticket={}", ticket(server, &secrets["a"]).await);
    let is_full = async |query: &str, headers: &[(&str, &str)]| {
        let path = format!("/api/v1/streams?{query}");
        let refused = server.ask("GET", &path, headers, b"").await;
        refused.is_problem(429, "too-many-streams");
    };
    let first = Client::follow(server, "", &a).await;
    let _by_ticket = Client::follow(server, &of_a, &[]).await;
    is_full("", &a).await;
    is_full(&of_a, &[]).await;
    let _other = Client::follow(server, "", &b).await;
    // It has one of two, and all of them are three.
    is_full("", &b).await;
    drop(first);
    // The server learns of it when it writes; then there is room for either.
    let (_, operations) = place.store().await;
    let freed = async {
        while !has_room(server, &b).await {
            write(&operations, "a", "k", 0..1).await;
        }
    };
    timeout(LIMIT, freed).await.expect("a place is free");
    running.ends().await;
}

async fn expired_ticket_is_refused_as_such(place: Place) {
    let own = ServerSettings { ticket_lifetime: Duration::from_secs(1), ..settings() };
    let (server, secrets) = with_two(&place, own).await;
    let ticket = ticket(&server, &secrets["a"]).await;
    let path = format!("/api/v1/streams?since=7&ticket={ticket}");
    eventually_async("its time to be over", LIMIT, async || {
        let answer = server.get(&path).await;
        if answer.status == 401 {
            assert_eq!(answer.is_problem(401, "expired-token")["field"], "ticket");
            return true;
        }
        // It is good still: what is wrong is where the stream should begin.
        answer.is_problem(400, "bad-parameter");
        false
    })
    .await;
    server.ends().await;
}
