//! The courses of the end-to-end test T053, and how one of them is generated and waited for.

use std::time::Duration;

use posthaste_core::describe;
use tokio::time::{Instant, sleep};

use crate::{
    courses::{CourseError, Courses, File, Initiate, Initiated, NewCourse, StateEvent},
    messages::Style,
    service::Service,
    stages::{COMPLETE, FAILED},
    writing::Structure,
};

/// Between two looks at a course that is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const FILES: [(&str, &str); 4] = [
    (
        "1-listening.md",
        "Synergy begins with listening. A customer who is listened to says what a sale needs.",
    ),
    (
        "2-trust.md",
        "Trust is earned in small steps. A customer trusts whoever keeps a small promise.",
    ),
    (
        "3-price.md",
        "A price is an answer. Customers ask about the price when the value is not clear.",
    ),
    ("4-team.md", "Synergy is a team that sells together. Together a team hears more."),
];

/// What is played, and with which course.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// For people.
    pub name: String,
    /// The course.
    pub course: NewCourse,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command's answer.
    pub initiated: Initiated,
    /// The steps of the course.
    pub events: Vec<StateEvent>,
    /// Its documents' summaries.
    pub summaries: Vec<String>,
    /// The course as it was written.
    pub structure: Structure,
}

/// Why a course did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The application refused.
    #[error("{}", describe(.0))]
    Course(#[from] CourseError),
    /// It ended elsewhere.
    #[error("the course ended in {0}")]
    Failed(String),
    /// It is still under way, or the service has ended.
    #[error("the course is still in {state} after {waited:?}")]
    Late {
        /// Where it is.
        state: String,
        /// For how long it was waited.
        waited: Duration,
    },
}

/// A course with a title alone.
pub fn title_only(id: &str) -> NewCourse {
    let (id, title) = (id.to_owned(), "Synergy in Sales".to_owned());
    NewCourse { id, title, style: Style::Conversational, requirements: None, files: Vec::new() }
}

/// A course with four files: the full pipeline.
pub fn with_files(id: &str) -> NewCourse {
    let file = |(name, text): (&str, &str)| File { name: name.to_owned(), text: text.to_owned() };
    let files = FILES.into_iter().map(file).collect();
    NewCourse { style: Style::Practical, files, ..title_only(id) }
}

/// A course without files of which more is said than its title.
pub fn without_files(id: &str) -> NewCourse {
    let requirements = "Listening to customers, trust of customers, and what follows from trust.";
    NewCourse { requirements: Some(requirements.to_owned()), ..title_only(id) }
}

/// A course of a style.
pub fn of_style(id: &str, style: Style) -> NewCourse {
    NewCourse { style, ..title_only(id) }
}

/// All that the example plays; the courses' ids begin with `run`.
pub fn all(run: &str) -> Vec<Scenario> {
    let scenario = |name: &str, course| Scenario { name: name.to_owned(), course };
    let mut all = vec![
        scenario("1: a title only", title_only(&format!("{run}-title"))),
        scenario("2: full pipeline with four files", with_files(&format!("{run}-files"))),
        scenario("2b: full pipeline without files", without_files(&format!("{run}-plain"))),
    ];
    all.extend(Style::ALL.map(|style| {
        let course = of_style(&format!("{run}-{}", style.name()), style);
        scenario(&format!("3: style {}", style.name()), course)
    }));
    all
}

/// Uploads a course, has it generated and waits for its end.
///
/// # Errors
/// The application refuses, the course fails, the service ends, or the course takes longer than `limit`.
pub async fn play(
    courses: &Courses,
    service: &Service,
    course: &NewCourse,
    limit: Duration,
) -> Result<Outcome, ScenarioError> {
    courses.upload(course).await?;
    let request = Initiate {
        course: course.id.clone(),
        user: "teacher".to_owned(),
        idempotency_key: format!("generate {}", course.id),
    };
    let initiated = courses.initiate(&request).await?;
    let began = Instant::now();
    loop {
        let state = courses.state(&course.id).await?;
        if state == COMPLETE {
            break;
        }
        if state == FAILED {
            return Err(ScenarioError::Failed(state));
        }
        if began.elapsed() >= limit || service.has_failed() {
            return Err(ScenarioError::Late { state, waited: began.elapsed() });
        }
        sleep(LOOK_INTERVAL).await;
    }
    let structure = courses.structure(&course.id).await?;
    let structure = structure.ok_or_else(|| CourseError::Unknown(course.id.clone()))?;
    let (events, summaries) =
        (courses.events(&course.id).await?, courses.summaries(&course.id).await?);
    Ok(Outcome { initiated, events, summaries, structure })
}
