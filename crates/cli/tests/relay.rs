//! `posthaste relay` as a process: signals, drain, start, and what it logs.

use crate::harness::{Lines, Place, deserted_port};

fn faults(log: &[String]) -> Vec<&String> {
    log.iter().filter(|line| line.contains("ERROR") || line.contains("WARN")).collect()
}

#[test]
fn r16_sigterm_drains_and_exits_zero() {
    for signal in ["TERM", "INT"] {
        let place = Place::migrated("");
        place.run(&["enqueue", "orders", "--count", "5"]).succeeds();
        let mut relay = place.start(&["relay"]);
        let published = Lines::of(relay.stdout());
        for position in 1..=5 {
            assert!(published.next().contains(&format!("\"position\":{position},")));
        }
        relay.signal(signal);
        assert_eq!(relay.ends().0, Some(0));
        let status = &place.run(&["status"]).succeeds().objects()[0]["subscriptions"][0];
        assert_eq!((status["backlog"].as_i64(), status["holder"].as_str()), (Some(0), None));
        assert_eq!(place.run(&["relay", "--once"]).succeeds().stdout, "", "all was settled");
    }
}

#[test]
fn r16_second_signal_ends_at_once() {
    let place = Place::migrated("");
    // Far more than a pipe holds, so that the batch in flight waits for a reader.
    let payload = "x".repeat(2_000);
    place.run(&["enqueue", "orders", "--count", "1000", "--text", &payload]).succeeds();
    let mut relay = place.start(&["relay"]);
    let mut stdout = relay.stdout();
    std::io::Read::read_exact(&mut stdout, &mut [0]).unwrap();
    relay.signal("TERM");
    relay.log.until("asked to stop");
    relay.signal("TERM");
    assert_eq!(relay.ends().0, Some(130));
}

#[test]
fn r55_drain_logs_no_error() {
    let place = Place::migrated("[log]\nlevel = \"debug\"");
    place.run(&["enqueue", "orders", "--count", "5"]).succeeds();
    let mut relay = place.start(&["relay"]);
    let published = Lines::of(relay.stdout());
    published.until("\"position\":5,");
    relay.signal("TERM");
    let (code, log) = relay.ends();
    assert_eq!(code, Some(0));
    assert!(log.iter().any(|line| line.contains("relay ended")), "{log:#?}");
    assert!(faults(&log).is_empty(), "{log:#?}");
}

#[test]
fn r17_switch_does_not_concern_the_stand_alone_relay() {
    let place = Place::migrated("[relay]\nenabled = false");
    place.run(&["enqueue", "orders"]).succeeds();
    assert_eq!(place.run(&["relay", "--once"]).succeeds().objects().len(), 1);
}

#[test]
fn relay_without_subscriptions_refuses_to_start() {
    let place = Place::with("[database]\nurl = \"sqlite:log.db\"");
    place.run(&["migrate"]).succeeds();
    let ran = place.run(&["relay"]).fails(2);
    assert!(ran.stderr.starts_with("error: no subscription is configured; add"), "{ran:#?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
}

#[test]
fn only_runs_the_subscriptions_it_names() {
    let place =
        Place::migrated("[subscriptions.others]\ntopics = [\"b\"]\nsink = { kind = \"stdout\" }");
    place.run(&["enqueue", "b"]).succeeds();
    let count = |name| place.run(&["relay", "--once", "--only", name]).succeeds().objects().len();
    assert_eq!(count("others"), 1);
    assert_eq!(count("others"), 0);
    assert_eq!(count("orders"), 1);
}

#[test]
fn relay_waits_for_a_database_that_is_away_and_says_so_once() {
    let place = Place::with(&format!(
        "[database]\nurl = \"postgres://me@127.0.0.1:{}/db\"\n\
         [subscriptions.a.sink]\nkind = \"stdout\"\n\
         [relay.retry]\ninitial = \"1ms\"\ncap = \"5ms\"\n[log]\nlevel = \"posthaste=debug\"",
        deserted_port()
    ));
    let mut relay = place.start(&["relay"]);
    let mut log = relay.log.until("\"failures\":5");
    relay.signal("TERM");
    let (code, rest) = relay.ends();
    log.extend(rest);
    assert_eq!(code, Some(0), "{log:#?}");
    assert_eq!(faults(&log).len(), 1, "{log:#?}");
    assert!(faults(&log)[0].contains("database is away"), "{log:#?}");
}

#[test]
fn log_lines_have_the_form_that_is_asked_for() {
    let place = Place::migrated("");
    let json = place.run(&["relay", "--once", "--log-format", "json"]).succeeds().stderr;
    assert!(json.lines().all(|line| line.starts_with("{\"timestamp\":")), "{json}");
    let human = place.run(&["relay", "--once", "--log-format", "human"]).succeeds().stderr;
    assert!(human.contains(" INFO relay starts ") && !human.contains('{'), "{human}");
    assert!(!human.contains('\u{1b}'), "no colours where nobody looks: {human}");
    assert_eq!(place.run(&["relay", "--once", "--log-level", "warn"]).succeeds().stderr, "");
}
