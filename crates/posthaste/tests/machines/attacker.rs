//! What a role that may call the functions cannot do with them.

use tokio_postgres::Client;
use uuid::Uuid;

use super::{Place, add_course, refused, start};

const JOB: &str = r#"[{"topic": "document-processing", "payload": {}}]"#;
const FUNCTIONS: &str = "grant execute on function \
     posthaste.start_machine(text, text, text, text, text, text, text, json, jsonb, text), \
     posthaste.transition(text, text, text, text, text, text, text, text, json, jsonb, text) to {role}";

/// A connection as a role that has `grants` and the use of the schema.
async fn as_role(place: &Place, grants: &str) -> Client {
    let client = place.database.connect().await;
    let role = format!("attacker_{}", place.database.name());
    client
        .batch_execute(&format!("create role {role}; grant usage on schema posthaste to {role}"))
        .await
        .unwrap();
    client.batch_execute(&grants.replace("{role}", &role)).await.unwrap();
    client.batch_execute(&format!("set session authorization {role}")).await.unwrap();
    client
}

#[tokio::test]
async fn r21_functions_are_for_those_to_whom_they_were_granted() {
    let place = Place::new().await;
    let stranger = as_role(&place, "").await;
    let start = start(&stranger, place.course, place.organization, "pending", "key", JOB).await;
    assert_eq!(refused(start).0, "42501");
    for call in [
        "select posthaste.transition('course', 'x', 'pending')",
        "select posthaste.begin_command('s', 'k', sha256(''), gen_random_uuid())",
        "select posthaste.push_machine('{}')",
    ] {
        assert_eq!(refused(stranger.query(call, &[]).await).0, "42501", "{call}");
    }
}

#[tokio::test]
async fn r23_tables_are_written_and_read_by_the_functions_alone() {
    let place = Place::new().await;
    place.start("pending", "key", JOB).await.unwrap();
    // Even where somebody has granted the tables, their rows are the system's.
    let tables = "posthaste.entity, posthaste.state_event, posthaste.command";
    let caller = as_role(&place, &format!("{FUNCTIONS}; grant all on {tables} to {{role}}")).await;
    for table in ["entity", "state_event", "command"] {
        let rows = caller.query(&format!("select * from posthaste.{table}"), &[]).await.unwrap();
        assert!(rows.is_empty(), "{table}");
        let deleted = caller.execute(&format!("delete from posthaste.{table}"), &[]).await.unwrap();
        assert_eq!(deleted, 0, "{table}");
    }
    for statement in [
        "insert into posthaste.entity (machine, entity_id, state) values ('course', 'x', 'pending')",
        "insert into posthaste.state_event (machine, entity_id, version, id, to_state, metadata) \
         values ('course', 'x', 1, gen_random_uuid(), 'pending', '{}')",
        "insert into posthaste.command (scope, key, fingerprint, owner) values ('s', 'k', sha256(''), gen_random_uuid())",
    ] {
        assert_eq!(refused(caller.execute(statement, &[]).await).0, "42501", "{statement}");
    }
    assert_eq!(
        caller.execute("update posthaste.entity set state = 'failed'", &[]).await.unwrap(),
        0
    );
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn r21_shadow_objects_are_not_met() {
    let place = Place::new().await;
    let caller = as_role(&place, FUNCTIONS).await;
    let role = format!("attacker_{}", place.database.name());
    let schema = format!("create schema evil authorization {role}");
    place.client.batch_execute(&schema).await.unwrap();
    // Tables are looked for among the temporary ones first, functions and operators by the path.
    let shadows = "create temp table entity (machine text, entity_id text, state text, version bigint, user_id text, organization_id text); \
         create temp table courses (id uuid, organization_id uuid); \
         create function evil.gen_random_uuid() returns uuid language sql as $$ select null::uuid $$; \
         create function evil.sha256(bytea) returns bytea language sql as $$ select null::bytea $$; \
         create function evil.clock_timestamp() returns timestamptz language sql as $$ select null::timestamptz $$; \
         create function evil.yes(text, text) returns boolean language sql as $$ select true $$; \
         create operator evil.= (function = evil.yes, leftarg = text, rightarg = text); \
         set search_path = pg_temp, evil, posthaste, pg_catalog";
    caller.batch_execute(shadows).await.unwrap();
    let unknown = Uuid::now_v7();
    caller
        .execute("insert into pg_temp.courses values ($1, $2)", &[&unknown, &place.organization])
        .await
        .unwrap();
    let of_shadow = start(&caller, unknown, place.organization, "pending", "key", JOB).await;
    assert_eq!(refused(of_shadow).0, "PH013");
    start(&caller, place.course, place.organization, "pending", "key", JOB).await.unwrap();
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
    let complete = "posthaste.state_event where id is not null and at is not null";
    assert_eq!(place.count(complete).await, 1);
}

#[tokio::test]
async fn other_organisation_neither_finds_an_entity_nor_learns_of_it() {
    let place = Place::new().await;
    place.start("pending", "key", JOB).await.unwrap();
    let stranger = Uuid::now_v7();
    let missing = Uuid::now_v7();
    for course in [place.course, missing] {
        let expected = ("PH013".to_owned(), format!("machine course has no entity \"{course}\""));
        // With the key that the entity's own organisation has used: its answer is not handed out.
        for key in ["key", "another"] {
            let start = start(&place.client, course, stranger, "pending", key, JOB).await;
            assert_eq!(refused(start), expected);
        }
        let step =
            "select posthaste.transition('course', $1, 'stage_2_init', organization_id => $2)";
        let (course, stranger) = (course.to_string(), stranger.to_string());
        assert_eq!(refused(place.client.query(step, &[&course, &stranger]).await), expected);
        let step = "select posthaste.transition('course', $1, 'stage_2_init')";
        assert_eq!(refused(place.client.query(step, &[&course]).await), expected);
    }
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn key_of_one_organisation_says_nothing_about_anothers() {
    let place = Place::new().await;
    place.start("pending", "key", JOB).await.unwrap();
    let organization = Uuid::now_v7();
    let course = add_course(&place.client, organization).await;
    let answer = start(&place.client, course, organization, "pending", "key", "[]").await.unwrap();
    assert_eq!(answer["entityId"], course.to_string());
}

#[tokio::test]
async fn names_in_a_definition_are_quoted() {
    let place = Place::new().await;
    place
        .client
        .batch_execute(r#"create table "Odd; drop table courses" ("key; --" int primary key)"#)
        .await
        .unwrap();
    let mut definition = serde_json::to_value(super::course_machine()).unwrap();
    definition["name"] = "odd".into();
    definition["entity"] =
        serde_json::json!({"table": "public.Odd; drop table courses", "key": "key; --"});
    let call = "select posthaste.push_machine($1::text::jsonb)";
    place.client.execute(call, &[&definition.to_string()]).await.unwrap();
    place
        .client
        .batch_execute(r#"insert into "Odd; drop table courses" values (1)"#)
        .await
        .unwrap();
    for (entity, code) in [
        ("1", None),
        ("2", Some("PH013")),
        ("1; --", Some("PH013")),
        ("99999999999", Some("PH013")),
    ] {
        let call = "select posthaste.start_machine('odd', $1, 'pending')";
        let outcome = place.client.query(call, &[&entity]).await;
        match code {
            None => drop(outcome.unwrap()),
            Some(code) => assert_eq!(refused(outcome).0, code, "{entity}"),
        }
    }
    assert_eq!(place.count("courses").await, 1);
}
