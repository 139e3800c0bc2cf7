//! What the application does with courses: the commands, which are the first layer, the other layers' check, and
//! what people look at. Handlers are in `handlers.rs`.

use std::time::Duration;

use posthaste::{Begun, Command, CommandError, Commands, JobId, Jobs, Machines, NewJob, Step};
use posthaste_store::StoreError;
use sea_orm::{
    DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait as _,
};
use serde::{Deserialize, Serialize};

use crate::{
    database::Database,
    messages::{
        AnalyzeStructure, GenerateStructure, InvalidPayload, Payload as _, ProcessDocument, Style,
        check_name,
    },
    rows,
    stages::{Layer, MACHINE, PENDING, Stage},
    writing::Structure,
};

/// A request stands and falls with its transaction: this is never waited for.
const LEASE: Duration = Duration::from_mins(1);

/// The application. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Courses {
    pub(crate) database: Database,
    pub(crate) machines: Machines,
    pub(crate) jobs: Jobs,
    commands: Commands,
}

/// A course as it is uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCourse {
    /// 1 to 100 bytes.
    pub id: String,
    /// 1 to 100 bytes.
    pub title: String,
    /// How it is to be written.
    pub style: Style,
    /// What is asked of it, for a course without files that is more than its title.
    #[serde(default)]
    pub requirements: Option<String>,
    /// What it is made from.
    #[serde(default)]
    pub files: Vec<File>,
}

/// A document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// 1 to 100 bytes.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// A request to generate a course.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initiate {
    /// The course.
    pub course: String,
    /// For which user.
    pub user: String,
    /// The request is executed once under this key.
    pub idempotency_key: String,
}

/// What became of a request, the same for every repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Initiated {
    /// The course.
    pub entity_id: String,
    /// Where it is since.
    pub fsm_state: String,
    /// Its jobs.
    pub outbox_entries: Vec<OutboxEntry>,
}

/// A job of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// The job's id.
    pub outbox_id: JobId,
    /// Its topic.
    pub topic: String,
}

/// A step that a course has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEvent {
    /// Where it led.
    pub state: String,
    /// Who asked for it.
    pub by: String,
    /// When, in microseconds since 1970, by the database's clock.
    pub at_us: i64,
}

/// Why the application did not do what it was asked. Nothing of it has happened then.
#[derive(Debug, thiserror::Error)]
pub enum CourseError {
    /// The request is not what it must be; the text names the field.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// A job would not be what its topic says.
    #[error(transparent)]
    Payload(#[from] InvalidPayload),
    /// There is no such course.
    #[error("there is no course {0:?}")]
    Unknown(String),
    /// Its state does not allow it, or the request is another one's, or the database failed in it.
    #[error("the course was not changed")]
    Command(#[from] CommandError),
    /// The database failed, or did not answer in time.
    #[error("the database did not do it")]
    Database(#[from] DbErr),
    /// The database failed on the side of relay and worker.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NewCourse {
    /// Reads and checks a course.
    ///
    /// # Errors
    /// The first field that is missing, unknown or out of bounds, by its name.
    pub fn from_json(json: &[u8]) -> Result<Self, CourseError> {
        serde_json::from_slice(json).map_err(|error| CourseError::Invalid(error.to_string()))
    }

    fn check(&self) -> Result<(), CourseError> {
        let mut names = vec![("id", &self.id), ("title", &self.title)];
        names.extend(self.files.iter().map(|file| ("files.name", &file.name)));
        let checked = names.into_iter().try_for_each(|(field, value)| check_name(field, value));
        checked.map_err(CourseError::Invalid)
    }
}

impl Initiate {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// The first field that is missing, unknown or out of bounds, by its name.
    pub fn from_json(json: &[u8]) -> Result<Self, CourseError> {
        let request: Self = serde_json::from_slice(json)
            .map_err(|error| CourseError::Invalid(error.to_string()))?;
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), CourseError> {
        let fields = [
            ("course", &self.course),
            ("user", &self.user),
            ("idempotency_key", &self.idempotency_key),
        ];
        let checked = fields.into_iter().try_for_each(|(field, value)| check_name(field, value));
        checked.map_err(CourseError::Invalid)
    }
}

impl Courses {
    /// The application on a database.
    pub fn new(database: Database) -> Self {
        Self {
            database,
            machines: Machines::default(),
            jobs: Jobs::default(),
            commands: Commands::default(),
        }
    }

    /// Its connections.
    pub const fn database(&self) -> &Database {
        &self.database
    }

    /// Keeps a course and its files, to be initiated later.
    ///
    /// # Errors
    /// A field is out of bounds, there is such a course, or the database failed.
    pub async fn upload(&self, course: &NewCourse) -> Result<(), CourseError> {
        course.check()?;
        let transaction = self.begin().await?;
        rows::insert(&transaction, course).await?;
        let step = Step::new(MACHINE, &course.id, PENDING).by("api").correlation_id(&course.id);
        self.machines.start(&transaction, &step).await?;
        Ok(transaction.commit().await?)
    }

    /// Has a course generated: its first stage, the jobs of that and the answer under the idempotency key, in one
    /// transaction. With files it begins with them, without files with what is asked of it, and else with
    /// its title. A repeat gets the first answer.
    ///
    /// # Errors
    /// A field is out of bounds, there is no such course, it is being generated already, the key stands for another
    /// request, or the database failed.
    pub async fn initiate(&self, request: &Initiate) -> Result<Initiated, CourseError> {
        request.check()?;
        let body =
            serde_json::to_vec(request).map_err(|error| CourseError::Invalid(error.to_string()))?;
        let command = Command::new("courses.initiate", &request.idempotency_key, &body);
        let transaction = self.begin().await?;
        match self.commands.begin(&transaction, &command, LEASE).await? {
            Begun::First | Begun::TakenOver => {}
            Begun::Repeat(answer) => return read(&answer),
            Begun::InProgress { .. } => {
                return Err(CourseError::Invalid(
                    "the request is in progress elsewhere".to_owned(),
                ));
            }
        }
        let initiated = self.execute(&transaction, request).await?;
        let answer = serde_json::to_vec(&initiated)
            .map_err(|error| CourseError::Invalid(error.to_string()))?;
        self.commands.complete(&transaction, &command, &answer).await?;
        transaction.commit().await?;
        Ok(initiated)
    }

    async fn execute(
        &self,
        transaction: &DatabaseTransaction,
        request: &Initiate,
    ) -> Result<Initiated, CourseError> {
        let course = &request.course;
        let (_, has_begun) = lock(transaction, course).await?;
        let unknown = || CourseError::Unknown(course.clone());
        let row = rows::course(transaction, course).await?.ok_or_else(unknown)?;
        let (stage, jobs) = if row.documents > 0 {
            let documents = rows::documents(transaction, course).await?;
            let job = |document| ProcessDocument { course: course.clone(), document }.job();
            (Stage::Documents, documents.into_iter().map(job).collect::<Result<Vec<_>, _>>()?)
        } else if row.requirements.is_some() {
            (Stage::Structure, vec![AnalyzeStructure { course: course.clone() }.job()?])
        } else {
            let message = GenerateStructure { course: course.clone(), style: row.style };
            (Stage::Generation, vec![message.job()?])
        };
        let step = Step::new(MACHINE, course, stage.init()).by("api").user(&request.user);
        self.enter(transaction, step.correlation_id(course), has_begun).await?;
        let mut outbox_entries = Vec::with_capacity(jobs.len());
        for job in &jobs {
            let topic = job.message().topic().to_owned();
            outbox_entries
                .push(OutboxEntry { outbox_id: self.submit(transaction, job).await?, topic });
        }
        let fsm_state = stage.init().to_owned();
        Ok(Initiated { entity_id: course.clone(), fsm_state, outbox_entries })
    }

    /// Layers two and three: starts the machine of a course for which a job of `stage` has arrived, if it is missing;
    /// answers whether it was. Twice is as good as once.
    ///
    /// # Errors
    /// There is no such course, the stage cannot begin where it is, or the database failed.
    pub async fn ensure_begun(
        &self,
        layer: Layer,
        stage: Stage,
        course: &str,
    ) -> Result<bool, CourseError> {
        let transaction = self.begin().await?;
        let (state, has_begun) = lock(&transaction, course).await?;
        if !layer.is_missing(stage, &state) {
            return Ok(false);
        }
        let step = Step::new(MACHINE, course, stage.init()).by(layer.initiator());
        self.enter(&transaction, step.correlation_id(course), has_begun).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The first state of a stage, for a course that may have a machine or not.
    async fn enter(
        &self,
        transaction: &DatabaseTransaction,
        step: Step,
        has_begun: bool,
    ) -> Result<(), CourseError> {
        if has_begun {
            self.machines.transition(transaction, &step).await?;
        } else {
            self.machines.start(transaction, &step).await?;
        }
        Ok(())
    }

    pub(crate) async fn submit(
        &self,
        transaction: &DatabaseTransaction,
        job: &NewJob,
    ) -> Result<JobId, CourseError> {
        Ok(self.jobs.submit(transaction, job).await?)
    }

    /// A transaction that may write from its beginning: on SQLite one that reads first could fail later.
    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        let sqlite_transaction_mode = Some(SqliteTransactionMode::Immediate);
        let options =
            TransactionOptions { sqlite_transaction_mode, ..TransactionOptions::default() };
        self.database.pool.begin_with_options(options).await
    }

    /// Where a course is; `pending` if it has no machine.
    ///
    /// # Errors
    /// The database failed.
    pub async fn state(&self, course: &str) -> Result<String, CourseError> {
        let state = rows::state(&self.database.pool, course).await?;
        Ok(state.unwrap_or_else(|| PENDING.to_owned()))
    }

    /// The steps that a course has taken, in their order.
    ///
    /// # Errors
    /// The database failed.
    pub async fn events(&self, course: &str) -> Result<Vec<StateEvent>, CourseError> {
        Ok(rows::events(&self.database.pool, course).await?)
    }

    /// The course as it was written, if it is.
    ///
    /// # Errors
    /// The database failed.
    pub async fn structure(&self, course: &str) -> Result<Option<Structure>, CourseError> {
        Ok(rows::structure(&self.database.pool, course).await?)
    }

    /// The summaries of a course's documents, one for each that is processed.
    ///
    /// # Errors
    /// The database failed.
    pub async fn summaries(&self, course: &str) -> Result<Vec<String>, CourseError> {
        Ok(rows::summaries(&self.database.pool, course).await?)
    }

    /// How many of a course's messages the outbox holds, and how many of them it has published.
    ///
    /// # Errors
    /// The database failed.
    pub async fn published(&self, course: &str) -> Result<(u64, u64), CourseError> {
        let (all, published) = rows::published(&self.database.pool, course).await?;
        Ok((all.unsigned_abs(), published.unsigned_abs()))
    }
}

/// Keeps a course from changing until the transaction ends. Answers its state, and whether it has a machine.
pub(crate) async fn lock(
    transaction: &DatabaseTransaction,
    course: &str,
) -> Result<(String, bool), CourseError> {
    let locked = rows::lock(transaction, course).await?;
    locked.ok_or_else(|| CourseError::Unknown(course.to_owned()))
}

fn read(answer: &[u8]) -> Result<Initiated, CourseError> {
    serde_json::from_slice(answer).map_err(|error| CourseError::Invalid(error.to_string()))
}
