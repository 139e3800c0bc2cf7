//! Adopting an outbox that exists, on a real server: what is copied, how, and how often.

mod faults;
mod mapping;

use posthaste_testkit::{Database, Postgres};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::harness::{Place, Ran};

/// A migrated log, with an application's tables beside it.
struct Scene {
    place: Place,
    database: Database,
    client: Client,
}

/// An outbox as many applications have it.
const OUTBOX: &str = "create table outbox (id bigserial primary key, topic text, key text, \
                      payload jsonb, headers json, published_at timestamptz)";

impl Scene {
    async fn new(tables: &str) -> Self {
        let database = Postgres::shared().database().await;
        let place = Place::with(&format!("[database]\nurl = \"{}\"\n", database.url()));
        place.run(&["migrate"]).succeeds();
        let client = database.connect().await;
        client.batch_execute(tables).await.unwrap();
        Self { place, database, client }
    }

    /// An outbox with `rows` rows of three keys, numbered from 1.
    async fn with_rows(rows: u32) -> Self {
        let scene = Self::new(OUTBOX).await;
        scene.write(rows).await;
        scene
    }

    async fn write(&self, rows: u32) {
        let sql = format!(
            "insert into outbox (topic, key, payload) select 'orders', 'k' || n % 3, \
             jsonb_build_object('n', n) from generate_series(1, {rows}) n"
        );
        self.client.batch_execute(&sql).await.unwrap();
    }

    fn import(&self, arguments: &[&str]) -> Ran {
        self.place.run(&[&["import", "--table", "outbox"], arguments].concat())
    }

    async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect()
    }

    async fn copied(&self) -> i64 {
        self.number("select count(*) from posthaste.log").await
    }

    /// The log must hold the rows 1 to `rows` of the outbox, each once and in order.
    async fn holds_all_in_order(&self, rows: i64) {
        let sql = "select convert_from(payload, 'UTF8')::json ->> 'n' from posthaste.log \
                   order by position";
        let numbers: Vec<i64> = self.texts(sql).await.iter().map(|n| n.parse().unwrap()).collect();
        assert!(numbers.iter().copied().eq(1..=rows), "{} rows", numbers.len());
    }
}

/// The last object of a run: its result.
fn result(ran: &Ran) -> Value {
    ran.objects().pop().unwrap_or_else(|| panic!("{ran:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_copied_once_in_order_and_published_ones_are_left_out() {
    let scene = Scene::with_rows(2_500).await;
    scene
        .client
        .batch_execute("update outbox set published_at = now() where id > 2200")
        .await
        .unwrap();
    let copied = scene.import(&["--actor", "ann"]).succeeds();
    let expected = json!({ "table": "public.outbox", "copied": 2200, "marked": 0, "left": 0,
                           "open_transactions": 0, "dry_run": false });
    assert_eq!(result(&copied), expected);
    scene.holds_all_in_order(2200).await;
    let audit = "select actor || ' ' || action || ' ' || (detail ->> 'messages') \
                 from posthaste.audit";
    assert_eq!(scene.texts(audit).await, ["ann import 2200"]);

    assert_eq!(result(&scene.import(&[]).succeeds())["copied"], 0);
    scene.client.batch_execute("update outbox set published_at = null").await.unwrap();
    assert_eq!(result(&scene.import(&[]).succeeds())["copied"], 300);
    scene.holds_all_in_order(2500).await;
    assert_eq!(scene.texts(audit).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_shows_counts_and_mapping_and_writes_nothing() {
    let scene = Scene::with_rows(7).await;
    scene
        .client
        .batch_execute(
            "update outbox set published_at = now() where id = 1; \
                        update outbox set headers = '{\"trace\": \"secret\"}' where id = 2",
        )
        .await
        .unwrap();
    let planned = scene.import(&["--dry-run", "--forget", "--mark-published"]).succeeds();
    let objects = planned.objects();
    assert_eq!(objects.len(), 6, "{planned:#?}");
    assert_eq!(
        objects[0],
        json!({ "row": "2", "message_id": null, "topic": "orders", "key": "k2",
                "content_type": "application/json", "headers": ["trace"],
                "correlation_id": null, "payload_bytes": 8 })
    );
    assert_eq!(
        objects[5],
        json!({ "table": "public.outbox", "rows": 7, "left_out": 1, "copied_before": 0,
                "waiting": 6, "problems": 0, "open_transactions": 0, "dry_run": true })
    );
    assert!(!planned.stdout.contains("secret") && !planned.stdout.contains("{\"n\""));
    for table in ["log", "import_source", "imported_row", "audit"] {
        let sql = format!("select count(*) from posthaste.{table}");
        assert_eq!(scene.number(&sql).await, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_make_no_message_are_all_named_before_anything_is_written() {
    let scene = Scene::with_rows(1_500).await;
    scene
        .client
        .batch_execute(
            "update outbox set topic = 'no topic' where id = 3; \
             update outbox set topic = null where id = 4; \
             update outbox set key = '' where id = 5; \
             update outbox set headers = '{\"a\": 1}' where id = 6; \
             update outbox set payload = to_jsonb(repeat('x', 300000)) where id = 1400",
        )
        .await
        .unwrap();
    for arguments in [&["--dry-run"][..], &[]] {
        let refused = scene.import(arguments).fails(1);
        assert!(refused.stderr.contains("5 of the rows"), "{refused:#?}");
        assert!(refused.stderr.contains("--where"), "{refused:#?}");
        let problems: Vec<Value> =
            refused.objects().into_iter().filter(|it| it["problem"].is_string()).collect();
        let rows: Vec<&str> = problems.iter().map(|it| it["row"].as_str().unwrap()).collect();
        assert_eq!(rows, ["3", "4", "5", "6", "1400"]);
        for (problem, text) in problems.iter().zip([
            "topic must be 1 to 255 ASCII letters",
            "topic needs \"topic\", which is null",
            "key must be 1 to 512 bytes without control characters, not \"\"",
            "headers must be a JSON object of strings",
            "payload must be at most 262144 bytes, not \"300002 bytes\"",
        ]) {
            assert!(problem["problem"].as_str().unwrap().contains(text), "{problem}");
        }
        assert_eq!(scene.copied().await, 0);
    }
    let set = "update outbox set topic = 'bad' where topic is null or topic like '% %' or key = '' \
               or headers is not null or id = 1400";
    scene.client.batch_execute(set).await.unwrap();
    let rest = scene.import(&["--where", "topic=orders"]).succeeds();
    assert_eq!(result(&rest)["copied"], 1495);
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_rows_are_marked_where_that_is_asked_for() {
    let scene = Scene::with_rows(1_200).await;
    scene.import(&["--where", "key=k1"]).succeeds();
    let marked = result(&scene.import(&["--mark-published"]).succeeds());
    // Rows that were copied before are marked and not copied again.
    assert_eq!((&marked["copied"], &marked["marked"]), (&json!(800), &json!(1200)));
    let open = "select count(*) from outbox where published_at is null";
    assert_eq!((scene.number(open).await, scene.copied().await), (0, 1200));

    let flags = "alter table outbox add done boolean; update outbox set done = (id <= 1000)";
    scene.client.batch_execute(flags).await.unwrap();
    scene.write(5).await;
    let arguments = ["--published-at", "done", "--mark-published", "--from", "1150"];
    let marked = result(&scene.import(&arguments).succeeds());
    assert_eq!((&marked["copied"], &marked["marked"]), (&json!(5), &json!(56)));
    assert_eq!(scene.number("select count(*) from outbox where done is not true").await, 149);
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_topic_takes_imported_rows() {
    let scene = Scene::with_rows(1_100).await;
    scene.client.batch_execute("select posthaste.set_strict('orders')").await.unwrap();
    scene.import(&[]).succeeds();
    scene.holds_all_in_order(1100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn table_that_was_created_anew_is_refused_until_the_old_one_is_forgotten() {
    let scene = Scene::with_rows(3).await;
    scene.import(&[]).succeeds();
    scene.client.batch_execute(&format!("drop table outbox; {OUTBOX}")).await.unwrap();
    scene.write(3).await;
    let refused = scene.import(&[]).fails(2);
    assert!(refused.stderr.contains("--forget"), "{refused:#?}");
    assert_eq!(result(&scene.import(&["--forget"]).succeeds())["copied"], 3);
    assert_eq!(result(&scene.import(&[]).succeeds())["copied"], 0);
    assert_eq!(scene.copied().await, 6);
}

/// What a terminal shows of a run.
fn on_a_terminal(scene: &Scene, arguments: &str) -> String {
    let program = env!("CARGO_BIN_EXE_posthaste");
    let mut terminal = std::process::Command::new("script");
    terminal
        .args(["-qec", &format!("{program} import --table outbox {arguments}"), "/dev/null"])
        .current_dir(scene.place.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null());
    let output = terminal.output().expect("script(1) of util-linux runs");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_drawn_on_a_terminal_and_not_with_json() {
    let scene = Scene::with_rows(3_000).await;
    let drawn = on_a_terminal(&scene, "--where key=k1");
    assert!(drawn.contains("copying") && drawn.contains("/1,000"), "{drawn}");
    assert!(drawn.contains("1000 messages copied from public.outbox; 0 rows left"), "{drawn}");
    let plain = on_a_terminal(&scene, "--json");
    assert!(!plain.contains("copying") && plain.contains("\"copied\":2000"), "{plain}");
    assert_eq!(scene.import(&[]).succeeds().stderr, "");
}
