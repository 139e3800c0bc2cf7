//! Which column becomes what, byte for byte, and what is refused.

use serde_json::json;

use super::{Scene, result};

#[tokio::test(flavor = "multi_thread")]
async fn payloads_of_every_type_arrive_byte_for_byte() {
    let scene = Scene::new(
        "create domain body as json; \
         create table a (id int primary key, topic text, payload json); \
         create table b (id int primary key, topic text, payload jsonb); \
         create table c (id int primary key, topic text, payload text); \
         create table d (id int primary key, topic text, payload bytea); \
         create table e (id int primary key, topic text, payload body); \
         insert into a values (1, 'a', ' {\"b\":1.10,  \"b\" : \"ö\"}'), (2, 'a', null); \
         insert into b values (1, 'b', '{\"b\": 1.10, \"a\":2}'); \
         insert into c values (1, 'c', E'grüß\\n'), (2, 'c', ''); \
         insert into d values (1, 'd', '\\xff00'); \
         insert into e values (1, 'e', '[1 ]')",
    )
    .await;
    for table in ["a", "b", "c", "d", "e"] {
        scene.place.run(&["import", "--table", table, "--all"]).succeeds();
    }
    let sql = "select topic || ' ' || content_type || ' ' || encode(payload, 'escape') \
               from posthaste.log order by position";
    let expected = [
        "a application/json  {\"b\":1.10,  \"b\" : \"\\303\\266\"}",
        "a application/json ",
        "b application/json {\"a\": 2, \"b\": 1.10}",
        "c text/plain; charset=utf-8 gr\\303\\274\\303\\237\n",
        "c text/plain; charset=utf-8 ",
        "d application/octet-stream \\377\\000",
        "e application/json [1 ]",
    ];
    assert_eq!(scene.texts(sql).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_identifiers_are_what_they_are() {
    let scene = Scene::new(
        r#"create schema "Odd.Schema"; create table kept (id int);
           create table "Odd.Schema"."x""; drop table kept; --" (
             "Id" uuid primary key, "the ""topic""" text, "order" timestamptz, "select" text,
             "pay'load" text, "h$1" jsonb, "c id" text);
           insert into "Odd.Schema"."x""; drop table kept; --" values
             ('00000000-0000-7000-8000-000000000002', 't1', '2026-01-02', 'k', 'second',
              '{"b": "2", "a": "1"}', 'c'),
             ('00000000-0000-7000-8000-000000000001', 't2', '2026-01-01', null, 'first',
              null, null)"#,
    )
    .await;
    let copied = scene
        .place
        .run(&[
            "import",
            "--table",
            r#""Odd.Schema"."x""; drop table kept; --""#,
            "--id",
            "Id",
            "--topic",
            "a.{the \"topic\"}",
            "--order-by",
            "order",
            "--key",
            "select",
            "--payload",
            "pay'load",
            "--headers",
            "h$1",
            "--correlation-id",
            "c id",
            "--header",
            "row=Id",
            "--content-type",
            "text/x",
            "--all",
        ])
        .succeeds();
    assert_eq!(result(&copied)["copied"], 2);
    assert_eq!(scene.number("select count(*) from kept").await, 0);
    let tail = scene.place.run(&["tail"]).succeeds().objects();
    let second = "00000000-0000-7000-8000-000000000002";
    assert_eq!((&tail[0]["payload"], &tail[0]["key"]), (&json!("first"), &json!(null)));
    assert_eq!((&tail[0]["topic"], &tail[0]["content_type"]), (&json!("a.t2"), &json!("text/x")));
    assert_eq!((&tail[1]["id"], &tail[1]["key"]), (&json!(second), &json!("k")));
    assert_eq!(tail[1]["correlation_id"], "c");
    assert_eq!(tail[1]["headers"], json!({ "row": second, "a": "1", "b": "2" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn debezium_table_is_routed_as_its_router_does() {
    let scene = Scene::new(
        "create table outboxevent (id uuid primary key, aggregatetype varchar(255) not null, \
         aggregateid varchar(255) not null, type varchar(255) not null, payload varchar, \
         created_at timestamp not null); \
         insert into outboxevent values \
         ('cc74eac7-176b-44e5-a63d-5bb5acfb1a26', 'Order', '2', 'OrderCreated', \
          '{\"id\": 2}', '2026-01-02'), \
         ('406c07f3-26f0-4eea-a50c-109940064b8f', 'Order', '1', 'OrderCreated', \
          '{\"id\": 1}', '2026-01-01')",
    )
    .await;
    let import = ["import", "--table", "outboxevent", "--layout", "debezium"];
    let unsaid = scene.place.run(&[&import[..], &["--all"]].concat()).fails(2);
    assert!(unsaid.stderr.contains("--order-by"), "{unsaid:#?}");
    let unsaid = scene.place.run(&[&import[..], &["--order-by", "created_at"]].concat()).fails(2);
    assert!(unsaid.stderr.contains("--all"), "{unsaid:#?}");
    scene.place.run(&[&import[..], &["--order-by", "created_at", "--all"]].concat()).succeeds();
    let tail = scene.place.run(&["tail"]).succeeds().objects();
    assert_eq!(tail.len(), 2);
    let id = "406c07f3-26f0-4eea-a50c-109940064b8f";
    assert_eq!((&tail[0]["id"], &tail[0]["key"]), (&json!(id), &json!("1")));
    assert_eq!(tail[0]["topic"], "outbox.event.Order");
    assert_eq!(tail[0]["headers"], json!({ "id": id, "eventType": "OrderCreated" }));
    assert_eq!(tail[0]["content_type"], "application/json");
    assert_eq!(tail[0]["payload"], "{\"id\": 1}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_equal_order_follow_their_ids_and_a_start_leaves_earlier_ones_out() {
    let scene = Scene::new(
        "create table outbox (id int primary key, topic text, at timestamptz, payload text); \
         insert into outbox select n, 't', '2026-01-01'::timestamptz + (n / 4) * interval '1 day', \
         n::text from generate_series(1, 11) n",
    )
    .await;
    let arguments = ["--all", "--order-by", "at", "--from", "2026-01-02 00:00:00+00"];
    scene.import(&arguments).succeeds();
    let payloads = "select convert_from(payload, 'UTF8') from posthaste.log order by position";
    assert_eq!(scene.texts(payloads).await, ["4", "5", "6", "7", "8", "9", "10", "11"]);
    let refused = scene.import(&["--all", "--order-by", "at", "--from", "soon"]).fails(2);
    assert!(refused.stderr.contains("soon"), "{refused:#?}");
    scene.client.batch_execute("update outbox set at = null where id = 2").await.unwrap();
    let refused = scene.import(&["--all", "--order-by", "at"]).fails(1);
    assert!(refused.stdout.contains("order must be given, not null"), "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_named_with_what_there_is() {
    let scene = Scene::new(
        "create table outbox (id int, topic text, payload point, published_at int); \
         create view seen as select * from outbox",
    )
    .await;
    for (arguments, text) in [
        (vec!["--table", "outbux"], "there is no table \"outbux\""),
        (vec!["--table", "seen"], "there is no table \"seen\""),
        (vec!["--table", "a.b.c"], "no name of a table"),
        (vec!["--table", "outbox", "--topic", "{kind}"], "no unique index on the ids \"id\""),
        (vec!["--table", "outbox", "--id", "ID"], "no column \"ID\"; it has id, topic, payload"),
        (vec!["--table", "outbox", "--id", "payload", "--order-by", "id"], "of type point"),
        (vec!["--table", "outbox", "--where", "x"], "NAME=VALUE"),
    ] {
        let refused = scene.place.run(&[&["import", "--all"], &arguments[..]].concat()).fails(2);
        assert!(refused.stderr.contains(text), "{text}: {refused:#?}");
    }
    scene.client.batch_execute("alter table outbox add primary key (id)").await.unwrap();
    for (arguments, text) in [
        (vec!["--payload", "topic", "--topic", "{kind}"], "no column \"kind\""),
        (vec![], "has payloads \"payload\" of type point"),
        (vec!["--payload", "topic"], "\"published_at\" of type integer"),
        (vec!["--payload", "topic", "--headers", "id"], "headers \"id\" of type integer"),
    ] {
        let refused = scene.import(&[&["--all"], &arguments[..]].concat()).fails(2);
        assert!(refused.stderr.contains(text), "{text}: {refused:#?}");
    }
    let embedded = crate::harness::Place::migrated("");
    let refused = embedded.run(&["import", "--table", "outbox"]).fails(2);
    assert!(refused.stderr.contains("PostgreSQL"), "{refused:#?}");
}
