//! `initialize_fsm_with_outbox`, as callers of a hand-made coordinator know it.

use posthaste_store::{
    Operations as _,
    postgres::{PostgresOptions, PostgresStore},
};
use serde_json::{Value, json};
use tokio_postgres::Error;
use uuid::Uuid;

use super::{Place, refused};
use crate::support;

const JOBS: &str = r#"[{"queue": "document-processing", "data": {"file": 1}, "options": {"priority": 2}},
                       {"queue": "structure-analysis"}]"#;

async fn place() -> Place {
    let place = Place::new().await;
    let store = PostgresStore::connect(place.database.url(), &PostgresOptions::default()).unwrap();
    for _ in 0..2 {
        store.create_compatibility_function("course").await.unwrap();
    }
    let error = store.create_compatibility_function("cou'rse").await.unwrap_err();
    assert!(error.to_string().contains("machines push"), "{error}");
    place
}

async fn initialize(place: &Place, course: Uuid, state: &str, jobs: &str) -> Result<Value, Error> {
    let user = Uuid::nil();
    let call = "select initialize_fsm_with_outbox(p_entity_id => $1, p_user_id => $2, \
                p_organization_id => $3, p_idempotency_key => 'key', p_initiated_by => 'API', \
                p_initial_state => $4, p_job_data => $5::text::jsonb, \
                p_metadata => '{\"title\": \"Sales\"}')::text";
    super::answer(&place.client, call, &[&course, &user, &place.organization, &state, &jobs]).await
}

#[tokio::test]
async fn r20_function_of_the_known_signature_begins_an_entity_with_its_jobs() {
    let place = place().await;
    let first = initialize(&place, place.course, "stage_2_init", JOBS).await.unwrap();
    assert_eq!(first["fsmState"], "stage_2_init");
    let log = support::postgres_log(&place.database).await;
    assert_eq!(log.len(), 2);
    for (row, entry) in log.iter().zip(first["outboxEntries"].as_array().unwrap()) {
        assert_eq!(entry["outbox_id"], json!(row.id));
    }
    let topics: Vec<&str> = log.iter().map(|row| row.topic.as_str()).collect();
    assert_eq!(topics, ["document-processing", "structure-analysis"]);
    assert_eq!((&*log[0].payload, &*log[1].payload), (&br#"{"file": 1}"#[..], &b"{}"[..]));
    assert_eq!(log[0].content_type, "application/json");
    assert_eq!(log[0].headers, [("job-options".to_owned(), r#"{"priority": 2}"#.to_owned())]);
    assert_eq!(log[1].headers, []);
    // Twice is once.
    assert_eq!(initialize(&place, place.course, "stage_2_init", JOBS).await.unwrap(), first);
    assert_eq!(place.counts().await, [1, 1, 1, 2]);
}

#[tokio::test]
async fn r21_function_of_the_known_signature_rolls_back_whole_and_is_nobodys_until_granted() {
    let place = place().await;
    for (course, state, jobs, code) in [
        (Uuid::now_v7(), "stage_2_init", JOBS, "PH013"),
        (place.course, "no_such_state", JOBS, "PH013"),
        (place.course, "stage_2_complete", JOBS, "PH010"),
        (place.course, "stage_2_init", "{}", "22023"),
        (place.course, "stage_2_init", "[1]", "22023"),
        (place.course, "stage_2_init", r#"[{"data": 1}]"#, "22023"),
        (place.course, "stage_2_init", r#"[{"queue": "good"}, {"queue": "a b"}]"#, "22023"),
        (place.course, "stage_2_init", r#"[{"queue": "good", "delay": 5}]"#, "22023"),
    ] {
        let outcome = initialize(&place, course, state, jobs).await;
        assert_eq!(refused(outcome).0, code, "{state} {jobs}");
    }
    assert_eq!(place.counts().await, [0; 4]);
    let mine = "select count(*) from pg_proc p, aclexplode(proacl) a \
                where proname = 'initialize_fsm_with_outbox' and a.grantee <> p.proowner";
    let granted: i64 = place.client.query_one(mine, &[]).await.unwrap().get(0);
    let pinned = "select prosecdef and proconfig = array['search_path=pg_catalog, pg_temp'] \
                  from pg_proc where proname = 'initialize_fsm_with_outbox'";
    let is_pinned: bool = place.client.query_one(pinned, &[]).await.unwrap().get(0);
    assert_eq!((granted, is_pinned), (0, true));
}
