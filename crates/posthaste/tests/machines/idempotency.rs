//! One key, one effect, one answer.

use std::time::Duration;

use posthaste::{Begun, CacheCounts, CacheSettings, Command, CommandCache, Commands};
use posthaste_testkit::Redis;
use tokio::task::JoinSet;

use super::{Place, add_course, answer, refused, start};

const JOB: &str = r#"[{"topic": "document-processing", "payload": {"file": 1}}]"#;

#[tokio::test]
async fn r49_idempotency_repeat_gets_the_first_answer() {
    let place = Place::new().await;
    let first = place.start("stage_2_init", "key", JOB).await.unwrap();
    place.go("stage_2_processing").await.unwrap();
    // The entity has gone on since: the answer has not.
    let repeat = place.start("stage_2_init", "key", JOB).await.unwrap();
    assert_eq!(repeat.to_string(), first.to_string());
    assert_eq!(place.counts().await, [1, 2, 1, 1]);
}

#[tokio::test]
async fn r49_idempotency_keys_are_independent_of_each_other() {
    let place = Place::new().await;
    place.start("stage_2_init", "key-1", JOB).await.unwrap();
    let other = add_course(&place.client, place.organization).await;
    let second =
        start(&place.client, other, place.organization, "stage_2_init", "key-2", JOB).await;
    assert_eq!(second.unwrap()["entityId"], other.to_string());
    assert_eq!(place.counts().await, [2, 2, 2, 2]);
}

#[tokio::test]
async fn r49_idempotency_different_keys_create_separate_entities() {
    let place = Place::new().await;
    let mut entities = Vec::new();
    for nth in 0..3 {
        let course = add_course(&place.client, place.organization).await;
        let key = format!("key-{nth}");
        let answer = start(&place.client, course, place.organization, "pending", &key, "[]").await;
        entities.push(answer.unwrap()["entityId"].to_string());
    }
    entities.dedup();
    assert_eq!(entities.len(), 3);
}

#[tokio::test]
async fn r22_key_with_another_request_is_a_conflict() {
    let place = Place::new().await;
    place.start("stage_2_init", "key", JOB).await.unwrap();
    for (state, jobs) in [("pending", JOB), ("stage_2_init", "[]")] {
        let (code, text) = refused(place.start(state, "key", jobs).await);
        assert_eq!(code, "PH012");
        assert!(text.starts_with("the key \"key\" stands for another request"), "{text}");
    }
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn r49_idempotency_100_concurrent_requests_with_one_key_have_one_effect_and_one_answer() {
    let place = Place::new().await;
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let client = place.database.connect().await;
        let (course, organization) = (place.course, place.organization);
        calls.spawn(async move {
            start(&client, course, organization, "stage_2_init", "key", JOB)
                .await
                .unwrap()
                .to_string()
        });
    }
    let answers: Vec<String> = calls.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn r49_idempotency_second_request_is_answered_by_the_cache() {
    let mut place = Place::new().await;
    let settings = CacheSettings { timeout: Duration::from_secs(10), ..CacheSettings::default() };
    let client = redis::Client::open(Redis::shared().url()).unwrap();
    let cache = CommandCache::new(client, Redis::shared().prefix(), &settings).unwrap();
    let commands = Commands::default().with_cache(cache.clone());
    let request = || Command::new("courses", "key", JOB.as_bytes());

    let first = request();
    assert_eq!(commands.answer(&first).await.unwrap(), None);
    let (course, organization) = (place.course.to_string(), place.organization.to_string());
    let transaction = place.client.transaction().await.unwrap();
    let begun = commands.begin(&transaction, &first, Duration::from_mins(1)).await.unwrap();
    assert_eq!(begun, Begun::First);
    let call = "select posthaste.start_machine('course', $1, 'stage_2_init', organization_id => $2, \
                messages => $3::text::json)::text";
    let started = answer(transaction.client(), call, &[&course, &organization, &JOB]).await;
    let response = started.unwrap().to_string().into_bytes();
    commands.complete(&transaction, &first, &response).await.unwrap();
    transaction.commit().await.unwrap();
    commands.remember(&place.client, &first, &response).await.unwrap();

    assert_eq!(commands.answer(&request()).await.unwrap(), Some(response));
    let CacheCounts { hits, misses, fills, errors, .. } = cache.counts();
    assert_eq!((hits, misses, fills, errors), (1, 1, 1, 0));
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn key_of_a_request_that_was_rolled_back_is_free() {
    let mut place = Place::new().await;
    let (course, organization) = (place.course, place.organization);
    let twin = place.database.connect().await;
    let transaction = place.client.transaction().await.unwrap();
    let first =
        start(transaction.client(), course, organization, "pending", "key", JOB).await.unwrap();
    let waiting = tokio::spawn(async move {
        start(&twin, course, organization, "pending", "key", JOB).await.unwrap()
    });
    transaction.rollback().await.unwrap();
    let second = waiting.await.unwrap();
    assert_ne!(first["eventId"], second["eventId"]);
    assert_eq!(place.counts().await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn steps_have_keys_too() {
    let place = Place::new().await;
    place.start("pending", "start", "[]").await.unwrap();
    let call = "select posthaste.transition('course', $1, 'stage_2_init', idempotency_key => 'step', \
                organization_id => $2, messages => $3::text::json)::text";
    let (course, organization) = (place.course.to_string(), place.organization.to_string());
    let first = super::answer(&place.client, call, &[&course, &organization, &JOB]).await.unwrap();
    let repeat = super::answer(&place.client, call, &[&course, &organization, &JOB]).await.unwrap();
    assert_eq!(first.to_string(), repeat.to_string());
    assert_eq!(place.counts().await, [1, 2, 2, 1]);
}
