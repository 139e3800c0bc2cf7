//! The application's rows, and what it reads of Posthaste's. The SQL is the same on both databases but for what
//! [`Dialect`] says.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, Value};

use crate::{
    courses::{NewCourse, StateEvent},
    messages::Style,
    stages::{MACHINE, PENDING},
    writing::Structure,
};

/// What a handler needs to know of a course.
#[derive(Clone, Debug)]
pub(crate) struct CourseRow {
    pub(crate) title: String,
    pub(crate) style: Style,
    pub(crate) requirements: Option<String>,
    pub(crate) topics: Vec<String>,
    pub(crate) documents: u64,
}

/// Where the two databases differ.
struct Dialect {
    /// What names of Posthaste's tables begin with.
    prefix: &'static str,
    /// Keeps a row from changing until the transaction ends. On SQLite it has begun as the only writer.
    lock: &'static str,
    /// The time of a state event, as microseconds since 1970.
    at: &'static str,
}

impl Dialect {
    fn of(connection: &impl ConnectionTrait) -> Self {
        match connection.get_database_backend() {
            DbBackend::Postgres => Self {
                prefix: "posthaste.",
                lock: " for update",
                at: "(extract(epoch from at) * 1000000)::bigint",
            },
            _ => Self { prefix: "posthaste_", lock: "", at: "at" },
        }
    }
}

fn statement(connection: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Statement {
    Statement::from_sql_and_values(connection.get_database_backend(), sql, values)
}

async fn row(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<Option<QueryResult>, DbErr> {
    connection.query_one_raw(statement(connection, sql, values)).await
}

async fn execute(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<u64, DbErr> {
    Ok(connection.execute_raw(statement(connection, sql, values)).await?.rows_affected())
}

fn unreadable(what: &str) -> DbErr {
    DbErr::Custom(what.to_owned())
}

pub(crate) async fn insert(
    connection: &impl ConnectionTrait,
    course: &NewCourse,
) -> Result<(), DbErr> {
    let insert = "insert into course (id, title, style, requirements, documents_left) \
                  values ($1, $2, $3, $4, $5)";
    let count = i32::try_from(course.files.len()).unwrap_or(i32::MAX);
    let style = course.style.name();
    let values = vec![
        course.id.as_str().into(),
        course.title.as_str().into(),
        style.into(),
        course.requirements.clone().into(),
        count.into(),
    ];
    execute(connection, insert, values).await?;
    for file in &course.files {
        let insert = "insert into course_document (course_id, name, content) values ($1, $2, $3)";
        let values =
            vec![course.id.as_str().into(), file.name.as_str().into(), file.text.as_str().into()];
        execute(connection, insert, values).await?;
    }
    Ok(())
}

/// The course's state, if there is such a course; steps of it wait until the transaction ends.
///
/// All that moves a course locks it first: whoever reads the state then decides on what stays true.
pub(crate) async fn lock(
    connection: &impl ConnectionTrait,
    course: &str,
) -> Result<Option<(String, bool)>, DbErr> {
    let lock = Dialect::of(connection).lock;
    let sql = format!("select id from course where id = $1{lock}");
    if row(connection, &sql, vec![course.into()]).await?.is_none() {
        return Ok(None);
    }
    Ok(Some(match state(connection, course).await? {
        Some(state) => (state, true),
        None => (PENDING.to_owned(), false),
    }))
}

/// Where the course's machine is, if it has begun.
pub(crate) async fn state(
    connection: &impl ConnectionTrait,
    course: &str,
) -> Result<Option<String>, DbErr> {
    let prefix = Dialect::of(connection).prefix;
    let sql = format!("select state from {prefix}entity where machine = $1 and entity_id = $2");
    let row = row(connection, &sql, vec![MACHINE.into(), course.into()]).await?;
    row.map(|row| row.try_get_by_index(0)).transpose()
}

pub(crate) async fn course(
    connection: &impl ConnectionTrait,
    course: &str,
) -> Result<Option<CourseRow>, DbErr> {
    let sql = "select title, style, requirements, analysis, \
               (select count(*) from course_document d where d.course_id = course.id) \
               from course where id = $1";
    let Some(row) = row(connection, sql, vec![course.into()]).await? else { return Ok(None) };
    let style: String = row.try_get_by_index(1)?;
    let analysis: Option<String> = row.try_get_by_index(3)?;
    let topics = analysis.map(|text| serde_json::from_str(&text)).transpose();
    Ok(Some(CourseRow {
        title: row.try_get_by_index(0)?,
        style: Style::find(&style).ok_or_else(|| unreadable("a course of an unknown style"))?,
        requirements: row.try_get_by_index(2)?,
        topics: topics
            .map_err(|_| unreadable("an analysis that is no list of texts"))?
            .unwrap_or_default(),
        documents: row.try_get_by_index::<i64>(4)?.unsigned_abs(),
    }))
}

/// The names of a course's documents.
pub(crate) async fn documents(
    connection: &impl ConnectionTrait,
    course: &str,
) -> Result<Vec<String>, DbErr> {
    let sql = "select name from course_document where course_id = $1 order by name";
    texts(connection, sql, course).await
}

/// What is known of its documents, in the order of their names.
pub(crate) async fn summaries(
    connection: &impl ConnectionTrait,
    course: &str,
) -> Result<Vec<String>, DbErr> {
    let sql = "select summary from course_document where course_id = $1 \
               and summary is not null order by name";
    texts(connection, sql, course).await
}

async fn texts(
    connection: &impl ConnectionTrait,
    sql: &str,
    course: &str,
) -> Result<Vec<String>, DbErr> {
    let rows = connection.query_all_raw(statement(connection, sql, vec![course.into()])).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// What a document says.
pub(crate) async fn content(
    connection: &impl ConnectionTrait,
    course: &str,
    document: &str,
) -> Result<Option<String>, DbErr> {
    let sql = "select content from course_document where course_id = $1 and name = $2";
    let row = row(connection, sql, vec![course.into(), document.into()]).await?;
    row.map(|row| row.try_get_by_index(0)).transpose()
}

/// Writes a summary down and answers how many documents are left, or nothing if it was there already.
///
/// Two documents that end at the same time count one after the other: the course is [locked](lock).
pub(crate) async fn summarise(
    connection: &impl ConnectionTrait,
    course: &str,
    document: &str,
    summary: &str,
) -> Result<Option<i32>, DbErr> {
    let sql = "update course_document set summary = $3 \
               where course_id = $1 and name = $2 and summary is null";
    let values = vec![course.into(), document.into(), summary.into()];
    if execute(connection, sql, values).await? == 0 {
        return Ok(None);
    }
    let sql = "update course set documents_left = documents_left - 1 where id = $1 \
               returning documents_left";
    let row = row(connection, sql, vec![course.into()]).await?;
    row.map(|row| row.try_get_by_index(0)).transpose()
}

pub(crate) async fn set_topics(
    connection: &impl ConnectionTrait,
    course: &str,
    topics: &[String],
) -> Result<(), DbErr> {
    set(connection, "analysis", course, &topics).await
}

pub(crate) async fn set_structure(
    connection: &impl ConnectionTrait,
    course: &str,
    structure: &Structure,
) -> Result<(), DbErr> {
    set(connection, "structure", course, structure).await
}

async fn set(
    connection: &impl ConnectionTrait,
    column: &str,
    course: &str,
    value: &impl serde::Serialize,
) -> Result<(), DbErr> {
    let text = serde_json::to_string(value).map_err(|error| unreadable(&error.to_string()))?;
    let sql = format!("update course set {column} = $2 where id = $1");
    execute(connection, &sql, vec![course.into(), text.into()]).await.map(drop)
}

pub(crate) async fn structure(
    connection: &impl ConnectionTrait,
    course: &str,
) -> Result<Option<Structure>, DbErr> {
    let sql = "select structure from course where id = $1";
    let Some(row) = row(connection, sql, vec![course.into()]).await? else { return Ok(None) };
    let text: Option<String> = row.try_get_by_index(0)?;
    let structure = text.map(|text| serde_json::from_str(&text)).transpose();
    structure.map_err(|_| unreadable("a structure that cannot be read"))
}

/// The trail of a course, in the order of its steps.
pub(crate) async fn events(
    connection: &impl ConnectionTrait,
    course: &str,
) -> Result<Vec<StateEvent>, DbErr> {
    let Dialect { prefix, at, .. } = Dialect::of(connection);
    let sql = format!(
        "select to_state, initiated_by, {at} from {prefix}state_event \
         where machine = $1 and entity_id = $2 order by version"
    );
    let values = vec![MACHINE.into(), course.into()];
    let rows = connection.query_all_raw(statement(connection, &sql, values)).await?;
    let event = |row: &QueryResult| {
        Ok(StateEvent {
            state: row.try_get_by_index(0)?,
            by: row.try_get_by_index::<Option<String>>(1)?.unwrap_or_default(),
            at_us: row.try_get_by_index(2)?,
        })
    };
    rows.iter().map(event).collect()
}

/// How many of a course's messages are in the log, and how many of them are published.
pub(crate) async fn published(
    connection: &impl ConnectionTrait,
    course: &str,
) -> Result<(i64, i64), DbErr> {
    let prefix = Dialect::of(connection).prefix;
    let sql = format!(
        "select count(*), count(published_at) from {prefix}outbox where correlation_id = $1"
    );
    let row = row(connection, &sql, vec![course.into()]).await?;
    let row = row.ok_or_else(|| unreadable("the database counts nothing"))?;
    Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?))
}
