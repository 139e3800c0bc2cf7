//! Every role on every object, and the attacks that the grants and pinned search paths keep out.

use std::time::Duration;

use crate::taking::taken;
use posthaste_core::{Message, TopicFilter};
use posthaste_store::{
    Aside, ContractText, ContractsMark, FailedMessage, Operations as _, Request, RoleNames, Start,
    Store as _, StoreErrorKind, SubscriptionSpec,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{Database, Postgres};
use tokio_postgres::{Client, error::SqlState};

const ROLES: [&str; 4] = ["writer", "relay", "worker", "viewer"];

/// What viewers see whole.
const SEEN: [&str; 17] = [
    "subscription",
    "lease",
    "tick",
    "progress",
    "parked_key",
    "audit",
    "place",
    "relay",
    "emptied",
    "incident",
    "machine",
    "entity",
    "inbox",
    "execution",
    "jobs",
    "operation",
    "worker",
];

/// A migrated database with roles of its own, since roles belong to the whole cluster, and a
/// login for each.
struct Scene {
    database: Database,
    admin: Client,
    prefix: String,
}

async fn scene() -> Scene {
    let database = Postgres::shared().database().await;
    let store = open(database.url());
    store.migrate().await.unwrap();
    let prefix = format!("r{}", database.name().rsplit('_').next().unwrap());
    let name = |role: &str| format!("{prefix}_{role}").parse().unwrap();
    let [writer, relay, worker, viewer] = ROLES.map(name);
    let names = RoleNames { writer, relay, worker, viewer };
    store.create_roles(&names).await.unwrap();
    store.create_roles(&names).await.expect("safe to run again");
    let admin = database.connect().await;
    for role in ROLES {
        let sql = format!("create role {prefix}_{role}_login login in role {prefix}_{role}");
        admin.batch_execute(&sql).await.unwrap();
    }
    Scene { database, admin, prefix }
}

fn open(url: &str) -> PostgresStore {
    PostgresStore::connect(url, &PostgresOptions::default()).unwrap()
}

impl Scene {
    fn url(&self, role: &str) -> String {
        self.database.url().replace("postgres@", &format!("{}_{role}_login@", self.prefix))
    }

    async fn login(&self, role: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(role), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn relations(&self) -> Vec<(String, String)> {
        let sql = "select relname::text, relkind::text from pg_class \
                   where relnamespace = 'posthaste'::regnamespace and relkind in ('r', 'p', 'v') \
                   order by 1";
        let rows = self.admin.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// What a role may do to a relation as a whole.
    async fn may(&self, role: &str, relation: &str) -> String {
        let role = format!("{}_{role}", self.prefix);
        let mut may = Vec::new();
        for right in ["select", "insert", "update", "delete", "truncate"] {
            let sql = "select has_table_privilege($1::text, 'posthaste.' || $2::text, $3::text)";
            let row = self.admin.query_one(sql, &[&role, &relation, &right]).await.unwrap();
            if row.get(0) {
                may.push(right);
            }
        }
        may.join(" ")
    }
}

/// Whether the database refused for want of a right.
fn is_denied<T>(answer: Result<T, tokio_postgres::Error>) -> bool {
    answer.is_err_and(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE))
}

#[tokio::test]
async fn every_role_may_do_to_every_table_what_its_task_needs_and_no_more() {
    let scene = scene().await;
    for (relation, kind) in scene.relations().await {
        let is_slot = relation.rsplit_once('_').is_some_and(|(_, n)| n.parse::<u32>().is_ok());
        let parent = if is_slot { relation.rsplit_once('_').unwrap().0 } else { &relation };
        for role in ROLES {
            let may = scene.may(role, &relation).await;
            let expected = match (role, parent) {
                ("relay", _) if is_slot => "select truncate",
                ("relay", "tick" | "progress") => "select insert",
                ("relay", "subscription" | "lease" | "emptied") => "select insert update",
                ("relay", "parked_key" | "failed_message" | "relay" | "incident") => {
                    "select insert update delete"
                }
                ("relay", "scheduled" | "token" | "inbox") => "select update delete",
                ("writer", "scheduled") => "delete",
                ("relay", _) | (_, "meta" | "contract") | ("worker", "cron") => "select",
                ("viewer", table) if !is_slot && SEEN.contains(&table) => "select",
                _ => "",
            };
            assert_eq!(may, expected, "{role} on {relation} ({kind})");
        }
    }
}

#[tokio::test]
async fn writer_enqueues_and_can_neither_forge_nor_read() {
    let scene = scene().await;
    let writer = scene.login("writer").await;
    writer.batch_execute("select posthaste.enqueue('t', '{}', key => 'k')").await.unwrap();
    writer.batch_execute("select posthaste.enqueue_many('[{\"topic\": \"t\"}]')").await.unwrap();
    let scheduled = "select posthaste.enqueue('t', '{}', token => 'a', deliver_at => now())";
    writer.batch_execute(scheduled).await.unwrap();
    writer.batch_execute(scheduled).await.unwrap();
    writer.batch_execute("select posthaste.cancel(gen_random_uuid())").await.unwrap();
    scene.admin.execute("select posthaste.set_strict('strict')", &[]).await.unwrap();
    writer.batch_execute("begin; select posthaste.lock_keys('{k}')").await.unwrap();
    writer.batch_execute("select posthaste.enqueue('strict', key => 'k'); rollback").await.unwrap();
    let columns = "id, topic, payload, content_type, headers";
    let values = "gen_random_uuid(), 't', '', 'a/b', '{}'";
    let insert = format!("insert into posthaste.log ({columns}) values ({values})");
    writer.batch_execute(&insert).await.unwrap();
    for forged in [
        // A transaction id of the past would hide the message from every window.
        format!("insert into posthaste.log (xid, {columns}) values ('3', {values})"),
        format!("insert into posthaste.log (position, {columns}) values (1, {values})"),
        format!("insert into posthaste.log (enqueued_at, {columns}) values (now(), {values})"),
        "select payload from posthaste.log".to_owned(),
        "select payload from posthaste.outbox".to_owned(),
        "select payload from posthaste.failed_message".to_owned(),
        "select payload from posthaste.scheduled".to_owned(),
        "select posthaste.set_strict('strict', false)".to_owned(),
        "update posthaste.log set topic = 'x'".to_owned(),
        "delete from posthaste.log".to_owned(),
        "truncate posthaste.log_0".to_owned(),
        "update posthaste.lease set epoch = 0".to_owned(),
        "insert into posthaste.progress (subscription, base_tick, base_id, epoch) \
         values (1, 0, gen_random_uuid(), 1)"
            .to_owned(),
        "select setval('posthaste.log_position_seq', 1)".to_owned(),
        "create table posthaste.mine (a int)".to_owned(),
    ] {
        assert!(is_denied(writer.batch_execute(&forged).await), "{forged}");
    }
    let head = scene.admin.query_one("select count(*) from posthaste.log", &[]).await.unwrap();
    assert_eq!(head.get::<_, i64>(0), 3);
}

#[tokio::test]
async fn relay_publishes_with_its_role_alone() {
    let scene = scene().await;
    open(scene.database.url()).append(&[Message::new("t").key("k").text("1")]).await.unwrap();
    let relay = open(&scene.url("relay"));
    relay.check().await.unwrap();
    assert_eq!(relay.preflight().await.unwrap(), Vec::<String>::new());
    let filter = TopicFilter::all();
    let spec = SubscriptionSpec { name: "s".to_owned(), filter, start: Start::Beginning };
    relay.reconcile(&[spec]).await.unwrap();
    let tick = relay.ticker().advance().await.unwrap().tick;
    let (epoch, place) = taken(&relay, "s", "one").await;
    let window = relay.window(place.base, None).await.unwrap().unwrap();
    let limit = posthaste_core::PageLimit { stride: 100, bytes: 1 << 20 };
    let page = relay.read(&window, 0, &TopicFilter::all(), limit).await.unwrap().unwrap();
    let message = page.get(0);
    let failed = FailedMessage {
        position: message.position,
        id: message.id,
        tick: tick.n,
        attempts: 1,
        reason: "no".to_owned(),
        retry_in: None,
        holds_key: false,
    };
    let place = place.finished(tick);
    let changes = [Aside::Keep(failed.clone())];
    relay.set_aside("s", epoch, &changes, Some(&place)).await.unwrap();
    relay.aside("s").await.unwrap();
    let published = Aside::Published { position: failed.position, id: failed.id };
    relay.set_aside("s", epoch, &[published], None).await.unwrap();
    let writer = scene.login("writer").await;
    scene.admin.execute("select posthaste.set_strict('t')", &[]).await.unwrap();
    let scheduled = "select posthaste.enqueue('t', '{}', key => 'k', deliver_at => now())";
    writer.batch_execute(scheduled).await.unwrap();
    assert_eq!(relay.move_due(10).await.unwrap().count, 1);
    relay.sweep().await.unwrap();
    relay.status().await.unwrap();
    relay.release("s", epoch).await.unwrap();

    let client = scene.login("relay").await;
    for beyond in [
        "update posthaste.log set payload = ''",
        "delete from posthaste.log",
        "insert into posthaste.audit (actor, action, detail) values ('x', 'x', '{}')",
        "drop table posthaste.tick",
    ] {
        assert!(client.batch_execute(beyond).await.is_err(), "{beyond}");
    }
}

#[tokio::test]
async fn r31_contracts_are_read_by_every_role_and_pushed_by_the_owner() {
    let scene = scene().await;
    let contracts = |schema: &str| {
        let (topic, schema) = ("t".to_owned(), schema.to_owned());
        vec![ContractText { topic, version: 1, schema }]
    };
    let request = Request { actor: "ann".to_owned(), is_dry_run: false, is_forced: false };
    let owner = open(scene.database.url());
    owner.push_contracts(&contracts("{}"), &request).await.unwrap();
    for role in ROLES {
        let store = open(&scene.url(role));
        let seen = store.contracts(&ContractsMark::default()).await.unwrap().unwrap();
        assert_eq!(seen.contracts[0].schema, "{}", "{role}");
        let pushed = store.push_contracts(&contracts("true"), &request).await;
        assert_eq!(pushed.unwrap_err().kind(), StoreErrorKind::Privilege, "{role}");
        let removed = store.remove_contract("t", 1, &request).await;
        assert_eq!(removed.unwrap_err().kind(), StoreErrorKind::Privilege, "{role}");
    }
    let revoke = format!("revoke select on posthaste.contract from {}_relay", scene.prefix);
    scene.admin.batch_execute(&revoke).await.unwrap();
    let error = open(&scene.url("relay")).preflight().await.unwrap_err().to_string();
    assert!(error.contains("lacks posthaste.contract (select)"), "{error}");
}

#[tokio::test]
async fn worker_handles_messages_once_and_may_do_nothing_else() {
    let scene = scene().await;
    let worker = scene.login("worker").await;
    let id = "'01920000-0000-7000-8000-000000000001'";
    let once = format!("select posthaste.handle_once('mail', {id})");
    let many = format!("select count(*) from posthaste.handle_many('mail', array[{id}]::uuid[])");
    assert!(worker.query_one(&once, &[]).await.unwrap().get::<_, bool>(0));
    assert!(!worker.query_one(&once, &[]).await.unwrap().get::<_, bool>(0));
    assert_eq!(worker.query_one(&many, &[]).await.unwrap().get::<_, i64>(0), 0);
    let handled = "posthaste.inbox (consumer, message_id";
    for beyond in [
        // What looks old would be swept too early.
        &format!("insert into {handled}, handled_at) values ('a', gen_random_uuid(), now())"),
        "select consumer from posthaste.inbox",
        "update posthaste.inbox set handled_at = now()",
        "delete from posthaste.inbox",
        "truncate posthaste.inbox",
        "select posthaste.enqueue('t', '{}')",
        "select posthaste.cancel(gen_random_uuid())",
        "select payload from posthaste.log",
        "select * from posthaste.token",
        "select posthaste.set_strict('*')",
        "create table posthaste.mine (a int)",
    ] {
        assert!(is_denied(worker.batch_execute(beyond).await), "{beyond}");
    }
    for role in ["writer", "relay", "viewer"] {
        let other = scene.login(role).await;
        for call in [&once, &many] {
            assert!(is_denied(other.batch_execute(call).await), "{role}: {call}");
        }
    }
    let viewer = scene.login("viewer").await;
    let seen =
        viewer.query_one("select consumer, handled_at is not null from posthaste.inbox", &[]);
    let seen = seen.await.unwrap();
    assert_eq!((seen.get(0), seen.get(1)), ("mail", true));
    let relay = open(&scene.url("relay"));
    let forgetful =
        PostgresOptions { inbox_retention: Duration::ZERO, ..PostgresOptions::default() };
    assert_eq!(relay.sweep().await.unwrap().inbox_deleted, 0);
    let relay = PostgresStore::connect(&scene.url("relay"), &forgetful).unwrap();
    assert_eq!(relay.sweep().await.unwrap().inbox_deleted, 1);
}

#[tokio::test]
async fn viewer_sees_everything_but_payloads_and_headers() {
    let scene = scene().await;
    open(scene.database.url()).append(&[Message::new("t").text("secret")]).await.unwrap();
    let viewer = scene.login("viewer").await;
    for seen in [
        "select id, topic, published_at from posthaste.outbox",
        "select id, subscription, state from posthaste.messages",
        "select id, reason from posthaste.failed_message",
        "select * from posthaste.place",
        "select * from posthaste.audit",
    ] {
        viewer.query(seen, &[]).await.unwrap_or_else(|error| panic!("{seen}: {error}"));
    }
    for relation in ["log", "outbox", "messages", "failed_message"] {
        for column in ["payload", "headers", "*"] {
            let sql = format!("select {column} from posthaste.{relation}");
            assert!(is_denied(viewer.query(&sql, &[]).await), "{sql}");
        }
    }
    let insert = viewer.batch_execute("select posthaste.enqueue('t', '{}')").await;
    assert!(is_denied(insert));
    let error = open(&scene.url("viewer")).preflight().await.unwrap_err().to_string();
    assert!(
        error.contains("posthaste.tick (insert)") && error.contains("_viewer_login"),
        "{error}"
    );
}

#[tokio::test]
async fn viewer_reads_the_status_that_an_owner_reads() {
    let scene = scene().await;
    // So little room that whatever pins the log has to be told.
    let options = PostgresOptions { retention_bytes: Some(1), ..PostgresOptions::default() };
    let [owner, viewer] = [scene.database.url().to_owned(), scene.url("viewer")]
        .map(|url| PostgresStore::connect(&url, &options).unwrap());
    let filter = TopicFilter::all();
    let spec = SubscriptionSpec { name: "all".to_owned(), filter, start: Start::Beginning };
    owner.reconcile(&[spec]).await.unwrap();
    owner.append(&[Message::new("t").text("secret")]).await.unwrap();
    let (seen, told) = (viewer.status().await.unwrap(), owner.status().await.unwrap());
    assert!(seen.size.pin.is_some(), "{seen:?}");
    assert_eq!(seen.subscriptions[0].backlog, 1);
    assert_eq!(
        (seen.head, seen.messages, seen.size.pin),
        (told.head, told.messages, told.size.pin)
    );
}

#[tokio::test]
async fn hostile_search_path_and_shadow_objects_change_nothing() {
    let scene = scene().await;
    let login = format!("{}_writer_login", scene.prefix);
    let evil = format!(
        "create schema evil authorization {login}; \
         create table evil.log (id uuid, topic text, key text, payload bytea, content_type text, \
         headers text[], correlation_id text); \
         create table evil.meta (payload_bytes_max int); insert into evil.meta values (0); \
         create function evil.octet_length(bytea) returns int language sql as 'select 0'; \
         create function evil.octet_length(text) returns int language sql as 'select 0'; \
         create function evil.pg_current_xact_id() returns xid8 language sql \
         as $$select '3'::xid8$$; \
         create function evil.nextval(regclass) returns bigint language sql as 'select 1::bigint'; \
         create function evil.clock_timestamp() returns timestamptz language sql \
         as $$select 'epoch'::timestamptz$$; \
         grant usage on schema evil to {login}, {}_worker_login",
        scene.prefix
    );
    scene.admin.batch_execute(&evil).await.unwrap();
    let writer = scene.login("writer").await;
    writer.batch_execute("set search_path = evil, posthaste, pg_catalog").await.unwrap();
    writer.batch_execute("select posthaste.enqueue('t', '{}')").await.unwrap();
    // The limits hold as well.
    let long = "x".repeat(300);
    let refused =
        writer.batch_execute(&format!("select posthaste.enqueue('{long}', '{{}}')")).await;
    assert!(refused.is_err());
    let sql = "select count(*), min(xid::text::bigint), min(enqueued_at) > now() - interval '1 hour' \
               from posthaste.log";
    let row = scene.admin.query_one(sql, &[]).await.unwrap();
    let (count, xid, is_now): (i64, i64, bool) = (row.get(0), row.get(1), row.get(2));
    assert!(count == 1 && xid > 3 && is_now, "{count} {xid} {is_now}");
    let worker = scene.login("worker").await;
    worker.batch_execute("set search_path = evil, posthaste, pg_catalog").await.unwrap();
    let long = "x".repeat(256);
    let refused = worker
        .batch_execute(&format!("select posthaste.handle_once('{long}', gen_random_uuid())"))
        .await;
    assert!(refused.is_err());
    let shadow = scene.admin.query_one("select count(*) from evil.log", &[]).await.unwrap();
    assert_eq!(shadow.get::<_, i64>(0), 0);
}

/// Calls of functions that run as the owner, and who may make them.
const OF_THE_OWNER: [(&str, &[&str]); 28] = [
    ("start_machine('m', 'e', 's')", &["writer", "worker"]),
    ("transition('m', 'e', 's')", &["writer", "worker"]),
    ("begin_command('s', 'k', sha256(''), gen_random_uuid())", &["writer", "worker"]),
    ("complete_command('s', 'k', gen_random_uuid(), '')", &["writer", "worker"]),
    ("renew_command('s', 'k', gen_random_uuid(), '1 minute')", &["writer", "worker"]),
    ("abandon_command('s', 'k', gen_random_uuid())", &["writer", "worker"]),
    ("forget_commands('1 day', 10)", &["relay"]),
    ("submit_job_bytes('t', '')", &["writer", "worker"]),
    ("cancel_job(gen_random_uuid())", &["writer", "worker"]),
    ("register_worker('w', '{}', '{}', '1', '1 minute')", &["worker"]),
    ("handled_messages('c', '{}')", &["worker"]),
    ("renew_worker(gen_random_uuid(), '1 minute', true)", &["worker"]),
    ("retire_workers(gen_random_uuid(), 1)", &["worker"]),
    ("begin_jobs(gen_random_uuid(), '{}', '{}')", &["worker"]),
    ("finish_jobs(gen_random_uuid(), '{}', '{}', '{}', '{}', '{}', '{}', '{}')", &["worker"]),
    ("note_progress(gen_random_uuid(), '{}', '{}', '{}')", &["worker"]),
    ("republish_jobs('{}')", &["worker"]),
    ("refuse_jobs('{}', '{}')", &["worker"]),
    ("waiting_jobs('1 minute', 1)", &["worker"]),
    ("push_cron('c', '{}', now())", &["worker"]),
    ("tick_cron('c', now(), now())", &["worker"]),
    ("retry_job(gen_random_uuid(), 1)", &[]),
    ("note_moved_job(gen_random_uuid(), 1)", &["relay"]),
    ("forget_jobs('1 day', 10)", &["relay"]),
    ("index_slot(3, 1000)", &["relay"]),
    ("unindex_slot(3)", &["relay"]),
    ("push_machine('{}')", &[]),
    ("forget_entity()", &[]),
];

#[tokio::test]
async fn functions_that_run_as_the_owner_are_for_those_whose_task_needs_them() {
    let scene = scene().await;
    let owned = "select proname::text from pg_proc where prosecdef \
                 and pronamespace = 'posthaste'::regnamespace";
    for row in scene.admin.query(owned, &[]).await.unwrap() {
        let name: &str = row.get(0);
        let is_listed = OF_THE_OWNER.iter().any(|(call, _)| call.starts_with(name));
        assert!(is_listed, "{name} runs as the owner: say here who may call it");
    }
    for role in ROLES {
        let client = scene.login(role).await;
        for (call, allowed) in OF_THE_OWNER {
            let outcome = client.query(&format!("select posthaste.{call}"), &[]).await;
            assert_eq!(is_denied(outcome), !allowed.contains(&role), "{role}: {call}");
        }
    }
}

#[tokio::test]
async fn viewer_sees_entities_and_neither_metadata_nor_answers() {
    let scene = scene().await;
    let machine = "select posthaste.push_machine('{\"name\": \"m\", \"states\": [\"s\"], \
                   \"initial\": [\"s\"], \"terminal\": [], \"steps\": {}}')";
    scene.admin.batch_execute(machine).await.unwrap();
    let writer = scene.login("writer").await;
    writer.batch_execute("select posthaste.start_machine('m', 'e', 's', 'key')").await.unwrap();
    assert!(is_denied(writer.query("select * from posthaste.entity", &[]).await));
    let viewer = scene.login("viewer").await;
    for (columns, table) in
        [("state", "entity"), ("to_state, at", "state_event"), ("key", "command")]
    {
        let sql = format!("select {columns} from posthaste.{table}");
        assert_eq!(viewer.query(&sql, &[]).await.unwrap().len(), 1, "{table}");
    }
    for (column, table) in
        [("metadata", "state_event"), ("response", "command"), ("fingerprint", "command")]
    {
        let sql = format!("select {column} from posthaste.{table}");
        assert!(is_denied(viewer.query(&sql, &[]).await), "{table}.{column}");
    }
    // What the relay may read by name, its rows do not say.
    let relay = scene.login("relay").await;
    assert!(relay.query("select * from posthaste.command", &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn relay_is_told_at_its_start_which_right_it_lacks() {
    let scene = scene().await;
    let store = open(&scene.url("relay"));
    assert_eq!(store.preflight().await.unwrap(), Vec::<String>::new());
    let relay = format!("{}_relay", scene.prefix);
    for (right, what, named) in [
        ("delete", "posthaste.inbox", "posthaste.inbox (delete)"),
        ("select", "posthaste.log", "posthaste.log (select)"),
        (
            "execute",
            "function posthaste.forget_commands(interval, int)",
            "posthaste.forget_commands(interval, int) (execute)",
        ),
    ] {
        let revoke = format!("revoke {right} on {what} from {relay}");
        scene.admin.batch_execute(&revoke).await.unwrap();
        let error = store.preflight().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Privilege);
        assert!(error.to_string().contains(named), "{error}");
        assert!(error.to_string().contains("posthaste roles"), "{error}");
        scene.admin.batch_execute(&format!("grant {right} on {what} to {relay}")).await.unwrap();
    }
}
