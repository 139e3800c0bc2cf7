//! State machines and idempotent commands on PostgreSQL, as any language calls them.

mod attacker;
mod commands;
mod compatibility;
mod crashes;
mod decisions;
mod idempotency;
mod steps;

use posthaste::machine::{Definition, EntityTable, Machine, TransitionDefinition};
use posthaste_testkit::Database;
use serde_json::Value;
use tokio_postgres::{Client, Error, types::ToSql};
use uuid::Uuid;

use crate::support;

/// The application's table, with organisations.
const COURSES: &str = "create table courses (id uuid primary key, organization_id uuid not null)";

/// A database with the machine `course`, and an application's table with a course.
pub(crate) struct Place {
    pub(crate) database: Database,
    pub(crate) client: Client,
    pub(crate) course: Uuid,
    pub(crate) organization: Uuid,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let database = support::postgres().await;
        let client = database.connect().await;
        client.batch_execute(COURSES).await.unwrap();
        push(&client, &course_machine()).await.unwrap();
        let organization = Uuid::now_v7();
        let course = add_course(&client, organization).await;
        Self { database, client, course, organization }
    }

    /// Starts the place's course with a key and messages.
    pub(crate) async fn start(
        &self,
        state: &str,
        key: &str,
        messages: &str,
    ) -> Result<Value, Error> {
        start(&self.client, self.course, self.organization, state, key, messages).await
    }

    pub(crate) async fn go(&self, to: &str) -> Result<Value, Error> {
        let call = "select posthaste.transition('course', $1, $2, organization_id => $3)::text";
        let (course, organization) = (self.course.to_string(), self.organization.to_string());
        answer(&self.client, call, &[&course, &to, &organization]).await
    }

    pub(crate) async fn count(&self, what: &str) -> i64 {
        let sql = format!("select count(*) from {what}");
        self.client.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// State, events, keys and messages: what a step leaves.
    pub(crate) async fn counts(&self) -> [i64; 4] {
        let mut counts = [0; 4];
        for (count, table) in counts.iter_mut().zip(["entity", "state_event", "command", "log"]) {
            *count = self.count(&format!("posthaste.{table}")).await;
        }
        counts
    }
}

pub(crate) async fn add_course(client: &Client, organization: Uuid) -> Uuid {
    let course = Uuid::now_v7();
    client.execute("insert into courses values ($1, $2)", &[&course, &organization]).await.unwrap();
    course
}

pub(crate) async fn start(
    client: &Client,
    course: Uuid,
    organization: Uuid,
    state: &str,
    key: &str,
    messages: &str,
) -> Result<Value, Error> {
    let call = "select posthaste.start_machine('course', $1, $2, $3, 'api', 'user-1', $4, \
                $5::text::json, '{\"title\": \"Sales\"}', 'corr-1')::text";
    let (course, organization) = (course.to_string(), organization.to_string());
    answer(client, call, &[&course, &state, &key, &organization, &messages]).await
}

pub(crate) async fn answer(
    client: &Client,
    call: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Value, Error> {
    let row = client.query_one(call, parameters).await?;
    Ok(serde_json::from_str(row.get(0)).unwrap())
}

pub(crate) async fn push(client: &Client, machine: &Machine) -> Result<(), Error> {
    let definition = serde_json::to_string(machine).unwrap();
    client.execute("select posthaste.push_machine($1::text::jsonb)", &[&definition]).await.map(drop)
}

/// The code and the text of a refusal.
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> (String, String) {
    let error = outcome.unwrap_err();
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

pub(crate) fn course_machine() -> Machine {
    let step = |from: &str, to: &str| TransitionDefinition::new([from], to);
    let states = [
        "pending",
        "stage_2_init",
        "stage_2_processing",
        "stage_2_complete",
        "stage_4_init",
        "failed",
    ];
    let definition = Definition {
        entity: Some(EntityTable {
            table: "public.courses".to_owned(),
            key: "id".to_owned(),
            organization: Some("organization_id".to_owned()),
        }),
        states: states.map(str::to_owned).to_vec(),
        initial: ["pending", "stage_2_init", "stage_4_init"].map(str::to_owned).to_vec(),
        terminal: vec!["failed".to_owned()],
        transitions: vec![
            step("pending", "stage_2_init"),
            step("stage_2_init", "stage_2_processing"),
            TransitionDefinition {
                messages: vec!["courses.stage_2".to_owned()],
                ..step("stage_2_processing", "stage_2_complete")
            },
            step("stage_2_complete", "stage_4_init"),
            TransitionDefinition { requires: vec!["reason".to_owned()], ..step("*", "failed") },
        ],
        ..Definition::new("course")
    };
    Machine::try_from(definition).unwrap()
}
