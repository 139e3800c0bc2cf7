//! Clients that are cut off and a server that is killed, at every step of a request, and callers that
//! ask again with the same key until they are answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use posthaste_testkit::{Database, Postgres};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::{Client, Error, NoTls};
use uuid::Uuid;

use super::{add_course, course_machine, push, start};
use crate::support;

const CALLERS: u64 = 8;
const REQUESTS: u64 = 25;
const KILLS: u64 = 4;
const SEED: u64 = 49;
const JOBS: &str = r#"[{"topic": "a"}, {"topic": "b"}]"#;

/// Where a caller goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begun,
    Started,
    Committing,
    Committed,
    Nowhere,
}

const STEPS: [Step; 5] =
    [Step::Begun, Step::Started, Step::Committing, Step::Committed, Step::Nowhere];

/// A connection whose task ends with the future that uses it.
async fn connect(url: &str) -> Result<(Client, JoinSet<()>), Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let mut task = JoinSet::new();
    task.spawn(async move { drop(connection.await) });
    Ok((client, task))
}

/// One attempt at a request, which ends at `step`: its connection is aborted there.
async fn attempt(url: &str, course: Uuid, organization: Uuid, step: Step) -> Result<bool, Error> {
    let (mut client, mut connection) = connect(url).await?;
    let transaction = client.transaction().await?;
    if step == Step::Begun {
        return Ok(false);
    }
    let key = format!("key of {course}");
    start(transaction.client(), course, organization, "stage_2_init", &key, JOBS).await?;
    match step {
        Step::Started => return Ok(false),
        Step::Committing => {
            // Sent, and its answer is not waited for.
            let commit = transaction.batch_execute("commit");
            let _ = tokio::time::timeout(Duration::from_micros(200), commit).await;
            connection.abort_all();
            return Ok(false);
        }
        _ => transaction.commit().await?,
    }
    Ok(step != Step::Committed)
}

async fn ask_until_answered(
    database: Arc<Database>,
    organization: Uuid,
    mut random: SmallRng,
    courses: Vec<Uuid>,
    done: Arc<AtomicU64>,
) {
    for course in courses {
        loop {
            let step = STEPS[random.random_range(0..STEPS.len())];
            match attempt(database.url(), course, organization, step).await {
                Ok(true) => break,
                Ok(false) => {}
                // The server is away, or ended this transaction: ask again.
                Err(error) => {
                    let refused = error.code().is_some_and(|code| code.code().starts_with("PH"));
                    assert!(!refused, "{error:?}");
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn requests_have_one_effect_whatever_is_killed_when() {
    let postgres = Postgres::start_durable();
    let database = Arc::new(support::postgres_on(&postgres).await);
    let client = database.connect().await;
    client.batch_execute(super::COURSES).await.unwrap();
    push(&client, &course_machine()).await.unwrap();
    let organization = Uuid::now_v7();
    let done = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let mut courses = Vec::new();
        for _ in 0..REQUESTS {
            courses.push(add_course(&client, organization).await);
        }
        let random = SmallRng::seed_from_u64(SEED + caller);
        let (database, done) = (Arc::clone(&database), Arc::clone(&done));
        callers.spawn(ask_until_answered(database, organization, random, courses, done));
    }
    for kill in 1..=KILLS {
        let until = kill * CALLERS * REQUESTS / (KILLS + 1);
        while done.load(Ordering::Relaxed) < until && !callers.is_empty() {
            assert!(callers.try_join_next().is_none_or(|ended| ended.is_ok()));
            sleep(Duration::from_millis(5)).await;
        }
        postgres.kill();
        postgres.restart();
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let client = database.connect().await;
    let whole = "select count(*), count(*) filter (where events = 1 and keys = 1 and messages = 2) from ( \
                 select (select count(*) from posthaste.state_event v where v.entity_id = e.entity_id) events, \
                 (select count(*) from posthaste.command k where k.entity_id = e.entity_id and k.response is not null) keys, \
                 (select count(*) from posthaste.log l where l.key = e.entity_id) messages \
                 from posthaste.entity e) entities";
    let row = client.query_one(whole, &[]).await.unwrap();
    let (entities, whole): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!((entities, whole), ((CALLERS * REQUESTS) as i64, entities), "seed {SEED}");
    let more =
        "select (select count(*) from posthaste.log), (select count(*) from posthaste.command)";
    let row = client.query_one(more, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2 * entities, entities));
}
