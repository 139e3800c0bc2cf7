//! What workers do. Each handler notes that its stage is being worked on, does the work outside of any transaction, and
//! then has everything that follows in one: the end of its own job, the effect, the step and the next stage's job.

use posthaste::{Delivery, Step};
use posthaste_worker::{Answer, Done, Failed, Task};
use sea_orm::DatabaseTransaction;

use crate::{
    courses::{CourseError, Courses, lock},
    messages::{AnalyzeStructure, GenerateStructure, InvalidPayload, Payload, ProcessDocument},
    rows::{self, CourseRow},
    stages::{FAILED, MACHINE, Progress, Stage},
    writing,
};

/// Whoever takes the steps of handlers.
const WORKER: &str = "worker";

/// Handles one kind of job.
pub(crate) trait Handle: Payload {
    /// Runs one attempt.
    fn handle(self, courses: &Courses, task: &Task) -> impl Future<Output = Answer> + Send;
}

/// Reads the payload of a task and handles it. One that cannot be read will never be: it is rejected.
pub(crate) async fn run<P: Handle>(courses: Courses, task: Task) -> Answer {
    match P::read(&task.message().payload) {
        Ok(payload) => payload.handle(&courses, &task).await,
        Err(invalid) => Err(Failed::reject(invalid.to_string())),
    }
}

impl Handle for ProcessDocument {
    async fn handle(self, courses: &Courses, task: &Task) -> Answer {
        courses.work_begins(Self::STAGE, &self.course).await?;
        // Through another connection than the writer's: what was committed with the job is there.
        let pool = &courses.database().pool;
        let Some(text) = rows::content(pool, &self.course, &self.document).await? else {
            let Self { course, document } = &self;
            return Err(Failed::reject(format!("course {course:?} has no document {document:?}")));
        };
        let Some(ending) = Ending::begin(courses, task, Self::STAGE, &self.course).await? else {
            return Ok(Done::default());
        };
        let Some(summary) = writing::summary(&text) else {
            ending.fail(&format!("the document {} says nothing", self.document)).await?;
            return Ok(Done::default());
        };
        let transaction = &ending.transaction;
        let left = rows::summarise(transaction, &self.course, &self.document, summary).await?;
        if left == Some(0) {
            ending.complete().await?;
            ending.go_on(&AnalyzeStructure { course: self.course }).await?;
        }
        ending.commit().await
    }
}

impl Handle for AnalyzeStructure {
    async fn handle(self, courses: &Courses, task: &Task) -> Answer {
        courses.work_begins(Self::STAGE, &self.course).await?;
        let row = courses.row(&self.course).await?;
        let summaries = courses.summaries(&self.course).await?;
        let texts = summaries.iter().chain(&row.requirements).map(String::as_str);
        let topics = writing::topics(&texts.collect::<Vec<_>>());
        let Some(ending) = Ending::begin(courses, task, Self::STAGE, &self.course).await? else {
            return Ok(Done::default());
        };
        rows::set_topics(&ending.transaction, &self.course, &topics).await?;
        ending.complete().await?;
        ending.go_on(&GenerateStructure { course: self.course, style: row.style }).await?;
        ending.commit().await
    }
}

impl Handle for GenerateStructure {
    async fn handle(self, courses: &Courses, task: &Task) -> Answer {
        courses.work_begins(Self::STAGE, &self.course).await?;
        let row = courses.row(&self.course).await?;
        let structure = writing::structure(&row.title, self.style, &row.topics);
        let Some(ending) = Ending::begin(courses, task, Self::STAGE, &self.course).await? else {
            return Ok(Done::default());
        };
        rows::set_structure(&ending.transaction, &self.course, &structure).await?;
        ending.complete().await?;
        ending.commit().await
    }
}

impl Courses {
    /// Shows that a stage is being worked on, in a transaction of its own: once, whichever of its jobs is first.
    async fn work_begins(&self, stage: Stage, course: &str) -> Result<(), CourseError> {
        let transaction = self.begin().await?;
        let (state, _) = lock(&transaction, course).await?;
        if stage.at(&state) == Progress::Begun {
            let step = Step::new(MACHINE, course, stage.working()).from(stage.init()).by(WORKER);
            self.machines.transition(&transaction, &step.correlation_id(course)).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn row(&self, course: &str) -> Result<CourseRow, CourseError> {
        let row = rows::course(&self.database().pool, course).await?;
        row.ok_or_else(|| CourseError::Unknown(course.to_owned()))
    }
}

/// The transaction that ends a job. Dropped without a commit, it leaves nothing behind.
struct Ending<'a> {
    courses: &'a Courses,
    transaction: DatabaseTransaction,
    stage: Stage,
    course: String,
}

impl<'a> Ending<'a> {
    /// Begins it: nothing if the job has had its effect, or if nothing is left to do for it.
    async fn begin(
        courses: &'a Courses,
        task: &Task,
        stage: Stage,
        course: &str,
    ) -> Result<Option<Self>, Failed> {
        let transaction = courses.begin().await?;
        if task.settle(&transaction, None).await? == Delivery::Repeat {
            transaction.commit().await?;
            return Ok(None);
        }
        let (state, _) = lock(&transaction, course).await?;
        match stage.at(&state) {
            Progress::Working => {
                Ok(Some(Self { courses, transaction, stage, course: course.to_owned() }))
            }
            Progress::Past => {
                transaction.commit().await?;
                Ok(None)
            }
            Progress::Before | Progress::Begun => {
                let topic = stage.topic();
                Err(Failed::retry(format!(
                    "course {course:?} is in {state}: too early for {topic}"
                )))
            }
        }
    }

    fn step(&self, state: &str) -> Step {
        Step::new(MACHINE, &self.course, state).by(WORKER).correlation_id(&self.course)
    }

    /// The stage is complete.
    async fn complete(&self) -> Result<(), CourseError> {
        let step = self.step(self.stage.complete());
        self.courses.machines.transition(&self.transaction, &step).await?;
        Ok(())
    }

    /// The next stage begins, with its job.
    async fn go_on<P: Payload>(&self, payload: &P) -> Result<(), CourseError> {
        let step = self.step(P::STAGE.init());
        self.courses.machines.transition(&self.transaction, &step).await?;
        self.courses.submit(&self.transaction, &payload.job()?).await?;
        Ok(())
    }

    /// The course cannot be generated: that is how the job ends, and no attempt would change it.
    async fn fail(self, reason: &str) -> Result<(), CourseError> {
        let step = self.step(FAILED).metadata("reason", reason);
        self.courses.machines.transition(&self.transaction, &step).await?;
        Ok(self.transaction.commit().await?)
    }

    async fn commit(self) -> Answer {
        self.transaction.commit().await?;
        Ok(Done::default())
    }
}

/// The course of a payload, for the layers that look at it before it is handled.
pub(crate) fn course_of<P: Payload>(payload: &[u8]) -> Result<String, InvalidPayload> {
    Ok(P::read(payload)?.course().to_owned())
}
