//! Replays of more messages than one transaction takes.

use std::time::Duration;

use posthaste_testkit::{Database, Postgres, eventually_async};
use tokio_postgres::Client;

use crate::harness::{Place, Running};

const LIMIT: Duration = Duration::from_mins(1);

/// More than two pieces.
const MESSAGES: usize = 20_005;

/// That many published messages in a log, and a subscription to stdout.
async fn place() -> (Place, Database, Client) {
    let database = Postgres::shared().database().await;
    let place = Place::with(&format!(
        "[database]\nurl = \"{}\"\n[subscriptions.orders.sink]\nkind = \"stdout\"\n",
        database.url()
    ));
    place.run(&["migrate"]).succeeds();
    let client = database.connect().await;
    let sql = format!(
        "insert into posthaste.log (id, topic, payload, content_type, headers) \
         select gen_random_uuid(), 'a', '', 'a/b', '{{}}' from generate_series(1, {MESSAGES})"
    );
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(place.run(&["relay", "--once"]).succeeds().stdout.lines().count(), MESSAGES);
    (place, database, client)
}

async fn copies(client: &Client) -> i64 {
    let sql = "select count(*) from posthaste.failed_message";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Publishes every copy as soon as it is written, as the fastest relay would, and keeps its id.
async fn publish_at_once(client: &Client) {
    client
        .batch_execute(
            "create table sent (id uuid); \
             create function send() returns trigger language plpgsql as $$ begin \
             insert into sent values (new.id); return null; end $$; \
             create trigger send before insert on posthaste.failed_message \
             for each row execute function send()",
        )
        .await
        .unwrap();
}

/// The messages that were published again, and how many different ones they are.
async fn sent(client: &Client) -> (usize, usize) {
    let sql = "select count(*), count(distinct id) from sent";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get::<_, i64>(0) as usize, row.get::<_, i64>(1) as usize)
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_replay_of_many_messages_takes_each_once() {
    let (place, _database, client) = place().await;
    let replay = ["replay", "--subscription", "orders"];
    let seen = place.run(&[&replay[..], &["--dry-run"]].concat()).succeeds().objects();
    assert_eq!((&seen[0]["replayed"], copies(&client).await), (&MESSAGES.into(), 0));
    let limited = place.run(&[&replay[..], &["--dry-run", "--limit", "10001"]].concat()).succeeds();
    assert_eq!(limited.objects()[0]["replayed"], 10_001);
    publish_at_once(&client).await;
    let replayed = place.run(&replay).succeeds();
    assert_eq!(replayed.stderr, "", "nothing is drawn where nobody looks");
    assert_eq!(sent(&client).await, (MESSAGES, MESSAGES));
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_keeps_its_rate_over_its_pieces() {
    let (place, _database, client) = place().await;
    place.run(&["replay", "--subscription", "orders", "--rate", "10"]).succeeds();
    // Of 20,005 at 10 a second, the last is due 2,000.4 seconds after the first.
    let spread = "select extract(epoch from max(due) - min(due))::float8, \
                  count(distinct round(extract(epoch from due))) from posthaste.failed_message";
    let row = client.query_one(spread, &[]).await.unwrap();
    let (seconds, distinct): (f64, i64) = (row.get(0), row.get(1));
    assert!((1_990.0..2_060.0).contains(&seconds), "{seconds}");
    assert!(distinct >= 1_990, "{distinct}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_replay_says_where_it_goes_on() {
    let (place, database, client) = place().await;
    let holder = database.connect().await;
    let lock = "begin; lock table posthaste.failed_message in share mode";
    holder.batch_execute(lock).await.unwrap();
    let mut replay = place.start(&["replay", "--subscription", "orders"]);
    waits_for_a_lock(&client).await;
    replay.signal("INT");
    replay.log.until("asked to stop");
    holder.batch_execute("commit").await.unwrap();
    let log = ends(&mut replay, 130);
    assert!(log.contains("10000 messages are on their way"), "{log}");
    assert!(log.contains("--after 10000"), "{log}");
    assert_eq!(copies(&client).await, 10_000);
    place.run(&["replay", "--subscription", "orders", "--after", "10000"]).succeeds();
    assert_eq!(copies(&client).await, MESSAGES as i64);
}

pub(crate) async fn waits_for_a_lock(client: &Client) {
    let waiting = "select count(*) from pg_stat_activity where application_name = 'posthaste' \
                   and datname = current_database() and wait_event_type = 'Lock'";
    eventually_async("somebody who waits for the lock", LIMIT, async || {
        client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
}

fn ends(running: &mut Running, code: i32) -> String {
    let (ended, log) = running.ends();
    let log = log.join("\n");
    assert_eq!(ended, Some(code), "{log}");
    log
}
