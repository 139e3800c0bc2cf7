//! `posthaste machines`: from a file to what is found, drawn, shown and pushed.

use posthaste_testkit::Postgres;
use rusqlite::Connection;
use serde_json::json;

use crate::harness::Place;

const ORDER: &str = r#"
name = "order"
states = ["draft", "paid", "sent", "lost", "waiting"]
initial = ["draft"]
terminal = ["sent"]

[[transitions]]
from = "draft"
to = "paid"
by = ["checkout"]
requires = ["receipt"]
messages = ["orders.paid"]

[[transitions]]
from = ["paid", "lost"]
to = "sent"

[[transitions]]
from = "paid"
to = "waiting"
"#;

fn place() -> Place {
    let place = Place::with("[database]\nurl = \"sqlite:log.db\"\n");
    place.write("order.toml", ORDER);
    place
}

#[test]
fn check_finds_unreachable_states_and_dead_ends() {
    let place = place();
    let found = place.run(&["machines", "check", "order.toml"]).fails(1);
    let findings = json!([
        "lost is unreachable: no initial state leads to it",
        "waiting is a dead end: no terminal state can be reached from it",
    ]);
    assert_eq!(found.objects()[0], json!({"machine": "order", "states": 5, "findings": findings}));
    let sound =
        ORDER.replace(", \"lost\", \"waiting\"", "").replace("[\"paid\", \"lost\"]", "\"paid\"");
    let sound = sound.split("[[transitions]]\nfrom = \"paid\"\nto = \"waiting\"").next().unwrap();
    place.write("sound.toml", sound);
    let none = place.run(&["machines", "check", "sound.toml"]).succeeds().objects();
    assert_eq!(none[0]["findings"], json!([]));
}

#[test]
fn what_is_no_machine_is_named_with_file_place_and_remedy() {
    let place = place();
    for (text, told) in [
        ("name = \"order\"", "missing field `states`"),
        ("states = [", "bad.toml is no machine"),
        (
            &ORDER.replace("to = \"paid\"", "to = \"payed\""),
            "transitions[0].to: \"payed\" is not one of the states",
        ),
        (&ORDER.replace("requires", "require"), "unknown field `require`"),
    ] {
        place.write("bad.toml", text);
        let refused = place.run(&["machines", "check", "bad.toml"]).fails(2);
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
    }
    let refused = place.run(&["machines", "show", "none.toml"]).fails(2);
    assert!(refused.stderr.contains("cannot read none.toml"), "{}", refused.stderr);
}

#[test]
fn graph_draws_svg_and_mermaid() {
    let place = place();
    let svg = place.run(&["machines", "graph", "order.toml"]).succeeds().stdout;
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    assert!(svg.contains(">waiting</text>") && svg.contains(">checkout</text>"), "{svg}");
    let mermaid = place.run(&["machines", "graph", "order.toml", "--format", "mermaid"]).succeeds();
    assert!(mermaid.stdout.contains("s0 --> s1: checkout"), "{}", mermaid.stdout);
}

#[test]
fn show_prints_the_form_that_the_database_keeps() {
    let place = place();
    let shown = place.run(&["machines", "show", "order.toml"]).succeeds().objects();
    assert_eq!(shown[0]["steps"]["draft"]["paid"]["requires"], json!(["receipt"]));
}

#[test]
fn pushed_machine_stands_in_sqlite_and_forgets_entities_with_their_rows() {
    let place = place();
    place.run(&["migrate"]).succeeds();
    let connection = Connection::open(place.path().join("log.db")).unwrap();
    connection
        .execute_batch(
            "create table orders (id integer primary key); insert into orders values (17)",
        )
        .unwrap();
    let machine =
        ORDER.replace("initial =", "entity = { table = \"main.orders\", key = \"id\" }\ninitial =");
    place.write("order.toml", &machine);
    let dry = place.run(&["machines", "push", "order.toml", "--dry-run"]).succeeds().objects();
    assert_eq!(dry[0], json!({"machine": "order", "dry_run": true}));
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("select count(*) from posthaste_machine"), 0);
    for _ in 0..2 {
        place.run(&["machines", "push", "order.toml"]).succeeds();
    }
    assert_eq!(count("select count(*) from posthaste_machine where json_valid(definition)"), 1);
    assert_eq!(count("select count(*) from posthaste_audit where action = 'push-machine'"), 2);
    connection
        .execute_batch(
            "insert into posthaste_entity (machine, entity_id, state) values ('order', '17', 'paid'), ('order', '18', 'paid'); \
             insert into posthaste_state_event (machine, entity_id, version, id, to_state, metadata) \
             values ('order', '17', 1, x'00', 'paid', '{}')",
        )
        .unwrap();
    place.write("less.toml", &machine.replace("\"paid\"", "\"payed\""));
    let refused = place.run(&["machines", "push", "less.toml"]).fails(2);
    assert!(
        refused.stderr.contains("in state paid, which the new definition lacks"),
        "{}",
        refused.stderr
    );
    connection.execute_batch("delete from orders").unwrap();
    assert_eq!(count("select count(*) from posthaste_entity"), 1);
    assert_eq!(count("select count(*) from posthaste_state_event"), 0);
    let refused = place.run(&["migrate", "--compatibility-function", "order"]).fails(2);
    assert!(refused.stderr.contains("SQLite knows no functions"), "{}", refused.stderr);
    place.write("bad.toml", &machine.replace("key = \"id\"", "key = \"nr\""));
    let refused = place.run(&["machines", "push", "bad.toml"]).fails(2);
    assert!(refused.stderr.contains("has no column \"nr\""), "{}", refused.stderr);
}

#[tokio::test]
async fn pushed_machine_stands_in_postgresql() {
    let database = Postgres::shared().database().await;
    let place = Place::with(&format!("[database]\nurl = \"{}\"\n", database.url()));
    place.write("order.toml", ORDER);
    place.run(&["migrate"]).succeeds();
    place.run(&["machines", "push", "order.toml", "--dry-run"]).succeeds();
    let client = database.connect().await;
    let count = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count("select count(*) from posthaste.machine").await, 0);
    place.run(&["machines", "push", "order.toml", "--actor", "olga"]).succeeds();
    assert_eq!(count("select count(*) from posthaste.audit where actor = 'olga'").await, 1);
    client.execute("select posthaste.start_machine('order', '17', 'draft')", &[]).await.unwrap();
    let made = place.run(&["migrate", "--compatibility-function", "order"]).succeeds().objects();
    assert_eq!(made[0]["compatibility_function"], "order");
    let there = "select count(*) from pg_proc where proname = 'initialize_fsm_with_outbox'";
    assert_eq!(count(there).await, 1);
    let refused = place.run(&["migrate", "--compatibility-function", "none"]).fails(2);
    assert!(refused.stderr.contains("there is no machine \"none\""), "{}", refused.stderr);
    place.write("less.toml", &ORDER.replace("\"draft\"", "\"drafted\""));
    let refused = place.run(&["machines", "push", "less.toml"]).fails(2);
    assert!(
        refused.stderr.contains("in state draft, which the new definition lacks"),
        "{}",
        refused.stderr
    );
}
