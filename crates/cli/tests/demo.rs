//! The demo in one command, on what the binary brings with it.

use serde_json::Value;

use crate::harness::{Place, Ran};

/// The one line of a demo's result: every count is there, and nothing went wrong.
pub(crate) fn is_faultless(ran: &Ran) {
    let objects = ran.objects();
    let [line] = objects.as_slice() else { panic!("one line: {ran:#?}") };
    let names: Vec<&String> = line.as_object().expect("an object").keys().collect();
    let expected = [
        "delivered",
        "duplicated",
        "enqueued",
        "lag_ms_p50",
        "lag_ms_p99",
        "lost",
        "published",
        "reordered",
        "rolled_back",
    ];
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
    let count = |name: &str| line[name].as_u64().expect("a count");
    assert!(count("enqueued") > 50, "{line}");
    assert_eq!(count("delivered"), count("enqueued"), "{line}");
    assert_eq!([count("lost"), count("duplicated"), count("reordered")], [0, 0, 0], "{line}");
    // One in five of all orders is rolled back.
    assert!(count("rolled_back").abs_diff(count("enqueued") / 4) <= 2, "{line}");
    assert!(line["lag_ms_p99"].as_f64() >= line["lag_ms_p50"].as_f64(), "{line}");
}

#[test]
fn demo_for_a_while_ends_with_one_line_of_counts() {
    let place = Place::new();
    is_faultless(&place.run(&["demo", "--for", "2s", "--json"]).succeeds());
    assert_eq!(std::fs::read_dir(place.path()).expect("the directory").count(), 0);
}

#[test]
fn interrupted_demo_drains_and_reports() {
    let mut running = Place::new().start(&["demo", "--rate", "100"]);
    running.log.until("enqueued");
    running.signal("INT");
    let (code, rest) = running.ends();
    assert_eq!(code, Some(0), "{rest:#?}");
}

#[test]
fn demo_names_a_server_that_is_away_and_a_url_that_is_none() {
    let away = format!("redis://127.0.0.1:{}", crate::harness::deserted_port());
    let ran = Place::new().run(&["demo", "--for", "1s", "--sink", &away]).fails(3);
    assert!(ran.stderr.contains("--sink"), "{ran:#?}");
    let ran = Place::new().run(&["demo", "--for", "1s", "--store", "mysql://localhost/x"]).fails(2);
    assert!(ran.stderr.contains("\"mysql\" is not postgres"), "{ran:#?}");
    let error: Value = {
        let ran =
            Place::new().run(&["demo", "--json", "--for", "1s", "--sink", "http://x"]).fails(2);
        serde_json::from_str(ran.stderr.trim()).expect("an error object")
    };
    assert_eq!(error["error"]["exit_code"], 2);
}
