//! Imports that are killed, interrupted, run twice at once, or beside writers.

use std::time::Duration;

use posthaste_testkit::eventually_async;
use serde_json::json;
use tokio_postgres::Client;

use super::{Scene, result};
use crate::harness::Running;

const LIMIT: Duration = Duration::from_mins(1);

/// Lock space of imports; the first source has the number 1.
const TURN: &str = "select pg_advisory_xact_lock(1346914637, 1)";

/// Holds a lock until it is dropped or released.
struct Holder {
    client: Client,
}

impl Holder {
    async fn of(scene: &Scene, lock: &str) -> Self {
        let client = scene.database.connect().await;
        client.batch_execute(&format!("begin; {lock}")).await.unwrap();
        Self { client }
    }

    async fn release(self) {
        self.client.batch_execute("commit").await.unwrap();
    }
}

impl Scene {
    fn start(&self, arguments: &[&str]) -> Running {
        self.place.start(&[&["import", "--table", "outbox"], arguments].concat())
    }

    async fn waits_for_a_lock(&self) {
        let waiting = "select count(*) from pg_stat_activity where application_name = 'posthaste' \
                       and datname = current_database() and wait_event_type = 'Lock'";
        eventually_async("an import that waits for the lock", LIMIT, async || {
            self.number(waiting).await > 0
        })
        .await;
    }

    /// No process of an import is connected any more.
    async fn is_left_alone(&self) {
        let connected = "select count(*) from pg_stat_activity where \
                         application_name = 'posthaste' and datname = current_database()";
        eventually_async("the end of the killed import's connections", LIMIT, async || {
            self.number(connected).await == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn import_killed_at_each_statement_loses_and_repeats_nothing() {
    let scene = Scene::with_rows(2_500).await;
    for lock in [
        "lock table outbox in access exclusive mode",
        "lock table posthaste.import_source in access exclusive mode",
        "lock table posthaste.imported_row in share mode",
        "lock table posthaste.log in share mode",
        "lock table posthaste.audit in share mode",
    ] {
        let holder = Holder::of(&scene, lock).await;
        let import = scene.start(&[]);
        scene.waits_for_a_lock().await;
        import.signal("KILL");
        holder.release().await;
        scene.is_left_alone().await;
        assert_eq!(scene.copied().await, 0, "{lock}");
        let noted = scene.number("select count(*) from posthaste.imported_row").await;
        assert_eq!(noted, 0, "{lock}");
    }
    scene.import(&[]).succeeds();
    scene.holds_all_in_order(2500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn import_killed_on_its_way_goes_on_where_it_was() {
    let scene = Scene::with_rows(50_000).await;
    for share in [1, 5_000, 12_000, 20_000] {
        let import = scene.start(&["--mark-published"]);
        eventually_async("so many messages", LIMIT, async || scene.copied().await >= share).await;
        import.signal("KILL");
        // Before the server has noticed: the next one waits for what is under way.
        drop(import);
        let audited = "select coalesce(sum((detail ->> 'messages')::int8), 0)::int8 \
                       from posthaste.audit";
        let marked = "select count(*) from outbox where published_at is not null";
        scene.is_left_alone().await;
        assert_eq!(scene.number(audited).await, scene.copied().await);
        assert_eq!(scene.number(marked).await, scene.copied().await);
    }
    assert!(scene.copied().await < 50_000, "every kill came too late");
    scene.import(&["--mark-published"]).succeeds();
    scene.holds_all_in_order(50_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_imports_at_once_copy_each_row_once_and_in_order() {
    let scene = Scene::with_rows(20_000).await;
    let holder = Holder::of(&scene, TURN).await;
    let mut imports = [scene.start(&[]), scene.start(&[])];
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted \
                   and database = (select oid from pg_database where datname = current_database())";
    eventually_async("two imports", LIMIT, async || scene.number(waiting).await == 2).await;
    holder.release().await;
    for import in &mut imports {
        let (code, log) = import.ends();
        assert_eq!(code, Some(0), "{log:#?}");
    }
    scene.holds_all_in_order(20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_import_says_what_is_left_and_goes_on() {
    let scene = Scene::with_rows(5_000).await;
    let holder = Holder::of(&scene, TURN).await;
    let mut import = scene.start(&[]);
    scene.waits_for_a_lock().await;
    import.signal("INT");
    import.log.until("asked to stop");
    holder.release().await;
    let (code, log) = import.ends();
    assert_eq!(code, Some(130));
    let log = log.join("\n");
    assert!(log.contains("after 1000 messages; 4000 rows are left"), "{log}");
    assert_eq!(result(&scene.import(&[]).succeeds())["copied"], 4000);
    scene.holds_all_in_order(5000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_that_commits_late_is_told_of_and_copied_by_the_next_import() {
    let scene = Scene::with_rows(10).await;
    let late = "insert into outbox (id, topic, payload) values (0, 'late', '{\"n\": 0}')";
    let writer = Holder::of(&scene, late).await;
    let first = result(&scene.import(&[]).succeeds());
    assert_eq!((&first["copied"], &first["open_transactions"]), (&json!(10), &json!(1)));
    writer.release().await;
    let second = result(&scene.import(&[]).succeeds());
    assert_eq!((&second["copied"], &second["open_transactions"]), (&json!(1), &json!(0)));
    let topics = scene.texts("select topic from posthaste.log order by position desc limit 1");
    assert_eq!(topics.await, ["late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_change_while_it_runs_are_copied_as_they_are_at_their_turn() {
    let scene = Scene::with_rows(10).await;
    let holder = Holder::of(&scene, TURN).await;
    let mut import = scene.start(&[]);
    scene.waits_for_a_lock().await;
    scene
        .client
        .batch_execute(
            "update outbox set published_at = now() where id = 3; \
             delete from outbox where id = 4; \
             update outbox set payload = '{\"n\": 50}' where id = 5; \
             insert into outbox (id, topic, payload) values (-1, 'new', '{\"n\": -1}')",
        )
        .await
        .unwrap();
    holder.release().await;
    assert_eq!(import.ends().0, Some(0));
    let numbers = "select convert_from(payload, 'UTF8')::json ->> 'n' from posthaste.log \
                   order by position";
    assert_eq!(scene.texts(numbers).await, ["1", "2", "50", "6", "7", "8", "9", "10", "-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_that_goes_bad_after_the_check_stops_the_import_at_its_batch() {
    let scene = Scene::with_rows(2_000).await;
    let holder = Holder::of(&scene, TURN).await;
    let mut import = scene.start(&[]);
    scene.waits_for_a_lock().await;
    scene.client.batch_execute("update outbox set key = '' where id = 1500").await.unwrap();
    holder.release().await;
    let (code, log) = import.ends();
    let log = log.join("\n");
    assert_ne!(code, Some(0), "{log}");
    assert!(log.contains("row 1500 of public.outbox: key must be"), "{log}");
    assert!(log.contains("\"messages\":1000"), "{log}");
    assert_eq!(scene.copied().await, 1000);
    scene.client.batch_execute("update outbox set key = 'k' where id = 1500").await.unwrap();
    scene.import(&[]).succeeds();
    scene.holds_all_in_order(2000).await;
}
