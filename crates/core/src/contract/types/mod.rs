//! A contract as types of other languages, for those who send and read its payloads.
//!
//! The same contract always gives the same text. Types say less than schemas: limits, patterns and
//! conditions are left to the check at run time, and what a language has no type for becomes
//! `unknown`, `Any` or `any` with a comment. No text of a schema gets out of the comment or the
//! string that it stands in.

mod go;
mod model;
mod names;
mod python;
mod text;
mod typescript;

use super::Contract;
use model::Model;

/// A language that types are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// Interfaces and type aliases.
    TypeScript,
    /// `TypedDict`s for Python 3.9 and later, without packages beyond the standard library.
    Python,
    /// Structs of the package `contracts` with JSON tags.
    Go,
}

impl Language {
    /// Every language.
    pub const ALL: [Self; 3] = [Self::TypeScript, Self::Python, Self::Go];

    /// What files in the language end in, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::TypeScript => "ts",
            Self::Python => "py",
            Self::Go => "go",
        }
    }
}

/// The types of `contract` as a file of `language`. The type of the whole payload is named after the
/// schema's title, or else the topic, and the version: `JobsSubmittedV1`.
///
/// # Examples
/// ```
/// use posthaste_core::contract::{Contract, types};
///
/// let schema = serde_json::json!({
///     "type": "object", "required": ["id"], "properties": { "id": { "type": "string" } },
/// });
/// let contract = Contract::new("jobs.submitted", 1, schema)?;
/// let text = types::source(&contract, types::Language::TypeScript);
/// assert!(text.contains("export interface JobsSubmittedV1 {\n  id: string;\n}"));
/// # Ok::<(), posthaste_core::contract::InvalidContract>(())
/// ```
pub fn source(contract: &Contract, language: Language) -> String {
    let model = Model::new(contract);
    match language {
        Language::TypeScript => typescript::write(&model),
        Language::Python => python::write(&model),
        Language::Go => go::write(&model),
    }
}
