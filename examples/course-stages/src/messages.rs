//! What the jobs say: one type per topic, shared by whoever submits and whoever handles, and checked on both sides.

use posthaste::{Message, NewJob};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::stages::Stage;

/// Attempts that a job may have.
const ATTEMPTS: u32 = 5;
/// Of names and ids: the token of a job is made of two of them, and may have 256.
const NAME_BYTES_MAX: usize = 100;

/// The payload of a job.
pub trait Payload: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Whose jobs it belongs to.
    const STAGE: Stage;

    /// The course.
    fn course(&self) -> &str;

    /// What tells its job from others of the course and the stage.
    fn part(&self) -> Option<&str> {
        None
    }

    /// Reads and checks a payload.
    ///
    /// # Errors
    /// The first field that is missing, unknown or out of bounds, by its name.
    fn read(payload: &[u8]) -> Result<Self, InvalidPayload> {
        let fault = |fault: String| InvalidPayload { topic: Self::STAGE.topic(), fault };
        let payload: Self =
            serde_json::from_slice(payload).map_err(|error| fault(error.to_string()))?;
        payload.check().map_err(fault)?;
        Ok(payload)
    }

    /// Checks what serde does not know.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    fn check(&self) -> Result<(), String> {
        check_name("course", self.course())
    }

    /// Its job. The token has it submitted once, whoever submits it; without an ordering key the jobs of a
    /// course run side by side.
    ///
    /// # Errors
    /// As [`read`](Self::read): nothing is written that could not be read.
    fn job(&self) -> Result<NewJob, InvalidPayload> {
        let topic = Self::STAGE.topic();
        self.check().map_err(|fault| InvalidPayload { topic, fault })?;
        let message = Message::new(topic)
            .correlation_id(self.course())
            .token(format!("{topic}/{}/{}", self.course(), self.part().unwrap_or_default()))
            .json(self);
        Ok(NewJob::of(message).attempts(ATTEMPTS))
    }
}

/// A payload that is not what its topic says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{topic}: {fault}")]
pub struct InvalidPayload {
    topic: &'static str,
    fault: String,
}

/// `document.process`: one document of a course.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessDocument {
    /// The course.
    pub course: String,
    /// The document's name.
    pub document: String,
}

/// `structure.analyze`: what a course is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalyzeStructure {
    /// The course.
    pub course: String,
}

/// `structure.generate`: the course itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateStructure {
    /// The course.
    pub course: String,
    /// How it is written.
    pub style: Style,
}

/// How a course is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// Terms first.
    Academic,
    /// As one talks.
    Conversational,
    /// As a story.
    Storytelling,
    /// By exercises.
    Practical,
}

impl Style {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Academic, Self::Conversational, Self::Storytelling, Self::Practical];

    /// As it is written down.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Academic => "academic",
            Self::Conversational => "conversational",
            Self::Storytelling => "storytelling",
            Self::Practical => "practical",
        }
    }

    /// Reads what [`name`](Self::name) says.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|style| style.name() == name)
    }
}

impl Payload for ProcessDocument {
    const STAGE: Stage = Stage::Documents;

    fn course(&self) -> &str {
        &self.course
    }

    fn part(&self) -> Option<&str> {
        Some(&self.document)
    }

    fn check(&self) -> Result<(), String> {
        check_name("course", &self.course)?;
        check_name("document", &self.document)
    }
}

impl Payload for AnalyzeStructure {
    const STAGE: Stage = Stage::Structure;

    fn course(&self) -> &str {
        &self.course
    }
}

impl Payload for GenerateStructure {
    const STAGE: Stage = Stage::Generation;

    fn course(&self) -> &str {
        &self.course
    }
}

/// Checks a name or an id.
///
/// # Errors
/// What it must be, with the field's name.
pub(crate) fn check_name(field: &str, value: &str) -> Result<(), String> {
    let is_bounded = (1..=NAME_BYTES_MAX).contains(&value.len());
    if is_bounded && !value.chars().any(char::is_control) {
        return Ok(());
    }
    let rule = format!("1 to {NAME_BYTES_MAX} bytes without control characters");
    Err(format!("{field} must be {rule}, not {value:.40?}"))
}
