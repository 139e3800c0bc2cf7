//! `posthaste relay --once`, for cron and for tests of applications: all that is committed, then the
//! end; or one error that says what is left and why.

use posthaste_testkit::{Postgres, Redis};

use crate::harness::{Place, Ran, deserted_port};

/// A directory with a migrated `SQLite` log and a subscription `orders` to a Redis stream on `port`.
fn to_redis(port: u16, more: &str) -> (Place, String) {
    let stream = format!("{}{{header:tenant}}", Redis::shared().prefix());
    let place = Place::with(&configuration(port, &stream, more));
    place.run(&["migrate"]).succeeds();
    (place, stream)
}

fn configuration(port: u16, stream: &str, more: &str) -> String {
    format!(
        "[database]\nurl = \"sqlite:log.db\"\n{more}\n\
         [subscriptions.orders.sink]\nkind = \"redis-stream\"\n\
         url = \"redis://127.0.0.1:{port}\"\nstream = \"{stream}\"\n"
    )
}

/// The one error that the run ends with; `fragments` stand in it in this order.
fn one_error(ran: &Ran, fragments: &[&str]) {
    let errors: Vec<&str> = ran.stderr.lines().filter(|it| it.starts_with("error:")).collect();
    let [error] = errors[..] else { panic!("{ran:#?}") };
    let mut rest = error;
    for fragment in fragments {
        let (_, after) =
            rest.split_once(fragment).unwrap_or_else(|| panic!("{fragment}: {ran:#?}"));
        rest = after;
    }
}

fn backlogs(place: &Place) -> Vec<i64> {
    let status = place.run(&["status"]).succeeds().objects();
    let subscriptions = status[0]["subscriptions"].as_array().unwrap();
    assert!(subscriptions.iter().all(|it| it["holder"].is_null()), "{subscriptions:?}");
    subscriptions.iter().map(|it| it["backlog"].as_i64().unwrap()).collect()
}

async fn length(stream: &str) -> u64 {
    let client = redis::Client::open(Redis::shared().url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("XLEN").arg(stream).query_async(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn once_publishes_and_settles_all_that_is_committed_for_every_subscription() {
    let (database, redis) = (Postgres::shared().database().await, Redis::shared());
    let prefix = redis.prefix();
    let sink = |name: &str| {
        format!(
            "[subscriptions.{name}.sink]\nkind = \"redis-stream\"\nurl = \"{}\"\n\
             stream = \"{prefix}{name}\"\n",
            redis.url()
        )
    };
    let place = Place::with(&format!(
        "[database]\nurl = \"{}\"\n[subscriptions.some]\ntopics = [\"a\"]\n{}{}",
        database.url(),
        sink("some"),
        sink("all")
    ));
    place.run(&["migrate"]).succeeds();
    let lengths =
        async || (length(&format!("{prefix}some")).await, length(&format!("{prefix}all")).await);
    let mut open = database.connect().await;
    let transaction = open.transaction().await.unwrap();
    transaction.execute("select posthaste.enqueue('a', '1')", &[]).await.unwrap();
    let writer = database.connect().await;
    let load = "select posthaste.enqueue(case when n % 2 = 0 then 'a' else 'b' end, '1') \
                from generate_series(1, 3000) n";
    writer.execute(load, &[]).await.unwrap();
    let due = "select posthaste.enqueue('a', deliver_at => now() - interval '1 second')";
    writer.execute(due, &[]).await.unwrap();

    place.run(&["relay", "--once"]).succeeds();
    assert_eq!(lengths().await, (1_501, 3_001));
    transaction.commit().await.unwrap();
    assert_eq!(backlogs(&place), [1, 1], "what was not committed is for the next run");
    place.run(&["relay", "--once"]).succeeds();
    assert_eq!(lengths().await, (1_502, 3_002));
    assert_eq!(backlogs(&place), [0, 0]);
    place.run(&["relay", "--once"]).succeeds();
    assert_eq!(lengths().await, (1_502, 3_002));
}

#[tokio::test(flavor = "multi_thread")]
async fn once_says_which_sink_was_away_and_the_next_run_publishes_the_rest() {
    let others = "[subscriptions.others]\nsink = { kind = \"stdout\" }";
    let (place, stream) = to_redis(deserted_port(), others);
    place.run(&["enqueue", "a", "--header", "tenant=x", "--count", "5"]).succeeds();
    let failed = place.run(&["relay", "--once", "--timeout", "2s"]).fails(1);
    one_error(
        &failed,
        &["subscription orders is not finished (0 published): ", "refused", "--timeout 2s"],
    );
    assert!(!failed.stderr.contains("subscription others"), "{failed:#?}");
    assert_eq!(backlogs(&place), [5, 0]);

    place.write("posthaste.toml", &configuration(Redis::shared().port(), &stream, others));
    let again = place.run(&["relay", "--once"]).succeeds();
    assert_eq!((failed.objects().len(), again.objects().len()), (5, 0), "each once");
    assert_eq!(length(&stream.replace("{header:tenant}", "x")).await, 5);
    assert_eq!(backlogs(&place), [0, 0]);
}

#[test]
fn once_says_which_message_blocks_a_subscription() {
    let block = "[subscriptions.orders.failure]\nparked_max = 1\nat_limit = \"stop\"\n\
                 retry = { initial = \"1h\", cap = \"1h\" }";
    let (place, _) = to_redis(Redis::shared().port(), block);
    place.run(&["enqueue", "a", "--key", "k", "--header", "tenant=x"]).succeeds();
    for key in ["parked", "blocked"] {
        place.run(&["enqueue", "a", "--key", key]).succeeds();
    }
    let failed = place.run(&["relay", "--once", "--timeout", "2s"]).fails(1);
    one_error(
        &failed,
        &["orders is not finished (1 published): ", "parked_max is met", "no header"],
    );
}

#[test]
fn once_fails_at_once_where_a_subscription_is_paused() {
    let place = Place::migrated("");
    place.run(&["enqueue", "a"]).succeeds();
    place.run(&["relay", "--once"]).succeeds();
    place.run(&["subscriptions", "pause", "orders"]).succeeds();
    place.run(&["relay", "--once"]).succeeds();
    place.run(&["enqueue", "a"]).succeeds();
    let failed = place.run(&["relay", "--once", "--timeout", "10m"]).fails(1);
    one_error(&failed, &["orders is not finished", "`posthaste subscriptions resume orders`"]);
    assert!(!failed.stderr.contains("--timeout"), "{failed:#?}");
    place.run(&["subscriptions", "resume", "orders"]).succeeds();
    assert_eq!(place.run(&["relay", "--once"]).succeeds().objects().len(), 1);
}

#[test]
fn once_that_is_told_to_stop_says_what_is_left() {
    let (place, _) = to_redis(deserted_port(), "");
    place.run(&["enqueue", "a", "--header", "tenant=x"]).succeeds();
    let mut relay = place.start(&["relay", "--once"]);
    relay.log.until("BackingOff");
    relay.signal("TERM");
    let (code, log) = relay.ends();
    assert_eq!(code, Some(1), "{log:#?}");
    let error = log.last().unwrap();
    assert!(error.starts_with("error: subscription orders is not finished (0"), "{log:#?}");
    assert!(!error.contains("--timeout"), "{error}");
}

#[test]
fn timeout_is_for_once_only() {
    let refused = Place::migrated("").run(&["relay", "--timeout", "1s"]).fails(2);
    assert!(refused.stderr.contains("--once"), "{refused:#?}");
}
