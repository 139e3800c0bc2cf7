//! Starting an entity and taking it on: all of it or nothing.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Place, answer, course_machine, push, refused};
use crate::support;

const JOB: &str = r#"[{"topic": "document-processing", "payload": {"file": 1}}]"#;
const JOBS: &str = r#"[{"topic": "document-processing", "payload": {"file": 1}},
                       {"topic": "document-processing", "payload": {"file": 2}},
                       {"topic": "structure-analysis", "payload": {}, "key": "other"}]"#;

#[tokio::test]
async fn r20_start_writes_state_event_key_and_jobs_and_names_them() {
    let place = Place::new().await;
    let answer = place.start("stage_2_init", "key-1", JOB).await.unwrap();
    assert_eq!(answer["fsmState"], "stage_2_init");
    assert_eq!(answer["entityId"], place.course.to_string());
    let log = support::postgres_log(&place.database).await;
    assert_eq!(answer["outboxEntries"][0]["outbox_id"], log[0].id.to_string());
    assert_eq!(answer["outboxEntries"].as_array().unwrap().len(), 1);
    assert_eq!(
        (log[0].topic.as_str(), log[0].payload.as_slice()),
        ("document-processing", br#"{"file": 1}"#.as_slice())
    );
    assert_eq!(log[0].key, Some(place.course.to_string()));
    assert_eq!(log[0].correlation_id.as_deref(), Some("corr-1"));
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
    let event = "select json_build_array(from_state, to_state, initiated_by, user_id, organization_id, \
                 correlation_id, metadata, id, version)::text from posthaste.state_event";
    let event = self::answer(&place.client, event, &[]).await.unwrap();
    let expected = json!([null, "stage_2_init", "api", "user-1", place.organization, "corr-1",
                          {"title": "Sales"}, answer["eventId"], 1]);
    assert_eq!(event, expected);
}

#[tokio::test]
async fn r49_atomic_coordination_creates_state_machine_and_outbox_entries_atomically() {
    let mut place = Place::new().await;
    let (course, organization) = (place.course, place.organization);
    let transaction = place.client.transaction().await.unwrap();
    super::start(transaction.client(), course, organization, "stage_2_init", "key", JOB)
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(place.counts().await, [0; 4]);
    place.start("stage_2_init", "key", JOB).await.unwrap();
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn r49_atomic_coordination_creates_several_outbox_entries_in_their_order() {
    let place = Place::new().await;
    let answer = place.start("stage_2_init", "key", JOBS).await.unwrap();
    let log = support::postgres_log(&place.database).await;
    let ids: Vec<Value> = log.iter().map(|row| json!(row.id)).collect();
    let entries = answer["outboxEntries"].as_array().unwrap();
    assert_eq!(entries.iter().map(|entry| entry["outbox_id"].clone()).collect::<Vec<_>>(), ids);
    let topics: Vec<&str> = log.iter().map(|row| row.topic.as_str()).collect();
    assert_eq!(topics, ["document-processing", "document-processing", "structure-analysis"]);
    assert_eq!(log[2].key.as_deref(), Some("other"));
}

#[tokio::test]
async fn r49_atomic_coordination_rolls_back_whole_on_failure() {
    let place = Place::new().await;
    let unknown = Uuid::now_v7();
    let of = |course, state: &'static str, jobs: &'static str| {
        super::start(&place.client, course, place.organization, state, "key", jobs)
    };
    let (code, text) = refused(of(place.course, "stage_3_init", JOB).await);
    assert_eq!(
        (code.as_str(), text.as_str()),
        ("PH013", "machine course has no state \"stage_3_init\"")
    );
    let (code, text) = refused(of(unknown, "stage_2_init", JOB).await);
    assert_eq!(
        (code, text),
        ("PH013".to_owned(), format!("machine course has no entity \"{unknown}\""))
    );
    let (code, text) = refused(of(place.course, "stage_2_complete", JOB).await);
    assert_eq!(code, "PH010");
    assert!(text.ends_with("allowed: pending, stage_2_init, stage_4_init"), "{text}");
    for jobs in [
        r#"[{"topic": "good"}, {"topic": "not a topic"}]"#,
        r#"[{"topic": "good"}, {"payload": 1}]"#,
        r#"[{"topic": "good"}, {"topic": "good", "queue": "x"}]"#,
        r#"{"topic": "good"}"#,
    ] {
        let (code, text) = refused(of(place.course, "stage_2_init", jobs).await);
        assert_eq!(code, "22023", "{text}");
    }
    assert_eq!(place.counts().await, [0; 4]);
    // The key was not used up.
    of(place.course, "stage_2_init", JOB).await.unwrap();
}

#[tokio::test]
async fn r21_invalid_input_names_the_field() {
    let place = Place::new().await;
    let long = "x".repeat(257);
    for (argument, value) in [
        ("entity_id", "''".to_owned()),
        ("idempotency_key", format!("'{long}'")),
        ("initiated_by", "E'a\\nb'".to_owned()),
        ("metadata", "'[]'".to_owned()),
        ("messages", "'1'".to_owned()),
        ("organization_id", "''".to_owned()),
    ] {
        let entity = if argument == "entity_id" { "" } else { ", entity_id => 'e'" };
        let call = format!(
            "select posthaste.start_machine(machine => 'course'{entity}, state => 'pending', {argument} => {value})"
        );
        let (code, text) = refused(place.client.query(&call, &[]).await);
        assert_eq!(code, "22023");
        assert!(text.contains(argument), "{text}");
    }
    let call = "select posthaste.start_machine('shop', 'e', 'pending')";
    let (code, text) = refused(place.client.query(call, &[]).await);
    assert_eq!(code, "PH013");
    assert!(text.contains("machines push"), "{text}");
}

#[tokio::test]
async fn r24_steps_leave_a_trail_and_illegal_ones_are_refused() {
    let place = Place::new().await;
    place.start("pending", "key", "[]").await.unwrap();
    let (code, text) = refused(place.go("stage_4_init").await);
    assert_eq!(code, "PH010");
    assert_eq!(
        text,
        "machine course does not go from pending to stage_4_init; allowed: failed, stage_2_init"
    );
    for state in ["stage_2_init", "stage_2_processing", "stage_2_complete"] {
        assert_eq!(place.go(state).await.unwrap()["fsmState"], state);
    }
    let (code, text) = refused(place.go("failed").await);
    assert_eq!(
        (code.as_str(), text.as_str()),
        ("PH014", "the step from stage_2_complete to failed asks for reason in its metadata")
    );
    let trail = "select json_agg(json_build_array(version, from_state, to_state) order by version)::text \
                 from posthaste.state_event";
    let trail = answer(&place.client, trail, &[]).await.unwrap();
    assert_eq!(
        trail,
        json!([
            [1, null, "pending"],
            [2, "pending", "stage_2_init"],
            [3, "stage_2_init", "stage_2_processing"],
            [4, "stage_2_processing", "stage_2_complete"],
        ])
    );
    // Its rule's message, which says what happened.
    let log = support::postgres_log(&place.database).await;
    assert_eq!((log.len(), log[0].topic.as_str()), (1, "courses.stage_2"));
    let told: Value = serde_json::from_slice(&log[0].payload).unwrap();
    assert_eq!(
        (&told["from"], &told["to"], &told["version"]),
        (&json!("stage_2_processing"), &json!("stage_2_complete"), &json!(4))
    );
}

#[tokio::test]
async fn step_that_expects_another_state_is_refused() {
    let place = Place::new().await;
    place.start("pending", "key", "[]").await.unwrap();
    place.go("stage_2_init").await.unwrap();
    let call = "select posthaste.transition('course', $1, 'stage_2_init', 'pending', organization_id => $2)::text";
    let (course, organization) = (place.course.to_string(), place.organization.to_string());
    let (code, text) = refused(answer(&place.client, call, &[&course, &organization]).await);
    assert_eq!(code, "PH011");
    assert_eq!(
        text,
        "the entity is in stage_2_init, not in pending; allowed from there: failed, stage_2_processing"
    );
}

#[tokio::test]
async fn step_waits_for_the_one_before_it_and_is_refused_where_that_was_faster() {
    let place = Place::new().await;
    place.start("pending", "key", "[]").await.unwrap();
    let (course, organization) = (place.course.to_string(), place.organization.to_string());
    let call = "select posthaste.transition('course', $1, 'stage_2_init', 'pending', organization_id => $2)::text";
    place.client.batch_execute("begin").await.unwrap();
    answer(&place.client, call, &[&course, &organization]).await.unwrap();
    let second = place.database.connect().await;
    let second =
        tokio::spawn(async move { answer(&second, call, &[&course, &organization]).await });
    support::somebody_waits(&place.database).await;
    place.client.batch_execute("commit").await.unwrap();
    assert_eq!(refused(second.await.unwrap()).0, "PH011");
    assert_eq!(place.count("posthaste.state_event").await, 2);
}

#[tokio::test]
async fn of_many_that_take_the_same_step_at_once_one_succeeds() {
    let place = Place::new().await;
    place.start("pending", "key", "[]").await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = place.database.connect().await;
        let (course, organization) = (place.course.to_string(), place.organization.to_string());
        tasks.spawn(async move {
            let call = "select posthaste.transition('course', $1, 'stage_2_init', 'pending', organization_id => $2)::text";
            answer(&client, call, &[&course, &organization]).await
        });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for outcome in outcomes.into_iter().filter(Result::is_err) {
        assert_eq!(refused(outcome).0, "PH011");
    }
    assert_eq!(place.count("posthaste.state_event").await, 2);
}

#[tokio::test]
async fn entity_begins_once() {
    let place = Place::new().await;
    place.start("pending", "key-1", JOB).await.unwrap();
    let (code, text) = refused(place.start("stage_2_init", "key-2", JOB).await);
    assert_eq!(code, "PH015");
    assert!(text.ends_with("has begun already and is in pending"), "{text}");
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn r23_what_is_known_of_an_entity_goes_with_its_row_and_messages_stay() {
    let place = Place::new().await;
    place.start("stage_2_init", "key", JOB).await.unwrap();
    let other = super::add_course(&place.client, place.organization).await;
    super::start(&place.client, other, place.organization, "pending", "key-2", JOB).await.unwrap();
    place.client.execute("delete from courses where id = $1", &[&place.course]).await.unwrap();
    assert_eq!(place.counts().await, [1, 1, 1, 2]);
    let (code, _) = refused(place.go("stage_2_processing").await);
    assert_eq!(code, "PH013");
    place.client.batch_execute("truncate courses").await.unwrap();
    assert_eq!(place.counts().await, [0, 0, 0, 2]);
}

#[tokio::test]
async fn r49_data_integrity_references_hold_between_the_tables() {
    let place = Place::new().await;
    place.start("stage_2_init", "key", JOB).await.unwrap();
    for statement in [
        "insert into posthaste.state_event (machine, entity_id, version, id, to_state, metadata) \
         values ('course', 'nobody', 1, gen_random_uuid(), 'pending', '{}')",
        "update posthaste.command set entity_id = 'nobody'",
    ] {
        assert_eq!(refused(place.client.execute(statement, &[]).await).0, "23503", "{statement}");
    }
    let joined = "posthaste.entity e join posthaste.state_event using (machine, entity_id) \
                  join posthaste.command using (machine, entity_id) \
                  join posthaste.log l on l.key = e.entity_id join courses c on c.id::text = e.entity_id";
    assert_eq!(place.count(joined).await, 1);
}

#[tokio::test]
async fn r49_data_integrity_job_data_is_stored_as_it_was_given() {
    let place = Place::new().await;
    let jobs = r#"[{"topic": "t", "payload": {"b":  1.50, "a": ["é", null, {"x": 12345678901234567890}]}}]"#;
    place.start("stage_2_init", "key", jobs).await.unwrap();
    let log = support::postgres_log(&place.database).await;
    let text = r#"{"b":  1.50, "a": ["é", null, {"x": 12345678901234567890}]}"#;
    assert_eq!(log[0].payload, text.as_bytes());
}

#[tokio::test]
async fn r49_data_integrity_events_carry_the_times_of_their_steps() {
    let place = Place::new().await;
    place
        .client
        .batch_execute("create table clock as select clock_timestamp() as began")
        .await
        .unwrap();
    place.start("pending", "key", "[]").await.unwrap();
    place.go("stage_2_init").await.unwrap();
    let rising = "posthaste.state_event a join posthaste.state_event b on a.version = 1 and b.version = 2, clock \
                  where began < a.at and a.at < b.at and b.at < clock_timestamp()";
    assert_eq!(place.count(rising).await, 1);
}

#[tokio::test]
async fn definition_that_lacks_a_state_in_use_is_refused() {
    let place = Place::new().await;
    place.start("pending", "key", "[]").await.unwrap();
    let mut definition = serde_json::to_value(course_machine()).unwrap();
    definition["states"].as_array_mut().unwrap().remove(0);
    let call = "select posthaste.push_machine($1::text::jsonb)";
    let (code, text) = refused(place.client.execute(call, &[&definition.to_string()]).await);
    assert_eq!(code, "PH013");
    assert!(text.contains("is in state pending, which the new definition lacks"), "{text}");
    // The same again, and one that has changed, are fine.
    push(&place.client, &course_machine()).await.unwrap();
}

#[tokio::test]
async fn strict_topics_are_locked_by_the_step_itself() {
    let place = Place::new().await;
    place.client.execute("select posthaste.set_strict('*')", &[]).await.unwrap();
    place.start("stage_2_init", "key", JOBS).await.unwrap();
    place.go("stage_2_processing").await.unwrap();
    place.go("stage_2_complete").await.unwrap();
    assert_eq!(place.count("posthaste.log").await, 4);
}
